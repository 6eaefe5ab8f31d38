"""Whether the first steps overshoot where curvature says so: tried at half and at twice that rate, and corrected if not.

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

__all__ = ["Overshoot", "measure"]

TRIALS = 12
"""Rates that are tried at most on one side, each twice or half the one before: up to a few thousand times. Single rates may
hold above ones that overshoot: the limit is the lowest that does."""
ROUNDOFF = 4e-6
"""A loss that is higher by this part of itself is as high as before: some 32 units in the last place of float32."""


@dataclass(frozen=True, kw_only=True)
class Overshoot(Measurement):
    """The factor on the rates above which the first steps overshoot: seen not to at ``low``, and to at ``high``.

    ``predicted`` is what curvature says; ``limit`` is the same where the steps taken do not contradict it by more than a factor
    of two, else the middle of ``low`` and ``high``. ``ratio`` is the schedule's peak in units of the limit, ``gradients``
    counts evaluations.
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
    """Take the first steps at half and at twice the rate that curvature allows; then farther on the side that disagrees."""
    curvature: Curvature | None = the(evidence, Curvature)
    if curvature is None or not isinstance(problem, RateProblem) or not curvature.factor > 0:
        return Unavailable(wanted=Overshoot.name, reason="curvature predicts no limit")
    predicted = curvature.factor
    trials = _Trials(problem, settings, curvature.batch)
    middle = predicted if predicted < math.inf else 1.0
    low, high, limit = middle / 2.0, 2.0 * middle, predicted
    if trials.overshoots(low):
        low, high = trials.down(low)
        if low == 0:
            return Unavailable(wanted=Overshoot.name, reason=f"the loss rises at every rate down to {high:.2g} of those set")
        limit = math.sqrt(low * high)
    elif not trials.overshoots(high):
        if trials.overshoots(middle):
            high = middle
        elif curvature.excited:
            low, high = trials.up(high)
            limit = math.sqrt(low * high)
    elif predicted == math.inf:
        limit = middle
    return Overshoot(
        predicted=predicted, limit=limit, low=low, high=high, ratio=problem.plan.peak[0] / limit, gradients=trials.gradients
    )


class _Trials:
    """The first steps at several rates, on the batch that curvature was measured on."""

    def __init__(self, problem: RateProblem, settings: Settings, batch: int) -> None:
        self.problem, self.seed, self.batch = problem, settings.seed, batch
        self.gradients = 0

    def overshoots(self, factor: float) -> bool:
        """Whether the batch's loss is above its start after some step, or no number."""
        losses = self.problem.follow(FOLLOWED, factor=factor, batch=self.batch, seed=self.seed, until=_risen)
        self.gradients += min(len(losses), FOLLOWED)
        return _risen(losses)

    def down(self, high: float) -> tuple[float, float]:
        """From a factor that overshoots, by halves, to the first two neighbours that do not; 0 and the last without any."""
        lower = high
        for _ in range(TRIALS):
            lower /= 2.0
            if self.overshoots(lower):
                high = lower
            elif lower < high / 2.0:
                break
        return (high / 2.0 if lower < high else 0.0), high

    def up(self, low: float) -> tuple[float, float]:
        """From a factor that does not overshoot to the first double of it that does; infinity where none does."""
        for _ in range(TRIALS):
            if self.overshoots(2.0 * low):
                return low, 2.0 * low
            low *= 2.0
        return low, math.inf


def _risen(losses: Sequence[float]) -> bool:
    """Whether the last loss is above the first."""
    return not losses[-1] - losses[0] <= ROUNDOFF * abs(losses[0])
