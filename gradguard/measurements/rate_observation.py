"""Short runs of the training copy from the same state at several rates: which hold, which diverge, and where the limit is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Observable, OutputFacts
from gradguard.adapters.rates_base import RateProblem
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.rate_runs import losses_before, observed, thrown_away
from gradguard.measurements.rate_search import RateSearch, horizon
from gradguard.measurements.rate_verdict import RateLimits, RateRun, best_below, scale_of, verdict

__all__ = ["LongerRun", "Predictions", "RateObservation", "measure", "measure_longer"]

LOOKED = 8
"""Predictions are looked at on this many batches."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The loss of a few batches' predictions alone, before and after a run, and that of guessing the labels' distribution.

    ``kind`` is which loss that is; ``""`` and NaN where predictions or labels are not known.
    """

    kind: str = ""
    before: float = math.nan
    after: float = math.nan
    prior: float = math.nan


@dataclass(frozen=True, kw_only=True)
class RateObservation(Measurement):
    """The runs, and the training limit with its bracket as factors on the user's rates: ``low`` held, ``high`` diverged.

    ``low`` is 0 where no rate that was tried holds, ``high`` and ``limit`` are infinite where every rate holds. ``worth``
    is the loss with all weights at zero against the loss at the start. ``unit`` is the rate that factors multiply, ``rates``
    that of every group as the user set it. ``peak`` is the largest factor of the schedule and its step. ``steps`` is the
    length of the first runs. ``predictions`` are those of the run at the user's rate; ``normalised``: the rate alone sets
    the size of a step.
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
    peak: tuple[float, int] = (1.0, 0)
    schedule: str = ""
    objective: str = "supervised"
    batches: int = 1
    predictions: Predictions = Predictions()
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

    def doubt(self, limits: RateLimits) -> str:
        """Why the run at the user's rate should be made longer before it is judged; empty where there is no reason to."""
        run = self.own
        if run is None:
            return ""
        if reason := verdict(run, self.runs, self.worth, limits):
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


@dataclass(frozen=True, kw_only=True)
class LongerRun(Measurement):
    """The run at the user's rate again, several times as long, and what it is compared with.

    ``reference`` is the best lower rate's run of the same length, where the short run looked diverged. ``again`` is the
    same with the batches in other orders: one where divergence is suspected, and a second where the two disagree, because
    a rate that is too high comes back by chance, and one that holds may be thrown off once.
    """

    name: ClassVar[str] = "rate_longer"
    run: RateRun
    reference: RateRun | None = None
    again: tuple[RateRun, ...] = ()
    predictions: Predictions = Predictions()

    def most(self, runs: tuple[RateRun, ...], worth: float, limits: RateLimits) -> str:
        """Why most of the runs diverged; empty where most hold. The first decides where there are no others."""
        reasons = [verdict(run, runs, worth, limits) for run in (self.run, *self.again)]
        bad = [reason for reason in reasons if reason]
        if 2 * len(bad) <= len(reasons):
            return ""
        return bad[0] if reasons[0] else f"with the batches in another order {bad[0]}"


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Run at the user's rate, a tenth and ten times of it, then towards the limit, at most ten runs."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=RateObservation.name, reason="no training run: there is no optimizer")
    rates = problem.training.optimizer.lrs
    moving = [rate for rate in rates if rate > 0]
    search = RateSearch(problem, settings)
    predictions = Predictions()
    if moving:
        search.explore()
        if not search.broken:
            predictions = _predictions(problem, settings)
    return RateObservation(
        runs=search.runs, low=search.low, limit=search.limit, high=search.high, worth=search.worth,
        unit=moving[0] if moving else 0.0,
        rates=rates, optimizer=problem.training.optimizer.name, steps=search.steps, peak=problem.plan.peak,
        schedule=problem.plan.source, objective=problem.objective, batches=problem.training.batch_count,
        predictions=predictions, normalised=bool(moving) and not search.broken and problem.normalised(seed=settings.seed),
        broken=search.broken, path=problem.path, reason="; ".join(problem.notes),
    )


def measure_longer(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The run at the user's rate again and, where that is in doubt, at the best lower one and in other orders, all longer."""
    found: RateObservation | None = the(evidence, RateObservation)
    if found is None or found.own is None or not isinstance(problem, RateProblem):
        return Unavailable(wanted=LongerRun.name, reason="no short run to make longer")
    before = dict(enumerate(losses_before(problem, settings)))
    _, longer = horizon(problem, settings)
    until = None
    if problem.objective == "supervised":
        until = thrown_away(before, scale_of(found.runs, found.worth), found.steps)
    own = observed(problem, 1.0, longer, settings.seed, 0, before, until=until, keep="rate")
    predictions = _predictions(problem, settings)
    limits = RateLimits()
    doubt = bool(found.doubt(limits))
    reference = None
    lower = best_below(own, found.runs)
    if doubt and lower is not None:
        known = [run for run in found.runs if run.factor == lower.factor and len(run.losses) >= longer]
        reference = known[0] if known else observed(problem, lower.factor, longer, settings.seed, 0, before)
    own = replace(own, long=True)
    compared = (*found.runs, *([reference] if reference is not None else []))
    doubt = doubt or own.late_rise > limits.rise * scale_of(found.runs, found.worth)
    again: list[RateRun] = []
    if doubt and problem.training.batch_count > 1 and not (own.stopped and not own.losses):
        bad = [bool(verdict(own, compared, found.worth, limits))]
        while len(again) < 2 and bad.count(True) < 2 and bad.count(False) < 2:
            run = observed(problem, 1.0, longer, settings.seed, len(again) + 1, before, until=until)
            again.append(replace(run, long=True))
            bad.append(bool(verdict(again[-1], compared, found.worth, limits)))
    return LongerRun(run=own, reference=reference, predictions=predictions, again=tuple(again))


def _predictions(problem: RateProblem, settings: Settings) -> Predictions:
    """The first batches' predictions before training and after the run that was kept."""
    if "rate" not in problem.training.sessions:
        return Predictions()
    try:
        if not isinstance(problem.training, Observable) or problem.objective != "supervised":
            return Predictions()
        looks = [problem.training.look(state, seed=settings.seed, batches=LOOKED) for state in ("start", "rate")]
        start, end = (look.outputs or OutputFacts() for look in looks)
    finally:
        problem.training.sessions.pop("rate")
    return Predictions(kind=start.kind, before=start.data_loss, after=end.data_loss, prior=start.prior)
