"""Short runs of the training copy from the same state at several rates: which hold, which diverge, and where the limit is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.adapters.training_base import Trace
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict

__all__ = [
    "LongerRun", "RateObservation", "losses_before", "measure", "measure_longer", "observed", "worth_of",
]

RUNS = 10
"""At most this many short runs."""
REACH = 1e4
"""How far above the user's rate is looked."""
CLOSER = 2
"""Runs near the limit are this many times as long: there a run needs time to recover, or to diverge."""
LONGER = 4
"""A divergence that is finite is confirmed by a run of this many times the length."""


@dataclass(frozen=True, kw_only=True)
class RateObservation(Measurement):
    """The runs, and the bracket of the training limit as factors on the user's rates: ``low`` held, ``high`` diverged.

    ``low`` is 0 where no rate that was tried holds, ``high`` infinite where every rate holds. ``worth`` is the loss with
    all weights at zero against the loss at the start. ``unit`` is the rate that factors multiply, ``rates`` that of every
    group as the user set it. ``peak`` is the largest factor of the schedule and its step.
    """

    name: ClassVar[str] = "rate_observation"
    runs: tuple[RateRun, ...]
    low: float
    high: float
    worth: float
    unit: float
    rates: tuple[float, ...]
    optimizer: str
    steps: int
    peak: tuple[float, int] = (1.0, 0)
    schedule: str = ""
    objective: str = "supervised"
    batches: int = 1
    broken: str = ""
    """Why nothing can be said of rates: the loss or gradient is not finite before the first step."""

    @property
    def own(self) -> RateRun | None:
        """The run at the user's rate; None where every rate is 0."""
        return next((run for run in self.runs if run.factor == 1.0), None)

    @property
    def best(self) -> RateRun | None:
        """The run with the largest gain among those that hold."""
        held = [run for run in self.runs if not run.stopped and run.factor <= max(self.low, 0.0)]
        return max(held, key=lambda run: run.gain, default=None)

    def tables(self) -> dict[str, Table]:
        """The rates that were tried, and the run at the user's rate as a curve."""
        limits = RateLimits()
        rows: Table = []
        for run in sorted(self.runs, key=lambda r: (r.factor, r.seed)):
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


@dataclass(frozen=True, kw_only=True)
class LongerRun(Measurement):
    """The run at the user's rate again, several times as long."""

    name: ClassVar[str] = "rate_longer"
    run: RateRun


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Run at the user's rate, a tenth and ten times of it, then towards the limit, at most ten runs."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=RateObservation.name, reason="no training run: there is no optimizer")
    rates = problem.training.optimizer.lrs
    moving = [rate for rate in rates if rate > 0]
    search = _Search(problem, settings)
    if moving:
        search.explore()
    return RateObservation(
        runs=tuple(search.runs.values()), low=search.low, high=search.high, worth=search.worth,
        unit=moving[0] if moving else 0.0, rates=rates, optimizer=problem.training.optimizer.name, steps=search.steps,
        peak=problem.plan.peak, schedule=problem.plan.source, objective=problem.objective,
        batches=problem.training.batch_count, broken=search.broken, path=problem.path, reason="; ".join(problem.notes),
    )


def measure_longer(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The run at the user's rate, longer."""
    found: RateObservation | None = the(evidence, RateObservation)
    if found is None or not isinstance(problem, RateProblem):
        return Unavailable(wanted=LongerRun.name, reason="no short run to make longer")
    before = dict(enumerate(losses_before(problem, settings)))
    return LongerRun(run=observed(problem, 1.0, LONGER * found.steps, settings.seed, 0, before))


def observed(
    problem: RateProblem, factor: float, steps: int, seed: int, order: int, before: Mapping[int, float]
) -> RateRun:
    """One run. ``order`` 0 takes the batches as they come, others shuffle them; ``before`` is by batch."""
    batches = list(range(problem.training.batch_count))
    if order:
        batches = [int(i) for i in np.random.default_rng([seed, order]).permutation(len(batches))]
    trace = problem.run(steps, rate_scale=factor, seed=seed + order, batches=batches, same_batch=factor == 1.0)
    return as_run(trace, factor, next(r for r in problem.training.optimizer.lrs if r > 0) * factor, seed + order, before)


def as_run(trace: Trace, factor: float, lr: float, seed: int, before: Mapping[int, float]) -> RateRun:
    """A trace as plain numbers."""
    steps = [step for step in trace.steps if math.isfinite(step.loss)]
    moved = trace.movement[np.isfinite(trace.movement)] if trace.movement is not None else np.zeros(0)
    ratios = [s.update_ratio for s in steps if math.isfinite(s.update_ratio)]
    return RateRun(
        factor=factor, lr=lr, seed=seed, losses=tuple(s.loss for s in steps),
        before=tuple(before[s.batch] for s in steps),
        after=tuple(s.loss_after for s in steps if s.loss_after is not None),
        stopped=trace.stopped, update_ratio=float(np.median(ratios)) if ratios else math.nan,
        movement=float(np.median(moved)) if moved.size else math.nan,
        gradient_first=steps[0].grad_norm if steps else math.nan, gradient_last=steps[-1].grad_norm if steps else math.nan,
        batch=trace.steps[0].batch if trace.steps else 0,
    )


def losses_before(problem: RateProblem, settings: Settings) -> tuple[float, ...]:
    """Every batch's loss before training, shape (batches,)."""
    return problem.run(0, seed=settings.seed, compare=problem.training.batch_count).loss_start


def worth_of(problem: RateProblem, settings: Settings, before: Mapping[int, float]) -> float:
    """What the weights are worth: the loss of a few batches with all of them at zero, against the loss as it is."""
    chosen = list(range(min(4, problem.training.batch_count)))
    null = problem.null_losses(chosen, seed=settings.seed)
    return abs(float(np.mean([before[i] - n for i, n in zip(chosen, null, strict=True)]))) if null else math.nan


class _Search:
    """Finds the bracket of the largest rate that holds: by decades, then by halves of the logarithm."""

    def __init__(self, problem: RateProblem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        losses = losses_before(problem, settings)
        self.before = dict(enumerate(losses))
        self.worth = worth_of(problem, settings, self.before)
        peak = problem.plan.peak[1]
        self.steps = settings.steps if peak < settings.steps // 2 else min(peak + settings.steps // 2, LONGER * settings.steps)
        self.runs: dict[tuple[float, int], RateRun] = {}
        self.limits = RateLimits()
        self.low, self.high = 0.0, math.inf
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        self.broken = f"the loss of batch {bad[0]} is not finite before training" if bad else ""

    def explore(self) -> None:
        """At most ``RUNS`` runs; one where it cannot take a step."""
        self.run(1.0)
        first = self.runs[1.0, 0]
        if first.stopped and len(first.losses) <= 1 and not first.after:
            self.broken = self.broken or first.stopped
        if self.broken:
            return
        self.run(0.1)
        factor = 1.0
        if self.holds(1.0) and self.holds(0.1):
            while factor < REACH and self.holds(factor):
                factor *= 10.0
                self.run(factor)
        else:
            factor = 0.1
            while factor > 2 / REACH and not (self.holds(factor) and self.holds(10 * factor)):
                # one decade further down than the first that holds: only beside it is seen how little that one gains
                factor /= 10.0
                self.run(factor)
        self.bracket()
        while self.low > 0 and self.high < math.inf and self.high / self.low > 2.0 and len(self.runs) < RUNS - 2:
            self.run(math.sqrt(self.low * self.high), steps=CLOSER * self.steps)
            self.bracket()
        self.widen()

    def run(self, factor: float, order: int = 0, steps: int = 0) -> None:
        """Make a run, once."""
        if (factor, order) not in self.runs and len(self.runs) < RUNS:
            self.runs[factor, order] = observed(
                self.problem, factor, steps or self.steps, self.settings.seed, order, self.before
            )

    def holds(self, factor: float, order: int = 0) -> bool:
        """Whether the run at that factor, judged by all runs so far, did not diverge."""
        run = self.runs.get((factor, order))
        return run is not None and not verdict(run, tuple(self.runs.values()), self.worth, self.limits)

    def bracket(self) -> None:
        """The largest factor below the smallest that diverged, and that."""
        tried = sorted({factor for factor, order in self.runs if order == 0})
        failed = [factor for factor in tried if not self.holds(factor)]
        self.high = min(failed, default=math.inf)
        self.low = max((factor for factor in tried if factor < self.high), default=0.0)

    def widen(self) -> None:
        """Both ends again in another order of batches: where they disagree, the interval is wider."""
        low, high = self.low, self.high
        if low > 0 and high < math.inf:
            self.run(low, order=1, steps=CLOSER * self.steps)
            self.run(high, order=1, steps=CLOSER * self.steps)
            tried = sorted({factor for factor, order in self.runs if order == 0})
            if (low, 1) in self.runs and not self.holds(low, 1):
                self.low = max((f for f in tried if f < low), default=low / 10.0)
            if (high, 1) in self.runs and self.holds(high, 1):
                self.high = min((f for f in tried if f > high), default=high * 2.0)
