"""Does the loss depend on blocks that get no gradient? Asked for by the rule on untrained parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Observable
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Dependence", "measure"]


@dataclass(frozen=True, kw_only=True)
class Dependence(Measurement):
    """Relative change of the loss when each block moves by a tenth of its RMS; exactly 0 where it does not depend."""

    name: ClassVar[str] = "dependence"
    changes: Mapping[str, float]


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Six forward passes at most for each block."""
    if not isinstance(problem, Observable):
        return Unavailable(wanted="dependence", reason=f"{type(problem).__name__} has no passes to look at")
    return Dependence(changes=problem.dependence("start", about, seed=settings.seed))
