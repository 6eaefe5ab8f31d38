"""The same inputs in another memory order: the same value, the same gradient?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault, Relayable
from gradguard.adapters.base import Problem, Settings
from gradguard.measurements.backwards import CHANGES, changes
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Layouts", "measure"]


@dataclass(frozen=True, kw_only=True)
class Layouts(Measurement):
    """What changes with the memory order of the inputs; ``reason`` says what could not be tried."""

    name: ClassVar[str] = "layouts"
    faults: tuple[Fault, ...] = ()


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``layouts``."""
    if not isinstance(problem, Relayable):
        return Unavailable(wanted="layouts", reason="this problem's inputs have one layout")
    if changes(evidence):
        return Unavailable(wanted="layouts", reason=CHANGES)
    faults, reason = problem.layout_faults()
    return Layouts(faults=faults, reason=reason)
