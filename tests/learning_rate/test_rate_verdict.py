"""What a run says of its rate where the loss was thrown up, where a lower rate gains twice as much, and where it is unlearnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradguard as gg
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


def exploding(factor: float, share: float, by: float, end: float = 0.1) -> RateRun:
    """200 steps from a loss of 1 to ``end``, but for an even share of the steps, which end ``by`` above 1."""
    losses = np.full(200, end)
    losses[np.linspace(0, 199, round(200 * share)).astype(int)] = 1.0 + by
    return RateRun(factor=factor, lr=0.1 * factor, seed=0, losses=tuple(map(float, losses)), before=(1.0,) * 200, long=True)


@pytest.mark.parametrize(
    ("share", "by", "lower", "diverged"),
    [
        (0.35, 20.0, (0.0, 0.0), True),
        (0.35, 20.0, (0.1, 5.0), True),
        (0.1, 20.0, (0.0, 0.0), False),  # single batches, at any rate
        (0.35, 0.5, (0.0, 0.0), False),  # less than there is to gain
        (0.35, 20.0, (0.35, 20.0), False),  # the data's: a lower rate does not help
    ],
)
def test_a_fifth_of_the_batches_that_explode_behind_a_fine_median(
    share: float, by: float, lower: tuple[float, float], diverged: bool
) -> None:
    high, low = exploding(1.0, share, by), exploding(0.1, *lower)
    reason = verdict(high, (low, high), 0.3, RateLimits())
    assert bool(reason) is diverged
    assert ("a fifth of the steps end 20 or more above" in reason) is diverged
    assert not verdict(low, (low, high), 0.3, RateLimits())


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


STEPS = np.arange(300.0)


def along(path: Any, level: float = 1.0) -> RateRun:
    """A run at the user's rate whose loss goes along a path."""
    return RateRun(factor=1.0, lr=0.1, seed=0, losses=tuple(map(float, path)), before=(level,) * len(path), long=True)


@pytest.mark.parametrize(
    ("path", "worth", "boundless"),
    [
        (1 - STEPS, 0.5, True),  # as fast as at first
        (1 - 0.01 * STEPS**2, 0.5, True),
        (1 - np.expm1(0.02 * STEPS), 0.5, True),
        (1 - 20 * np.log1p(STEPS), 0.5, False),  # a likelihood whose width shrinks
        (1 - 20 * np.sqrt(STEPS), 0.5, False),
        (1 - STEPS, 20.0, False),  # not far, by what the weights are worth
        (1 - 40 * (STEPS > 200), 0.5, False),
        (1 - np.minimum(STEPS, 60) - 2 * np.maximum(STEPS - 200, 0), 0.5, False),  # it stood still in between
        (1 - 5 * (STEPS > 200), 0.5, False),  # a plateau, and then what there was to gain
        (400 - STEPS, 0.5, False),  # never below zero
    ],
)
def test_a_loss_without_a_lower_bound(path: Any, worth: float, boundless: bool) -> None:
    assert along(path).boundless(worth) is boundless


def test_a_loss_that_only_falls_far_is_run_for_longer_and_judged_by_its_pace() -> None:
    deep = along(1 - STEPS[:50])
    measured = observed(replace(deep, factor=0.1), deep, worth=0.5)
    rule = DivergingLearningRate()
    outcome = rule.check({"rate_observation": measured})
    assert [request.measurement for request in outcome.requests] == ["rate_longer"]
    falls = rule.check({"rate_observation": measured, "rate_longer": LongerRun(run=along(1 - STEPS))})
    assert [f.pattern for f in falls.findings] == ["ascent"]
    assert "no more slowly than at first" in falls.findings[0].message
    back = along(np.concatenate([1 - STEPS[:150], -149 + STEPS[:150]]))  # a policy that has found its prizes: the loss is 0 again
    lower = along(1 - 0.9 * STEPS)
    held = rule.check({"rate_observation": measured, "rate_longer": LongerRun(run=back, reference=replace(lower, factor=0.1))})
    assert held.status == "passed"
    turns = rule.check({"rate_observation": measured, "rate_longer": LongerRun(run=along(1 - STEPS), turns=True)})
    assert turns.status == "passed"
    warmed = replace(measured, schedule="LambdaLR")
    assert rule.check({"rate_observation": warmed, "rate_longer": LongerRun(run=along(1 - STEPS))}).status == "passed"


@pytest.mark.parametrize(("sign", "errors"), [(1.0, []), (-1.0, ["GG401"])])
def test_logarithmic_scales_that_travel_far_at_an_even_pace_have_an_end(sign: float, errors: list[str]) -> None:
    """A density of small numbers: -log p without its constant begins near 0, and ends at the logarithm of their size."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.zeros(16))})
    batches = [0.001 * torch.randn(32, 16) for _ in range(4)]

    def loss(m: Any, x: Any) -> Any:
        return (sign * 0.5 * (x * m["scale"].exp()).square() - m["scale"]).sum(1).mean()

    report = gg.check_learning_rate(
        model, batches, loss=loss, optimizer=torch.optim.Adam(model.parameters(), lr=0.01), select="GG401"
    )
    assert [f.code for f in report.findings if f.severity == "error"] == errors
