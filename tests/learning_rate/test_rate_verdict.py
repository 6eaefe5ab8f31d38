"""What a run says of its rate where the loss was thrown up, where a lower rate gains twice as much, and where it is unlearnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_predictions import Predictions
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict
from gradguard.rules.diverging_learning_rate import DivergingLearningRate
from tests.rules.rates import observed, run


def noisy(rise: float, end: float, spread: float) -> RateRun:
    """200 steps from a loss of 1: thrown up by ``rise`` for ten of them, then ``end`` with the noise of small batches."""
    losses = end + spread * np.random.default_rng(0).standard_normal(200)
    losses[:10] += rise
    return RateRun(factor=1.0, lr=0.1, seed=0, losses=tuple(map(float, losses)), before=(1.0,) * 200, long=True)


@pytest.mark.parametrize(
    ("rise", "end", "spread", "diverged"),
    [
        (80.0, 1.1, 0.1, True),
        (80.0, 1.0, 0.1, False),
        (80.0, 1.1, 2.0, False),
        (0.0, 1.1, 0.2, False),
        (80.0, 0.9, 0.1, False),
    ],
)
def test_a_blow_up_has_to_come_back_to_where_it_began(rise: float, end: float, spread: float, diverged: bool) -> None:
    reason = verdict(noisy(rise, end, spread), (), 0.3, RateLimits())
    assert bool(reason) is diverged
    assert ("above where it began" in reason) is diverged


def test_a_lower_rate_that_gains_twice_as_much_is_a_reason_to_look_for_longer() -> None:
    measured = observed(run(0.1, 0.5), run(1.0, 1.6))
    rule = DivergingLearningRate()
    outcome = rule.check({"rate_observation": measured})
    assert (outcome.status, [request.measurement for request in outcome.requests]) == ("inconclusive", ["rate_longer"])
    lower = run(0.1, 0.3, long=True)
    ends: dict[float, str] = {0.4: "passed", 1.6: "failed"}
    for end, status in ends.items():
        longer = LongerRun(run=run(1.0, end, long=True), reference=lower)
        assert rule.check({"rate_observation": measured, "rate_longer": longer}).status == status


def test_an_ascent_of_the_predictions_is_confirmed_by_a_longer_run() -> None:
    seen = Predictions(kind="cross_entropy", before=0.77, after=1.28, prior=0.68)
    measured = observed(run(0.1, 0.3, start=0.77), run(1.0, 0.1, start=0.77), predictions=seen)
    rule = DivergingLearningRate()
    outcome = rule.check({"rate_observation": measured})
    assert (outcome.status, [request.measurement for request in outcome.requests]) == ("inconclusive", ["rate_longer"])
    lasts = run(1.0, 0.1, start=0.77, long=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"run": lasts, "predictions": replace(seen, after=0.1)}, "passed"),
        ({"run": lasts, "predictions": seen}, "failed"),
        ({"run": replace(lasts, stopped="the loss is not finite at step 70")}, "failed"),
    ]
    for columns, status in cases:
        assert rule.check({"rate_observation": measured, "rate_longer": LongerRun(**columns)}).status == status
