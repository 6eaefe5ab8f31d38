"""Forward mode against reverse mode, where a function defines both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault, TwoModed
from gradguard.adapters.base import Problem, Settings
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the

__all__ = ["ForwardMode", "measure"]


@dataclass(frozen=True, kw_only=True)
class ForwardMode(Measurement):
    """The functions whose ``jvp`` and ``backward`` disagree; ``compared`` is how many have both."""

    name: ClassVar[str] = "forward_mode"
    faults: tuple[Fault, ...] = ()
    compared: int = 0


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``forward_mode``."""
    if not isinstance(problem, TwoModed):
        return Unavailable(wanted="forward_mode", reason="a hand-written gradient has no forward mode")
    passes = the(evidence, BackwardPasses)
    if passes is not None and not passes.facts.functions:
        return Unavailable(wanted="forward_mode", reason="no custom function defines jvp")
    faults, compared, reason = problem.forward_mode_faults()
    if not compared:
        return Unavailable(wanted="forward_mode", reason=reason)
    return ForwardMode(faults=faults, compared=compared, reason=reason, path=problem.path)
