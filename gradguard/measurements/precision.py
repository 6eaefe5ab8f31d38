"""The gradient in the user's own precision against the lifted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.precision_base import Lowerable, PrecisionFacts
from gradguard.measurements.backwards import CHANGES, changes
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Precision", "measure"]


@dataclass(frozen=True, kw_only=True)
class Precision(Measurement):
    """One native pass beside the lifted one."""

    name: ClassVar[str] = "precision"
    facts: PrecisionFacts


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``precision``."""
    if not isinstance(problem, Lowerable):
        return Unavailable(wanted="precision", reason="a NumPy function is compared lifted to float64 only")
    if changes(evidence):
        return Unavailable(wanted="precision", reason=CHANGES)
    facts = problem.precision_facts(settings.reference)
    if isinstance(facts, str):
        return Unavailable(wanted="precision", reason=facts)
    return Precision(facts=facts, path=f"native, {facts.dtype}")
