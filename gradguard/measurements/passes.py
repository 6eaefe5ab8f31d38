"""Looks at the model's passes: in the user's state, and after the training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Look, Observable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.training_run import TrainingRun

__all__ = ["Passes", "measure"]


@dataclass(frozen=True, kw_only=True)
class Passes(Measurement):
    """``start`` is the user's state, ``end`` the state after the run (None where there was none)."""

    name: ClassVar[str] = "passes"
    start: Look
    end: Look | None = None

    @property
    def last(self) -> Look:
        """The latest look."""
        return self.end or self.start


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """One look before, and one after the training run where there was one."""
    if not isinstance(problem, Observable):
        return Unavailable(wanted="passes", reason=f"{type(problem).__name__} has no passes to look at")
    start = problem.look("start", seed=settings.seed)
    run = the(evidence, TrainingRun)
    end = problem.look("end", seed=settings.seed) if run is not None else None
    failures = ", ".join(dict.fromkeys((*start.failures, *(end.failures if end is not None else ()))))
    return Passes(start=start, end=end, reason=f"not looked at: {failures}" if failures else "")
