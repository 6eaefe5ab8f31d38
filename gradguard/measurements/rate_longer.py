"""The run at the user's rate made longer, where the short one leaves a doubt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.rate_belief import chance_below
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_predictions import Predictions, predictions_of
from gradguard.measurements.rate_runs import observed, thrown_away
from gradguard.measurements.rate_search import horizon
from gradguard.measurements.rate_verdict import RateLimits, RateRun, best_below, scale_of, verdict

__all__ = ["LongerRun", "measure", "settled"]

FEWEST, MOST = 2, 5
"""Orders of the batches that a rate in doubt is run in."""
FURTHER = (10.0, 100.0, 1000.0)
"""Multiples of a run's way along which a loss that seems to have no lower bound is followed."""
SURE = 0.9
"""So likely is what most of the orders say, with all else that was seen, where no further one is asked."""


@dataclass(frozen=True, kw_only=True)
class LongerRun(Measurement):
    """The run at the user's rate again, several times as long, and what it is compared with.

    ``reference`` is the best lower rate's run of the same length, where the short run looked diverged. ``again`` is the
    same with the batches in other orders: one where divergence is suspected, and up to four where they disagree with each
    other or with the runs at other rates, because a rate that is too high comes back by chance, and one that holds may be
    thrown off once.
    """

    name: ClassVar[str] = "rate_longer"
    run: RateRun
    reference: RateRun | None = None
    again: tuple[RateRun, ...] = ()
    predictions: Predictions = field(default_factory=Predictions)
    turns: bool = False
    """A loss that seems to have no lower bound rises again further along the way that the weights went."""

    def most(self, runs: tuple[RateRun, ...], worth: float, limits: RateLimits) -> str:
        """Why most of the runs diverged; empty where most hold. The first decides where there are no others."""
        reasons = [verdict(run, runs, worth, limits) for run in (self.run, *self.again)]
        bad = [reason for reason in reasons if reason]
        if 2 * len(bad) <= len(reasons):
            return ""
        return bad[0] if reasons[0] else f"with the batches in another order {bad[0]}"


def settled(bad: list[bool], below: float) -> bool:
    """Whether no further order is asked, after those that diverged or not; ``below``: how likely the limit is below the rate.

    Most orders must agree with everything else that was seen: two that come back do not outweigh many runs at lower rates
    that were lost, nor two that are thrown off many at higher rates that held.
    """
    if len(bad) < FEWEST or 2 * sum(bad) == len(bad):
        return False
    return len(bad) >= MOST or (below > SURE if 2 * sum(bad) > len(bad) else below < 1 - SURE)


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The run at the user's rate again and, where that is in doubt, at the best lower one and in other orders, all longer."""
    found: RateObservation | None = the(evidence, RateObservation)
    if found is None or found.own is None or not isinstance(problem, RateProblem):
        return Unavailable(wanted=LongerRun.name, reason="no short run to make longer")
    before = dict(enumerate(found.before))
    _, longer = horizon(problem, settings)
    until = None
    if problem.objective == "supervised":
        until = thrown_away(before, scale_of(found.runs, found.worth), found.steps)
    own = observed(problem, 1.0, longer, settings.seed, 0, before, until=until, keep="rate")
    turns = own.boundless(found.worth) and _turns(problem, settings)
    predictions = predictions_of(problem, settings)
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
        held, seen = found.seen(limits)
        bad = [bool(verdict(own, compared, found.worth, limits))]
        while not settled(bad, chance_below(1.0, held, [*seen, *((1.0, lost) for lost in bad)])):
            run = observed(problem, 1.0, longer, settings.seed, len(again) + 1, before, until=until)
            again.append(replace(run, long=True))
            bad.append(bool(verdict(again[-1], compared, found.worth, limits)))
    return LongerRun(run=own, reference=reference, predictions=predictions, again=tuple(again), turns=turns)


def _turns(problem: RateProblem, settings: Settings) -> bool:
    """Whether the loss at w_0 + s (w_T - w_0) is higher than at w_T for some s > 1.

    Where a likelihood starts far from its optimum, its logarithmic scales travel at an even pace, and its loss with them: the
    zero of a density's logarithm is a matter of units. Followed far enough, that line leads up again; it leads down for ever
    where nothing holds the loss.
    """
    end, *further = problem.along("rate", (1.0, *FURTHER), seed=settings.seed)
    return any(loss > end for loss in further)
