"""An optimizer that climbs: what is meant to rise is healthy, a loss that nobody means to climb is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import gradguard as gg

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tests.learning_rate.programs import digits, entropy, mlp  # noqa: E402  (they need torch and scikit-learn)

WANTED = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).tanh()


def likelihood(model: Any, batch: Any) -> Any:
    return -entropy(model, batch)


def reward(model: Any, batch: Any) -> Any:
    return (torch.softmax(model(batch[0]), 1) * (batch[0] @ WANTED)).sum(1).mean()


def squares(model: Any, batch: Any) -> Any:
    return ((model(batch[0]) - torch.nn.functional.one_hot(batch[1], 10)) ** 2).mean()


def judged(loss: Callable[[Any, Any], Any], rate: float) -> gg.Report:
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), rate, maximize=True)
    report = gg.check_learning_rate(model, digits(32), loss=loss, optimizer=optimizer)
    assert optimizer.param_groups[0]["maximize"]
    return report


@pytest.mark.parametrize("loss", [likelihood, reward])
def test_what_is_meant_to_rise_is_healthy(loss: Callable[[Any, Any], Any]) -> None:
    report = judged(loss, 0.1)
    assert report.ok, str(report)
    (cost,) = [r for r in report.table_rows("measurements") if r["measurement"] == "rate_observation"]
    assert "what is maximised is shown with the other sign" in cost["reason"]


@pytest.mark.parametrize(("loss", "rate", "code"), [
    (likelihood, 50.0, "GG401"), (likelihood, 1e-8, "GG403"), (entropy, 0.1, "GG401"), (squares, 0.01, "GG401"),
])
def test_climbing_too_fast_too_slowly_or_what_should_fall(loss: Callable[[Any, Any], Any], rate: float, code: str) -> None:
    assert next(f.code for f in judged(loss, rate).findings if f.severity == "error") == code


def test_the_same_steps_as_descending_the_other_sign() -> None:
    reports = []
    for maximize in (True, False):
        torch.manual_seed(0)
        model = mlp(64, 32, 10)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01, maximize=maximize)
        loss = likelihood if maximize else entropy
        reports.append(gg.check_learning_rate(model, digits(32), loss=loss, optimizer=optimizer, steps=10, select="GG401"))
    assert reports[0].table_rows("rates") == reports[1].table_rows("rates")
    assert reports[0].table_rows("learning_rate") == reports[1].table_rows("learning_rate")
