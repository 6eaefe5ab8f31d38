"""Curvature of complex and sparse parameters, and of modules that torch.func transforms or torch.jit has made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.torch_rates import TorchRates
from gradguard.measurements.curvature import Curvature, measure

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Phases(torch.nn.Module):
    """|x w|^2 summed, w complex: the real Hessian is 2 x'x on real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(5, dtype=torch.complex128))

    def forward(self, x: Any) -> Any:
        return x.to(self.w.dtype) @ self.w


def squared(model: Any, batch: Any) -> Any:
    return (model(batch[0]) - batch[1]).abs().square().mean()


@pytest.mark.parametrize("double", [True, False])
def test_a_complex_parameters_eigenvalue(double: bool) -> None:
    x = torch.tensor(np.random.default_rng(0).standard_normal((40, 5)))
    model = Phases()
    scenario = gg.Scenario(model, [(x, torch.zeros(40, dtype=torch.complex128))], squared,
                           optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    problem = TorchRates(scenario, Settings(steps=10))
    if not double:
        plain = problem.point
        problem.point = lambda **keywords: _differences(plain(**keywords))  # type: ignore[method-assign]  # for this test
    found = measure(problem, Settings(steps=10), {}, ())
    assert isinstance(found, Curvature)
    largest = float(np.linalg.eigvalsh(2.0 * (x.T @ x).numpy() / 40)[-1])
    assert found.groups[0].lambda_max == pytest.approx(largest, rel=1e-2)
    assert found.groups[0].limit == pytest.approx(3.8 / largest, rel=1e-2)


def _differences(point: Any) -> Any:
    point.use_differences("asked for")
    return point


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_complex_model_is_audited_with_every_optimizer(optimizer: Any) -> None:
    torch.manual_seed(0)
    model = Phases()
    with torch.no_grad():
        model.w.copy_(torch.randn(5, dtype=torch.complex128))
    x = torch.randn(64, 5, dtype=torch.float64)
    batches = [(x[i : i + 16], (x[i : i + 16] @ torch.arange(1.0, 6.0, dtype=torch.float64)).to(torch.complex128))
               for i in range(0, 64, 16)]
    report = gg.audit(gg.Scenario(model, batches, squared, optimizer=optimizer(model.parameters(), 1e-2)))
    assert not report.errors, str(report)


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = torch.nn.EmbeddingBag(20, 3, sparse=True)
    batches = [(torch.randint(0, 20, (16, 4)), torch.randn(16, 3)) for _ in range(3)]
    scenario = gg.Scenario(
        model, batches, lambda m, b: F.mse_loss(m(b[0]), b[1]), optimizer=torch.optim.SparseAdam(list(model.parameters()), 1e-2)
    )
    report = gg.audit(scenario, select="GG1,GG3,GG401,GG403")
    assert not report.errors, str(report)


def test_a_model_that_torch_func_maps_over_samples() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def loss(model: Any, batch: Any) -> Any:
        slopes = torch.func.vmap(torch.func.jacrev(lambda x: model(x[None])[0]))(batch)
        return (slopes - 1.0).square().mean()

    scenario = gg.Scenario(model, [torch.randn(8, 3) for _ in range(3)], loss, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    report = gg.audit(scenario)
    assert not report.errors, str(report)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_traced_model_is_checked_for_gradients_and_refused_for_training() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model = torch.jit.trace(plain, torch.randn(4, 3))
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(3, 16, 3)]
    scenario = gg.Scenario(
        model, batches, lambda m, b: F.mse_loss(m(b[0]), b[1]), optimizer=torch.optim.Adam(model.parameters(), 1e-2)
    )
    assert not gg.audit(scenario, select="GG1").errors
    with pytest.raises(gg.UsageError, match="torch.jit module"):
        gg.audit(scenario)
