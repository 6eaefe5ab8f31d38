"""A range test that is not tricked: every rate from the same state, on several orders of batches, judged against the others.

The usual test lets one run's rate grow: what it shows at a rate depends on all rates before it, one early spike or a negative
loss stops it, and its best rate is that of the last step before trouble. Here each rate has runs of its own, and the one that
is suggested was run longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable
from gradguard.measurements.rate_runs import losses_before, observed, worth_of
from gradguard.measurements.rate_search import LONGER
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict

__all__ = ["RangeTest", "RatePoint", "measure"]

DECADES = (-3, 3)
PER_DECADE = 2
REPEATS = 3
CANDIDATES = 4
"""At most so many rates are run longer, each lower than the one before."""


@dataclass(frozen=True, kw_only=True)
class RatePoint:
    """One rate: the median, lowest and highest gain of its runs that hold, and how many of how many hold.

    ``lost`` of its longer runs diverged: 0, too, where there are none.
    """

    lr: float
    gain: float
    low: float
    high: float
    holds: int
    runs: int
    lost: int = 0

    @property
    def lasts(self) -> bool:
        """Most of its runs hold, and every longer one: in a few steps of small batches, single orders go either way."""
        return 2 * self.holds > self.runs and not self.lost


@dataclass(frozen=True, kw_only=True)
class RangeTest(Measurement):
    """Runs at log-spaced rates, ``REPEATS`` each with other orders of batches; ``longer`` ones at rates worth suggesting.

    ``rates`` are those of every parameter group as set; the rate of a run is that of the first group that moves.
    """

    name: ClassVar[str] = "range_test"
    runs: tuple[RateRun, ...]
    worth: float
    longer: tuple[RateRun, ...] = ()
    rates: tuple[float, ...] = ()

    @property
    def points(self) -> tuple[RatePoint, ...]:
        """One point per rate, ascending."""
        rates = sorted({run.lr for run in self.runs})
        return tuple(self._point(lr) for lr in rates)

    @property
    def suggestion(self) -> RatePoint | None:
        """The lowest rate that lasts, below all of which a longer run diverged, and gains nine tenths of what the best does."""
        points = self.points
        lost = min((p.lr for p in points if p.lost), default=math.inf)
        safe = [p for p in points if p.lasts and p.gain > 0 and p.lr < lost]
        best = max((p.gain for p in safe), default=math.nan)
        return next((p for p in safe if p.gain >= 0.9 * best), None)

    def reason_at(self, run: RateRun) -> str:
        """Why a run counts as diverged, judged against the runs with its own order of batches."""
        return verdict(run, [other for other in self.runs if other.seed == run.seed], self.worth, RateLimits())

    def _point(self, lr: float) -> RatePoint:
        here = [run for run in self.runs if run.lr == lr]
        held = [run.gain for run in here if not self.reason_at(run)]
        gains = held or [math.nan]
        return RatePoint(
            lr=lr, gain=float(np.median(gains)), low=min(gains), high=max(gains), holds=len(held), runs=len(here),
            lost=sum(bool(self.reason_at(run)) for run in self.longer if run.lr == lr),
        )

    def tables(self) -> dict[str, Table]:
        """The table ``rates``."""
        return {
            "rates": [
                {
                    "lr": run.lr, "batch": run.batch, "seed": run.seed, "loss_before": float(np.mean(run.before[run.tail])),
                    "loss_after": math.inf if run.stopped else float(np.mean(run.losses[run.tail])),
                    "verdict": f"diverged: {reason}" if (reason := self.reason_at(run)) else "holds",
                }
                for run in sorted((*self.runs, *self.longer), key=lambda r: (r.lr, len(r.losses), r.seed)) if run.losses
            ]
        }


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Three decades to each side of the user's rate, two rates a decade, three orders of batches; then what lasts."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=RangeTest.name, reason="no training run: there is no optimizer")
    if not any(rate > 0 for rate in problem.training.optimizer.lrs):
        return Unavailable(wanted=RangeTest.name, reason="every learning rate is 0: there is nothing to scale")
    before = dict(enumerate(losses_before(problem, settings)))
    if (bad := next((batch for batch, loss in before.items() if not math.isfinite(loss)), None)) is not None:
        return Unavailable(wanted=RangeTest.name, reason=f"the loss of batch {bad} is not finite before training")
    worth = worth_of(problem, settings, before)
    low, high = DECADES
    factors = [10.0 ** (low + i / PER_DECADE) for i in range((high - low) * PER_DECADE + 1)]
    orders = range(REPEATS)
    runs = [observed(problem, factor, settings.steps, settings.seed, order, before) for factor in factors for order in orders]
    found = RangeTest(runs=tuple(runs), worth=worth, rates=problem.training.optimizer.lrs, path=problem.path)
    if problem.objective != "supervised":
        return found
    for _ in range(CANDIDATES):
        candidate = found.suggestion
        if candidate is None or any(run.lr == candidate.lr for run in found.longer):
            break
        factor = next(run.factor for run in runs if run.lr == candidate.lr)
        longer = [observed(problem, factor, LONGER * settings.steps, settings.seed, order, before) for order in orders]
        found = replace(found, longer=(*found.longer, *(replace(run, long=True) for run in longer)))
    return found
