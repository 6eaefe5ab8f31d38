"""Whether one batch can be learnt by heart, at the user's rate and at the best that short runs have shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Observable, OutputFacts
from gradguard.adapters.rates_base import RateProblem
from gradguard.adapters.training_base import Trace
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.curvature import Curvature
from gradguard.measurements.overshoot import Overshoot
from gradguard.measurements.rate_observation import RateObservation

__all__ = ["OneBatch", "Overfit", "measure"]

LENGTH = 4
"""A run on one batch is this many times as long as a short run."""
HIGHER = 4.0
"""Rates are tried above the rate as set where one holds that is this many times as large."""


@dataclass(frozen=True, kw_only=True)
class OneBatch:
    """A run on one batch at a factor on the user's rates: its loss before, and the best mean of ten steps in a row, of the
    first half (``midway``) and of all of it (``after``).

    ``data_loss`` and ``prior`` are of the predictions at the end and of the best constant guess for this batch; NaN where
    they are not known. ``spread`` is how far predictions at the end differ over the batch's samples, relative to their size.
    """

    factor: float
    lr: float
    before: float
    midway: float
    after: float
    steps: int
    stopped: str = ""
    data_loss: float = math.nan
    prior: float = math.nan
    spread: float = math.nan
    moved: float = math.nan
    """The largest change of the loss in the run."""
    reach: float = math.nan
    """What the gradient and the update of a median step would make of the loss at most: the sum of their norms' products."""


@dataclass(frozen=True, kw_only=True)
class Overfit(Measurement):
    """Runs on the first batch, best first; none where the short runs have already learnt (``learnt`` says how much).

    ``start`` is the data loss before training, ``prior`` that of the best constant guess, ``null`` the loss without
    weights; ``trainable`` entries, ``samples`` in the batch.
    """

    name: ClassVar[str] = "overfit"
    runs: tuple[OneBatch, ...]
    learnt: str = ""
    before: float = math.nan
    null: float = math.nan
    start: float = math.nan
    prior: float = math.nan
    trainable: int = 0
    samples: int = 0
    objective: str = "supervised"

    def tables(self) -> dict[str, Table]:
        """The runs, in the table ``rates``."""
        return {
            "rates": [
                {"lr": r.lr, "batch": 0, "seed": None, "loss_before": r.before, "loss_after": r.after, "verdict": "one batch"}
                for r in self.runs
            ]
        }


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """At most six runs on the first batch: at the rate as set, at others that were seen to hold, at a tenth and a third.

    None where the short runs over all batches show that something is learnt.
    """
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=Overfit.name, reason="no training run: there is no optimizer")
    observed: RateObservation | None = the(evidence, RateObservation)
    if observed is None or observed.own is None:
        return Unavailable(wanted=Overfit.name, reason="every learning rate is 0")
    if observed.broken:
        return Unavailable(wanted=Overfit.name, reason=observed.broken)
    if observed.peak[0] == 0 or problem.plan.idle >= LENGTH * settings.steps:
        return Unavailable(wanted=Overfit.name, reason="the schedule holds the learning rate at 0")
    trainable = sum(p.size for p in problem.training.parameters if p.trainable)
    best = observed.best
    first = _facts(problem, "start", settings)
    level = float(np.mean(best.before)) if best is not None and best.before else math.nan
    if best is not None and _learnt(best.gain, best.error, level, first):
        return Overfit(runs=(), learnt=f"lr {best.lr:.3g} gains {best.gain:.3g} of {level:.3g} on all batches")
    low = best.factor if best is not None else _below(evidence, min(run.factor for run in observed.runs))
    runs: list[OneBatch] = []
    for factor in dict.fromkeys((1.0, *([low] if low is not None else []), *_higher(observed), 0.1, 0.1**0.5)):
        runs.append(_one(problem, factor, observed, settings))
        if runs[-1].before - runs[-1].after > 0.5 * abs(runs[-1].before):
            break
    null = problem.null_losses([0], seed=settings.seed)
    return Overfit(
        runs=tuple(sorted(runs, key=lambda r: r.after)), before=runs[0].before, null=null[0] if null else math.nan,
        start=first.data_loss, prior=first.prior, trainable=trainable, samples=first.samples, objective=problem.objective,
        path=problem.path,
    )


def _below(evidence: Evidence, lowest: float) -> float | None:
    """Half of the first-step limit, where every rate that was tried is above it: then none of them says what can be learnt."""
    curvature: Curvature | None = the(evidence, Curvature)
    overshoot: Overshoot | None = the(evidence, Overshoot)
    limit = min(
        curvature.factor if curvature is not None else math.inf,
        overshoot.limit if overshoot is not None and overshoot.limit > 0 else math.inf,
    )
    return limit / 2 if 0 < limit < lowest else None


def _higher(observed: RateObservation) -> tuple[float, ...]:
    """Half of the training limit, and between it and the rate as set: a deep net may leave its plateau at no lower rate."""
    held = min(observed.limit / 2, max(observed.low, 1.0))
    return (held, held**0.5) if held > HIGHER else ()


def _learnt(gain: float, error: float, level: float, first: OutputFacts) -> bool:
    """Whether a gain on all batches already shows that the model learns: a tenth of the loss, and better than the prior."""
    known = math.isfinite(first.prior) and math.isfinite(first.data_loss)
    enough = gain - error > 0.1 * abs(level)
    return enough and (not known or first.data_loss - gain < 0.9 * first.prior)


def _one(problem: RateProblem, factor: float, observed: RateObservation, settings: Settings) -> OneBatch:
    trace = problem.run(LENGTH * settings.steps, rate_scale=factor, seed=settings.seed, batches=[0], keep="overfit")
    losses = np.array([step.loss for step in trace.steps if math.isfinite(step.loss)])
    facts = OutputFacts() if trace.stopped else _facts(problem, "overfit", settings)
    problem.training.sessions.pop("overfit", None)
    window = min(10, max(1, len(losses)))
    means = np.convolve(losses, np.ones(window) / window, mode="valid") if len(losses) else np.array([math.inf])
    return OneBatch(
        factor=factor, lr=observed.unit * factor, before=float(losses[0]) if len(losses) else math.nan,
        midway=float(means[: max(1, len(means) // 2)].min()), after=float(means.min()), steps=len(losses),
        stopped=trace.stopped, data_loss=facts.data_loss, prior=facts.prior,
        spread=facts.spread, moved=float(np.abs(losses - losses[0]).max()) if len(losses) else math.nan, reach=_reach(trace),
    )


def _reach(trace: Trace) -> float:
    products = trace.gradient * trace.update
    return float(np.median(np.nansum(products, axis=1))) if len(products) else math.nan


def _facts(problem: RateProblem, state: str, settings: Settings) -> OutputFacts:
    """Predictions and labels of the first batch in a state."""
    if not isinstance(problem.training, Observable):
        return OutputFacts()
    facts = problem.training.look(state, seed=settings.seed, batches=1).outputs or OutputFacts()
    return replace(facts, prior=facts.own_prior if math.isfinite(facts.own_prior) else facts.prior)
