"""The same training at a tenth of the rate: whether what was lost at this rate would have been worth something."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.training_base import Trace, Trainable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.training_run import TrainingRun

__all__ = ["GENTLER", "GentlerRun", "measure"]

GENTLER = 0.1
"""The factor on the rate of every group."""
LEARNT = 0.1
"""The gentler run must gain at least this part of its loss, or it says nothing."""


@dataclass(frozen=True, kw_only=True)
class GentlerRun(Measurement):
    """The longest run again, on the same batches and from the same state, at ``GENTLER`` times its rates."""

    name: ClassVar[str] = "gentler_run"
    trace: Trace
    behind: float
    """By how much the run at the set rate ended above this one, in units of what this one gained; 0 within two standard errors
    of the batches, NaN where nothing can be said."""


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Train a fresh copy as long as the longest run was."""
    run = the(evidence, TrainingRun)
    if not isinstance(problem, Trainable) or run is None or run.source != "copy":
        return Unavailable(wanted=GentlerRun.name, reason="there is no copy to train again")
    own = (the(evidence, LongRun) or run).trace
    trace = problem.run(len(own.steps), seed=settings.seed, compare=len(own.loss_end), rate_scale=GENTLER)
    return GentlerRun(trace=trace, behind=_behind(own, trace))


def _behind(own: Trace, gentler: Trace) -> float:
    if own.stopped or gentler.stopped or not own.loss_end or len(own.loss_end) != len(gentler.loss_end):
        return math.nan
    start, after = np.array(gentler.loss_start), np.array(gentler.loss_end)
    gained = float(np.mean(start - after))
    if not gained > LEARNT * abs(float(start.mean())):
        return math.nan
    excess = np.array(own.loss_end) - after
    error = float(excess.std(ddof=1) / math.sqrt(len(excess))) if len(excess) > 1 else 0.0
    mean = float(excess.mean())
    return mean / gained if abs(mean) > 2 * error else 0.0
