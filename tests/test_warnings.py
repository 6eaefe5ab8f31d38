"""Where warnings are errors, as in many test suites, numbers that overflow are findings and never a warning of ours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import gradguard as gg

torch = pytest.importorskip("torch")


def squared(model: Any, batch: Any) -> Any:
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("lr", [1e3, 1e150, 1e300])
@pytest.mark.parametrize("check", [gg.check_training, gg.check_learning_rate])
def test_torch(check: Any, lr: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)).double()
    batches = [(torch.randn(16, 4).double(), torch.randn(16, 1).double()) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check(model, batches, loss=squared, optimizer=torch.optim.SGD(model.parameters(), lr))
    assert "GG401" in {f.code for f in report.findings if f.severity == "error"}


@pytest.mark.parametrize("lr", [1e3, 1e150, 1e300])
@pytest.mark.parametrize("check", [gg.check_training, gg.check_learning_rate])
def test_numpy(check: Any, lr: float) -> None:
    generator = np.random.default_rng(0)
    batches = [(generator.standard_normal((16, 4)), generator.standard_normal(16)) for _ in range(3)]

    def loss(model: Any, batch: Any) -> Any:
        return np.mean((batch[0] @ model["w"] - batch[1]) ** 2)

    def grad(model: Any, batch: Any) -> Any:
        return {"w": 2.0 * batch[0].T @ (batch[0] @ model["w"] - batch[1]) / len(batch[1])}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check({"w": np.zeros(4)}, batches, loss=loss, grad=grad, optimizer=gg.SGD(lr))
    assert "GG401" in {f.code for f in report.findings if f.severity == "error"}
