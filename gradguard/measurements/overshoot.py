"""Whether the first steps overshoot where curvature says so: tried with the optimizer itself, and corrected if not.

Curvature at the start is right about the steps that follow as long as it stays what it is. It does not where a net leaves a
plateau (it grows) or where normalised weights grow (it falls), and early in training that is common. So the optimizer itself
takes a few steps on one batch, from rest: the rate at which that batch's loss rises above where it began is what the
prediction is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.curvature import FOLLOWED, Curvature
from gradguard.measurements.rate_search import horizon

__all__ = ["Overshoot", "measure"]

UP, DOWN = 12, 20
"""How many times the rate is doubled or halved at most. (What is far too high overshoots at once, and costs little.)"""
AGREES = (-1, 2)
"""Curvature is believed where the lowest rate that overshoots is from so many to so many roots of 2 away from it: then the
edge, which is at most one root of 2 below that rate, is within a factor of two. (With momentum b, the first step from rest
overshoots at 1 / (1 + b) of the limit: at rest nothing pulls back yet.)"""
ROUNDOFF = 32
"""A loss that is higher by so many units in the last place, of the coarsest type among the parameters, is as high as before."""
UNITS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Of types that are coarser than float32."""


@dataclass(frozen=True, kw_only=True)
class Overshoot(Measurement):
    """The factor on the rates above which the first steps overshoot: ``high`` is the lowest at which they were seen to, and
    at ``low`` below it they were not. (Single rates above the lowest may hold.)

    ``predicted`` is what curvature says; ``limit`` is the same where the steps taken agree within a factor of two, else the
    middle of ``low`` and ``high``. ``ratio`` is the rate, at the schedule's peak within the runs, in units
    of the limit; ``gradients`` counts evaluations.
    """

    name: ClassVar[str] = "overshoot"
    predicted: float
    limit: float
    low: float
    high: float
    ratio: float
    gradients: int

    @property
    def corrected(self) -> bool:
        """Whether the steps contradict what curvature predicts."""
        return self.limit != self.predicted


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Take the first steps at the rate that curvature allows, and at others until the lowest that overshoots is known."""
    curvature: Curvature | None = the(evidence, Curvature)
    if curvature is None or not isinstance(problem, RateProblem) or not curvature.factor > 0:
        return Unavailable(wanted=Overshoot.name, reason="curvature predicts no limit")
    predicted = curvature.factor
    trials = _Trials(problem, settings, curvature.batch, predicted if predicted < math.inf else 1.0)
    limit, low, high = predicted, predicted, math.inf
    if curvature.excited or trials.overshoots(0):
        lowest = trials.lowest()
        if lowest == -math.inf:
            return Unavailable(wanted=Overshoot.name, reason="the loss rises at every rate, as far down as was tried")
        low, high = (trials.factor(half) for half in (lowest - 1, lowest))
        if not AGREES[0] <= lowest <= AGREES[1] or predicted == math.inf:
            limit = math.sqrt(low * high) if lowest < math.inf else math.inf
    return Overshoot(
        predicted=predicted, limit=limit, low=low, high=high, gradients=trials.gradients,
        ratio=problem.plan.largest(horizon(problem, settings)[1]) / limit,
    )


class _Trials:
    """The first steps on the batch that curvature was measured on, at factors ``start`` 2^(half / 2) for whole ``half``."""

    def __init__(self, problem: RateProblem, settings: Settings, batch: int, start: float) -> None:
        self.problem, self.seed, self.batch, self.start = problem, settings.seed, batch, start
        self.roundoff = ROUNDOFF * max((UNITS.get(b.dtype, 2.0**-23) for b in problem.blocks), default=0.0)
        self.seen: dict[int, bool] = {}
        self.gradients = 0

    def factor(self, half: float) -> float:
        """The factor on the rates."""
        return self.start * math.pow(2.0, half / 2.0)

    def overshoots(self, half: int) -> bool:
        """Whether the batch's loss is above its start after some step, or no number."""
        if half not in self.seen:
            losses = self.problem.follow(
                FOLLOWED, factor=self.factor(half), batch=self.batch, seed=self.seed, until=self._risen
            )
            self.gradients += min(len(losses), FOLLOWED)
            self.seen[half] = self._risen(losses)
        return self.seen[half]

    def lowest(self) -> float:
        """The lowest that overshoots, with two neighbours below it that do not; +-infinity where none does, or all do."""
        first = next((half for half in range(0, 2 * UP + 1, 2) if self.overshoots(half)), None)
        if first is None:
            return math.inf
        lowest = first
        for half in range(first - 1, -2 * DOWN, -1):
            if self.overshoots(half):
                lowest = half
            elif half == lowest - 2:
                return lowest
        return -math.inf

    def _risen(self, losses: Sequence[float]) -> bool:
        """Whether the last loss is above the first, or one of them is no number."""
        return not losses[-1] - losses[0] <= self.roundoff * abs(losses[0])
