"""Short runs of the training copy from the same state at several rates: which hold, which diverge, and where the limit is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable
from gradguard.measurements.rate_predictions import Predictions
from gradguard.measurements.rate_search import RateSearch
from gradguard.measurements.rate_verdict import RateLimits, RateRun, scale_of, verdict

__all__ = ["RateObservation", "measure"]


@dataclass(frozen=True, kw_only=True)
class RateObservation(Measurement):
    """The runs, and the training limit with its bracket as factors on the user's rates: ``low`` held, ``high`` diverged.

    ``low`` is 0 where no rate that was tried holds, ``high`` and ``limit`` are infinite where every rate holds. ``worth``
    is the loss with all weights at zero against the loss at the start. ``unit`` is the rate that factors multiply, ``rates``
    that of every group as the user set it. ``peak`` is the largest factor of the schedule and its step, ``idle`` for how
    many steps it holds the rate at 0 before it begins. ``steps`` is the length of the first runs, ``before`` every batch's
    loss before training. ``predictions`` are those of the run at the user's rate; ``normalised``: the rate alone sets the
    size of a step.
    """

    name: ClassVar[str] = "rate_observation"
    runs: tuple[RateRun, ...]
    low: float
    limit: float
    high: float
    worth: float
    unit: float
    rates: tuple[float, ...]
    optimizer: str
    steps: int
    before: tuple[float, ...] = ()
    peak: tuple[float, int] = (1.0, 0)
    idle: int = 0
    schedule: str = ""
    objective: str = "supervised"
    batches: int = 1
    predictions: Predictions = field(default_factory=Predictions)
    normalised: bool = False
    broken: str = ""
    """Why nothing can be said of rates: the loss or gradient is not finite before the first step."""

    @property
    def own(self) -> RateRun | None:
        """The run at the user's rate; None where every rate is 0."""
        return next((run for run in self.runs if run.factor == 1.0), None)

    @property
    def lengths(self) -> str:
        """How many runs of how many steps, as a text."""
        longer = [run for run in self.runs if len(run.losses) > self.steps]
        extra = f", {len(longer)} of {max(len(run.losses) for run in longer)}" if longer else ""
        return f"{len(self.runs) - len(longer)} runs of {self.steps} steps{extra}"

    @property
    def best(self) -> RateRun | None:
        """The run with the largest gain among those that hold."""
        held = [run for run in self.runs if not run.stopped and run.factor <= max(self.low, 0.0)]
        return max(held, key=lambda run: run.gain, default=None)

    def seen(self, limits: RateLimits) -> tuple[float, list[tuple[float, bool]]]:
        """What is to be believed of the limit: the largest factor that a short run holds, and which longer runs diverged.

        Where no short run holds, a tenth of the lowest factor stands for the first.
        """
        lost = [(run, bool(verdict(run, self.runs, self.worth, limits))) for run in self.runs]
        held = [run.factor for run, diverged in lost if not run.long and not diverged]
        lowest = min((run.factor for run in self.runs), default=1.0)
        return max(held, default=lowest / 10.0), [(run.factor, diverged) for run, diverged in lost if run.long]

    def doubt(self, limits: RateLimits) -> str:
        """Why the run at the user's rate should be made longer before it is judged; empty where there is no reason to."""
        run = self.own
        if run is None:
            return ""
        if reason := verdict(replace(run, long=True), self.runs, self.worth, limits):  # less than half is a reason to look
            return reason
        if self.limit < 1.0:
            return "longer runs at lower rates diverge"
        if run.late_rise > limits.rise * scale_of(self.runs, self.worth):
            return f"single steps raise the loss by {run.late_rise:.3g}"
        if run.plunges:
            return f"the loss falls by {run.best:.3g}, many times what it was"
        return ""

    def tables(self) -> dict[str, Table]:
        """The rates that were tried, and the run at the user's rate as a curve."""
        limits = RateLimits()
        rows: Table = []
        for run in sorted(self.runs, key=lambda r: (r.factor, len(r.losses))):
            reason = verdict(run, self.runs, self.worth, limits)
            rows.append(
                {
                    "lr": run.lr, "batch": run.batch, "seed": run.seed,
                    "loss_before": float(np.mean(run.before[run.tail])) if run.before else None,
                    "loss_after": math.inf if run.stopped else float(np.mean(run.losses[run.tail])),
                    "verdict": f"diverged: {reason}" if reason else "holds",
                }
            )
        return {"rates": rows}


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Run at the user's rate, a tenth and ten times of it, then towards the limit, at most ten runs."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=RateObservation.name, reason="no training run: there is no optimizer")
    rates = problem.training.optimizer.lrs
    moving = [rate for rate in rates if rate > 0]
    search = RateSearch(problem, settings)
    if moving:
        search.explore()
    return RateObservation(
        runs=search.runs, low=search.low, limit=search.limit, high=search.high, worth=search.worth,
        unit=moving[0] if moving else 0.0, rates=rates,
        optimizer=problem.training.optimizer.name, steps=search.steps,
        before=tuple(search.before.values()), peak=problem.plan.peak, idle=problem.plan.idle,
        schedule=problem.plan.source, objective=problem.objective, batches=problem.training.batch_count,
        predictions=search.predictions, broken=search.broken,
        normalised=bool(moving) and not search.broken and problem.normalised(seed=settings.seed),
        path=problem.path, reason="; ".join(problem.notes),
    )
