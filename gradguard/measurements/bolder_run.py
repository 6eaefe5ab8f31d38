"""The same training at ten times the rate: whether predictions that say nothing of their labels are a matter of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Look, Observable
from gradguard.adapters.training_base import Trace, Trainable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.training_run import TrainingRun

__all__ = ["BOLDER", "BolderRun", "measure"]

BOLDER = 10.0
"""The factor on the rate of every group."""


@dataclass(frozen=True, kw_only=True)
class BolderRun(Measurement):
    """The longest run again, on the same batches and from the same state, at ``BOLDER`` times its rates; a look at its end."""

    name: ClassVar[str] = "bolder_run"
    trace: Trace
    look: Look | None


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Train a fresh copy as long as the longest run was."""
    run = the(evidence, TrainingRun)
    if not isinstance(problem, Trainable) or run is None or run.source != "copy":
        return Unavailable(wanted=BolderRun.name, reason="there is no copy to train again")
    own = (the(evidence, LongRun) or run).trace
    trace = problem.run(len(own.steps), seed=settings.seed, compare=len(own.loss_end), rate_scale=BOLDER, keep="bolder")
    look = problem.look("bolder", seed=settings.seed) if isinstance(problem, Observable) and not trace.stopped else None
    return BolderRun(trace=trace, look=look)
