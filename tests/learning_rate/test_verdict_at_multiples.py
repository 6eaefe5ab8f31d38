"""GG401 at 0.1, 0.3, 3 and 10 times of a limit that is known: a linear regression on one batch, full spectrum by NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradguard as gg

torch = pytest.importorskip("torch")

OPTIMIZERS = {"SGD": (0.0, False, 2.0), "momentum": (0.9, False, 3.8), "Nesterov": (0.9, True, 3.8 / 2.8)}


def regression(seed: int) -> tuple[Any, Any, float]:
    """Ten features of different scales; the Hessian of the mean squared error is 2 X'X / n."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((100, 10)) * generator.uniform(0.3, 2.0, 10)
    y = x @ generator.standard_normal(10) + 0.1 * generator.standard_normal(100)
    largest = float(np.linalg.eigvalsh(2 * x.T @ x / 100)[-1])
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None], largest


@pytest.mark.parametrize("factor", [0.1, 0.3, 3.0, 10.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(2))
def test_verdict(name: str, factor: float, seed: int) -> None:
    momentum, nesterov, constant = OPTIMIZERS[name]
    x, y, largest = regression(seed)
    torch.manual_seed(seed)
    model = torch.nn.Linear(10, 1, bias=False)
    rate = factor * constant / largest
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=momentum, nesterov=nesterov)
    report = gg.check_learning_rate(
        model, [(x, y)], loss=lambda m, b: torch.nn.functional.mse_loss(m(b[0]), b[1]), optimizer=optimizer, select="GG401"
    )
    (check,) = [c for c in report.checks if c.code == "GG401"]
    assert check.status == ("failed" if factor > 1 else "passed")
    row = report.table_rows("learning_rate")[0]
    assert row["first_step_limit"] == pytest.approx(constant / largest, rel=0.01)
    assert 0.5 <= row["training_limit"] / (constant / largest) <= 2.0
