"""The range test: restarts, so that neither the order of rates nor one bad batch changes what a rate shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

import gradguard as gg
from gradguard.measurements.range_test import RangeTest
from gradguard.measurements.rate_verdict import RateRun
from gradguard.rendering.rates import render_limits, render_rates

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from gradguard.learning_rate import range_test  # noqa: E402  (tests of it need torch)
from tests.learning_rate.programs import digits, likelihood, two_layers  # noqa: E402


def test_digits() -> None:
    torch.manual_seed(0)
    scenario = two_layers(0.01)
    batches = list(scenario.batches)[:20]
    found = range_test(scenario.model, batches, loss=scenario.loss, optimizer=scenario.optimizer)
    points = found.points
    assert len(points) == 13
    assert all(p.runs == 3 for p in points)
    assert points[0].holds == 3
    assert points[-1].holds == 0
    assert found.suggestion is not None
    assert 0.03 < found.suggestion.lr < 2.0
    assert len(found.longer) in (3, 6, 9, 12)
    assert len(found.tables()["rates"]) == 39 + len(found.longer)
    assert all(run.lr == found.suggestion.lr for run in found.longer[-3:])


def test_negative_losses_do_not_trick_it() -> None:
    torch.manual_seed(0)
    scenario = likelihood()
    found = range_test(scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer)
    assert found.suggestion is not None
    assert 3e-3 < found.suggestion.lr < 1.0


def typed() -> RangeTest:
    runs = []
    for seed in range(2):
        for lr, end in ((0.01, 2.0), (0.1, 1.0), (1.0, 0.95), (10.0, 90.0)):
            losses = tuple(2.3 + (end - 2.3) * step / 9 for step in range(10)) + (end,) * 10
            runs.append(RateRun(factor=lr, lr=lr, seed=seed, losses=losses, before=(2.3,) * 20))
    return RangeTest(runs=tuple(runs), worth=0.0)


def test_picture() -> None:
    assert render_rates(typed()).splitlines() == [
        "       lr       gain  0                                       1.35",
        "     0.01        0.3  ##########                              ",
        "      0.1        1.3  #######################################   <- suggested",
        "        1       1.35  ########################################",
        "       10          -                                            diverges in 2 of 2",
    ]


def test_a_rate_whose_longer_run_is_lost_is_not_suggested() -> None:
    long = RateRun(factor=0.1, lr=0.1, seed=1, losses=(2.3,) * 30 + (9.0,) * 30, before=(2.3,) * 60, long=True)
    found = replace(typed(), longer=(long,))
    assert found.suggestion is not None
    assert found.suggestion.lr == 0.01
    assert render_rates(found).splitlines()[2].endswith("  1 of 2 longer runs diverge")
    held = replace(long, losses=(1.0,) * 60)
    assert replace(found, longer=(held,)).suggestion == typed().suggestion


def test_single_orders_of_a_short_run_do_not_decide() -> None:
    """Of three orders one ends worse by chance: with batches of one sample, at every rate."""
    runs = [
        RateRun(factor=lr, lr=lr, seed=seed, losses=(2.3 + (0.2 if seed == 1 else -1.0) * lr,) * 20, before=(2.3,) * 20)
        for seed in range(3) for lr in (0.1, 0.5, 1.0)
    ]
    one = RangeTest(runs=tuple(runs), worth=0.0)
    assert one.suggestion is not None
    assert one.suggestion.lr == 1.0
    two = RangeTest(runs=tuple(replace(run, losses=(2.5,) * 20) if run.seed == 2 else run for run in runs), worth=0.0)
    assert two.suggestion is None


def test_what_to_do_where_the_range_is_too_narrow() -> None:
    lost = tuple(replace(run, stopped="the loss is not finite at step 3") for run in typed().runs)
    assert render_rates(replace(typed(), runs=lost)).endswith("every rate diverges: test again from a lower one")
    rising = tuple(run for run in typed().runs if run.lr < 1.0)
    assert render_rates(replace(typed(), runs=rising)).endswith("the highest rate gains the most: test again from lr 0.1")


def test_groups_with_rates_of_their_own_are_told() -> None:
    found = replace(typed(), rates=(0.0, 0.1, 0.3))
    assert render_rates(found).endswith("lr is that of group 1, set to 0.1; the other groups' are scaled with it")
    assert "group" not in render_rates(replace(typed(), rates=(0.1, 0.1)))


def test_batches_of_one() -> None:
    torch.manual_seed(0)
    scenario = two_layers(0.01)
    found = range_test(scenario.model, digits(1)[:400], loss=scenario.loss, optimizer=scenario.optimizer)
    assert found.suggestion is not None
    assert 5e-3 < found.suggestion.lr < 0.2


def test_limits_in_the_text() -> None:
    full = {
        "group": 0, "lr": 0.01, "optimizer": "Adam", "lambda_max": 2165.4, "lambda_min": -3.0, "error_bar": 0.02,
        "curvature_limit": 0.01755, "first_step_limit": 0.01755, "training_limit": 0.0562, "training_low": 0.0316,
        "training_high": 0.1, "evaluations": 42,
    }
    assert render_limits([full, {"group": 1, "lr": 0.0, "optimizer": "Adam"}]).splitlines() == [
        "  group  lr    optimizer  lambda_max    first-step limit  training limit",
        "  0      0.01  Adam       2165 +- 0.02  0.0175            0.056 (0.032 holds, 0.1 diverges)",
        "  1      0     Adam       -             -                 -",
    ]
    assert "  0.02 (curvature allows 0.0175)  0.056 (" in render_limits([{**full, "first_step_limit": 0.02}])
    above = render_limits([{**full, "training_limit": float("inf"), "training_high": float("inf"), "training_low": 100.0}])
    assert above.endswith("above 1e+02")
    assert render_limits([{**full, "training_limit": 0.0, "training_low": 0.0}]).endswith("below 0.1")
    assert render_limits([]) == ""


def test_rate_of_zero() -> None:
    scenario = two_layers(0.0)
    with pytest.raises(gg.UsageError, match="every learning rate is 0: there is nothing to scale"):
        range_test(scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer)


def test_a_loss_that_is_not_finite_before_training_is_not_the_rates_fault() -> None:
    scenario = two_layers(0.1)
    with pytest.raises(gg.UsageError, match="the loss of batch 0 is not finite before training"):
        range_test(scenario.model, scenario.batches, loss=lambda m, b: scenario.loss(m, b) * float("nan"), optimizer=scenario.optimizer)


@pytest.mark.filterwarnings("error")
def test_overflow_at_rates_far_too_high_makes_no_warning() -> None:
    model = torch.nn.Linear(4, 1)
    x = torch.linspace(-1, 1, 32)[:, None].repeat(1, 4)
    found = range_test(
        model, [(x, x[:, :1])], loss=lambda m, b: (m(b[0]) - b[1]).square().mean(),
        optimizer=torch.optim.SGD(model.parameters(), 1e9),
    )
    assert found.suggestion is None
