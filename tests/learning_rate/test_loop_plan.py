"""A schedule that keeps the rate at nothing, clipping that does, and rates that are all far above what one batch takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

import gradguard as gg
from gradguard.adapters.rates_base import Plan, called_schedule
from gradguard.measurements.loop_plan import end_of

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tests.learning_rate.programs import digits, entropy, mlp  # noqa: E402  (they need torch and scikit-learn)


@pytest.mark.parametrize(
    ("factors", "end"),
    [
        ((), None),
        ((0.0,) * 9, None),
        ((1.0, 0.5, 0.0), 2),
        ((1.0, 0.0, 0.0, 1.0, 0.0), 4),
        ((0.0, 0.5, 1.0), None),
        ((1.0, 1e-7, 1e-8), 1),
        ((1.0, 1e-3), None),
    ],
)
def test_end_of_a_schedule(factors: tuple[float, ...], end: int | None) -> None:
    assert end_of(Plan(factors=factors)) == end


def judged(rate: float = 0.1, scale: float = 1.0, **keywords: Any) -> gg.Report:
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    if "scheduler" in keywords:
        keywords["schedule"] = keywords.pop("scheduler")(optimizer)
    return gg.check_learning_rate(
        model, digits(32), loss=lambda m, b: scale * entropy(m, b), optimizer=optimizer, **keywords
    )


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "rounded down": ({"scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: s // 10_000)}, "holds the learning rate at 0"),
    "a function": ({"schedule": lambda step: 0.0}, "holds the learning rate at 0"),
    "begins too late": ({"schedule": lambda step: float(step // 1000)}, "holds the learning rate at 0 for the first 1000 steps"),
    "ends at step 3": ({"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 1e-7), "rate": 0.01}, "at nothing from step 3 on"),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "falls to 0 in 20 steps of 50": {"schedule": lambda step: 10 * max(0.0, 1 - step / 20)},
    "falls to a tenth": {"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 20, 0.1), "rate": 0.5},
    "begins at step 60": {"schedule": lambda step: float(step >= 60)},
    "a warm-up of 1000": {"schedule": lambda step: min(1.0, (step + 1) / 1000), "rate": 5.0},
    "to 0 at step 200": {"scheduler": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 200), "rate": 0.5},
}


@pytest.mark.parametrize("name", FAULTY)
def test_schedule_that_keeps_the_rate_at_nothing(name: str) -> None:
    keywords, text = FAULTY[name]
    report = judged(**keywords)
    assert report.findings[0].code == "GG403", str(report)
    assert text in report.findings[0].message
    assert "GG405" not in {f.code for f in report.findings}  # the batch is not to blame


@pytest.mark.parametrize("name", HEALTHY)
def test_schedule_that_lets_training_go_on(name: str) -> None:
    report = judged(**HEALTHY[name])
    assert report.ok, str(report)


def test_one_batch_is_tried_below_the_first_step_limit_where_all_rates_are_above() -> None:
    report = judged(scale=1e8)
    assert [f.code for f in report.findings if f.severity == "error"] == ["GG401"]
    (below,) = [r for r in report.table_rows("rates") if r["verdict"] == "one batch" and r["lr"] < 1e-5]
    assert below["loss_after"] < 0.5 * below["loss_before"]


def test_ascent_is_still_found_on_one_batch() -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, maximize=True)
    report = gg.check_learning_rate(model, digits(32), loss=entropy, optimizer=optimizer)
    assert [f.code for f in report.findings if f.severity == "error"] == ["GG401", "GG405"]


def test_a_list_of_factors_ends_where_it_ends() -> None:
    table = [0.5, 1.0] + [0.9] * 60
    assert called_schedule(table.__getitem__, 50) == tuple(table)
    assert called_schedule(lambda step: 1.0 if step < 60 else math.inf, 50) == (1.0,) * 60
    with pytest.raises(gg.UsageError, match="the schedule raised IndexError at step 62"):
        called_schedule(table.__getitem__, 63)
    with pytest.raises(gg.UsageError, match="the schedule returned inf at step 60"):
        called_schedule(lambda step: 1.0 if step < 60 else math.inf, 61)


def test_a_schedule_that_comes_back_to_its_largest_factor_reached_it_the_first_time() -> None:
    cosine = tuple(0.5 + 0.5 * math.cos(math.pi * step / 40) for step in range(10_000))
    assert Plan(factors=(1.0 - 1e-9, *cosine[1:])).peak[1] == 0
    assert Plan(factors=tuple(min(1.0, (step + 1) / 30) for step in range(100))).peak[1] == 29
    assert Plan(factors=(0.0, 0.0)).peak == (0.0, 0)
