"""The Hessian's extreme eigenvalues as the optimizer's steps see them, and the rate at which its first steps overshoot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.curvature_base import CurvedPoint
from gradguard.adapters.rates_base import RateProblem
from gradguard.curvature.lanczos import Spectrum, extremes
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_search import horizon
from gradguard.measurements.rate_verdict import RateLimits, scale_of

__all__ = ["FOLLOWED", "Curvature", "GroupCurvature", "measure", "spectrum_of"]

PRODUCTS = 60
"""Products with the Hessian at most, per batch."""
WARM_STEPS = 20
"""Steps that fill an adaptive optimizer's empty state: its first steps divide by single gradients, which says little."""
LEAST_PRODUCTS = 20
"""Products by differences at least, where double backward was given up."""
FOLLOWED = 20
"""The first steps are so many: at twice the limit, what grows threefold in each is seen however small it was."""
DISAGREEMENT = 0.3
"""Double backward is left where converged differences of gradients disagree with it by more than this part."""

_REFUSED = (TypeError, RuntimeError, AttributeError)
"""What an optimizer raises whose step needs more than gradients."""


@dataclass(frozen=True, kw_only=True)
class GroupCurvature:
    """One parameter group: eigenvalues of P^-1 (H + decay) in the unit of 1 / rate, and the rate that they allow.

    ``limit`` is where the first steps begin to overshoot. With several groups the eigenvalues are of all of them
    together, at the ratio of rates that the user set.
    """

    index: int
    lr: float
    optimizer: str
    lambda_max: float
    lambda_min: float
    error_bar: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Curvature(Measurement):
    """Curvature of one batch's loss (``spread``: of several), after ``warm_steps`` steps of training.

    ``ratio`` is the largest of rate / limit over the groups, at the schedule's peak within the runs. ``evaluations`` counts
    gradients.
    ``one_step`` is the factor on the rates at which the next step, taken as the optimizer takes it, no longer lowers the
    quadratic model of the loss. ``factor`` is the limit as a factor on the rates, NaN where all are 0. It is of ``batch``;
    ``excited``: its gradient has a part along the sharpest direction, so that twice the limit is seen to overshoot.
    """

    name: ClassVar[str] = "curvature"
    groups: tuple[GroupCurvature, ...]
    ratio: float
    evaluations: int
    products: int
    converged: bool
    vectors: int
    warm_steps: int = 0
    one_step: float = math.nan
    factor: float = math.nan
    batch: int = 0
    excited: bool = True
    spread: tuple[float, ...] = ()


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Lanczos on one batch, or on several where the plan asks for it."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=Curvature.name, reason="no training run: there is no optimizer")
    warm, scale = 0, 1.0
    if problem.adaptive():
        observed: RateObservation | None = the(evidence, RateObservation)
        warm = WARM_STEPS
        scale = _calm(observed) if observed is not None and observed.runs else 1.0
    found: list[Spectrum] = []
    points: list[CurvedPoint] = []
    for batch in range(min(problem.plan.curvature_batches, problem.training.batch_count)):
        point = problem.point(batch=batch, warm_steps=warm, rate_scale=scale, seed=settings.seed)
        if warm:
            try:
                point.settle()
            except _REFUSED as error:
                return Unavailable(wanted=Curvature.name, reason=f"the optimizer's step cannot be taken alone: {error}")
        found.append(spectrum_of(point, settings))
        points.append(point)
        if math.isnan(found[0].largest.value):
            return Unavailable(wanted=Curvature.name, reason=found[0].reason)
    sharpest = max(range(len(found)), key=lambda index: found[index].largest.value)
    point, spectrum = points[sharpest], found[sharpest]
    try:
        response = point.response()
    except _REFUSED as error:  # a step that needs a closure, as L-BFGS: it is many evaluations, and no linear iteration
        return Unavailable(wanted=Curvature.name, reason=f"the optimizer's step cannot be taken alone: {error}")
    clipped = 1.0
    if problem.plan.clip is not None and all(g.rule is not None for g in point.groups) and not warm:
        clipped = max(1.0, point.gradient_norm() / problem.plan.clip)
    excited = spectrum.top is not None and point.share_along(spectrum.top) * 3.0**FOLLOWED > 1.0
    groups = tuple(_group(point, spectrum, index, response.limit, clipped) for index in range(len(point.groups)))
    allowed = [g.limit / g.lr for g in groups if g.lr > 0 and g.limit > 0]
    factor = min(allowed, default=math.nan)
    path = point.path if all(g.rule is not None for g in point.groups) else f"{point.path}; {groups[0].optimizer} measured"
    return Curvature(
        groups=groups, ratio=problem.plan.largest(horizon(problem, settings)[1]) / factor if allowed else 0.0,
        evaluations=sum(p.gradients for p in points),
        products=sum(s.products for s in found), converged=all(s.converged for s in found),
        vectors=max(s.vectors for s in found), warm_steps=warm, one_step=response.limit,
        factor=factor, batch=sharpest, excited=excited,
        spread=tuple(s.largest.value / point.groups[0].unit for s in found) if point.groups[0].unit > 0 else (), path=path,
        reason="; ".join(r for r in (point.reason, spectrum.reason) if r),
    )


def _calm(observed: RateObservation) -> float:
    """The largest factor, at most 1, at which a run held and was not thrown off its way: a warm start must not be lost."""
    far = RateLimits().rise * scale_of(observed.runs, observed.worth)
    held = observed.low or math.inf
    calm = [run.factor for run in observed.runs if run.factor <= min(1.0, held) and not run.stopped and run.rise <= far]
    return max(calm, default=0.1 * min(1.0, *(run.factor for run in observed.runs)))


def spectrum_of(point: CurvedPoint, settings: Settings, products: int = PRODUCTS) -> Spectrum:
    """Both ends of the spectrum; by differences of gradients where converged ones contradict double backward."""
    operator = point.operator()
    kept = int(min(32, max(6, settings.memory_budget // (8 * max(1, operator.size)) - 8)))
    spectrum = extremes(operator, products=products, kept=kept, seed=settings.seed)
    if point.path != "double backward" or spectrum.top is None:
        return spectrum
    for vector in (spectrum.top, operator.random(settings.seed + 1)):
        difference = _contradiction(point, vector)
        if difference:
            point.use_differences(difference)
            left = max(LEAST_PRODUCTS, products - spectrum.products)
            return extremes(operator, products=left, kept=kept, seed=settings.seed)
    return spectrum


def _contradiction(point: CurvedPoint, vector: Any) -> str:
    """How double backward contradicts differences of gradients on a vector, where those have settled; else empty."""
    operator = point.operator()
    exact = operator.product(vector)
    coarse, fine = (point.difference_product(vector, fraction) for fraction in (1.0, 0.125))
    size = operator.dot(fine, fine) ** 0.5
    unsettled = operator.axpy(-1.0, fine, coarse)
    wrong = operator.axpy(-1.0, fine, exact)
    if operator.dot(unsettled, unsettled) ** 0.5 > DISAGREEMENT / 3 * size:
        return ""
    share = operator.dot(wrong, wrong) ** 0.5 / size if size > 0 else 0.0
    return f"double backward is {share:.0%} off from converged differences" if share > DISAGREEMENT else ""


def _group(point: CurvedPoint, spectrum: Spectrum, index: int, one_step: float, clipped: float) -> GroupCurvature:
    """Eigenvalues per unit of this group's rate; the limit by the optimizer's rule, or measured where it is unknown."""
    group = point.groups[index]
    if not group.unit > 0:
        missing = math.nan
        return GroupCurvature(
            index=index, lr=group.lr, optimizer=group.optimizer, lambda_max=missing, lambda_min=missing, error_bar=missing,
            limit=missing,
        )
    largest = spectrum.largest.value / group.unit
    if group.rule is not None:
        limit = group.rule.limit(largest) * clipped
    else:
        factor = point.measured_limit(largest, spectrum.top) if index == 0 or len(point.groups) == 1 else None
        limit = group.unit * (one_step if factor is None else factor)
    return GroupCurvature(
        index=index, lr=group.lr, optimizer=group.optimizer, lambda_max=largest,
        lambda_min=spectrum.smallest.value / group.unit, error_bar=spectrum.largest.error_bar / group.unit, limit=limit,
    )
