"""Whether outputs depend on other samples or on later positions, where the scenario declares that they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Leaks, Observable
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["LeakTrial", "measure"]


@dataclass(frozen=True, kw_only=True)
class LeakTrial(Measurement):
    """What changed when one sample, or the later positions, were changed."""

    name: ClassVar[str] = "leaks"
    leaks: Leaks


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Two forward passes per declaration, in eval mode."""
    if not isinstance(problem, Observable):
        return Unavailable(wanted="leaks", reason=f"{type(problem).__name__} has no passes to look at")
    found = problem.leaks(seed=settings.seed)
    if found.sample is None and found.future is None:
        return Unavailable(wanted="leaks", reason=found.reason or "nothing was declared")
    return LeakTrial(leaks=found, reason=found.reason)
