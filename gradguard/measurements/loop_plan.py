"""What the loop does to the rate as set: a schedule that ends, and clipping; with a run that leaves an ended schedule out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import Plan, RateProblem
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_runs import observed
from gradguard.measurements.rate_search import horizon
from gradguard.measurements.rate_verdict import RateRun

__all__ = ["LoopPlan", "end_of", "measure"]

NOTHING = 1e-6
"""A rate below this part of the schedule's largest is none: float32 weights do not feel it."""


@dataclass(frozen=True, kw_only=True)
class LoopPlan(Measurement):
    """``source`` of the schedule, ``clip``: the norm that gradients are clipped to, both empty where there is none.

    ``end`` is the step from which the schedule holds the rate at nothing for good, where that comes before every batch was
    seen once and most of a short run is left. ``flat`` is then a longer run at the schedule's largest rate without it.
    """

    name: ClassVar[str] = "loop_plan"
    source: str = ""
    clip: float | None = None
    end: int | None = None
    flat: RateRun | None = None


def end_of(plan: Plan) -> int | None:
    """The first step from which every factor is below ``NOTHING`` of the largest; None where there is none, or all are 0."""
    largest = plan.peak[0]
    last = max((step for step, factor in enumerate(plan.factors) if factor > NOTHING * largest), default=None)
    return None if last is None or last + 1 >= len(plan.factors) else last + 1


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """No cost, but where the schedule ends so early that it is a question what would be learnt without it."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=LoopPlan.name, reason="no training run: there is no optimizer")
    plan = problem.plan
    found: RateObservation | None = the(evidence, RateObservation)
    end = end_of(plan)
    early = end is not None and end < min(settings.steps // 2, problem.training.batch_count)
    if not early or found is None or found.own is None or found.broken:
        return LoopPlan(source=plan.source, clip=plan.clip)
    before = dict(enumerate(found.before))
    problem.plan = replace(plan, factors=())
    try:
        flat = observed(problem, plan.peak[0], horizon(problem, settings)[1], settings.seed, 0, before)
    finally:
        problem.plan = plan
    return LoopPlan(source=plan.source, clip=plan.clip, end=end, flat=flat)
