"""A layer on another scale than the others, and the same training with it at the usual gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import Trainable, adapt_training

BATCHES = 8


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ten separable clusters in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 16, generator=generator)
    labels = torch.arange(BATCHES * 40) % 10
    x = centres[labels] + 0.3 * torch.randn(len(labels), 16, generator=generator)
    return [(x[i::BATCHES], labels[i::BATCHES]) for i in range(BATCHES)]


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(("optimizer", "severity"), [(torch.optim.SGD, "error"), (torch.optim.Adam, "warning")])
def test_an_error_only_where_the_scale_does_harm(optimizer: type[torch.optim.Optimizer], severity: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    nn.init.normal_(model[4].weight, std=5.0)
    lr = 0.1 if optimizer is torch.optim.SGD else 3e-3
    report = gg.check_training(
        model, data(), loss=loss, optimizer=optimizer(model.parameters(), lr=lr), steps=20, select=["GG503"]
    )
    (finding,) = report.findings
    assert (finding.severity, finding.module) == (severity, "4"), str(report)


def square(model: dict[str, np.ndarray], batch: np.ndarray) -> float:
    return float(0.5 * np.sum((batch @ model["w"]) ** 2) + 0.5 * np.sum(model["b"] ** 2))


def square_grad(model: dict[str, np.ndarray], batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": batch.T @ (batch @ model["w"]), "b": model["b"].copy()}


def problems() -> list[tuple[str, Trainable]]:
    """A model of either framework, and the name of its matrix."""
    numpy_model = {"w": np.ones((3, 2)), "b": np.full(2, 2.0)}
    numpy_one = gg.Scenario(model=numpy_model, batches=[np.eye(3)], loss=square, grad=square_grad, optimizer=gg.SGD(lr=0.1))
    torch_model = nn.Linear(3, 2)
    torch_one = gg.Scenario(
        model=torch_model,
        batches=[torch.eye(3)],
        loss=lambda model, batch: model(batch).square().sum(),
        optimizer=torch.optim.SGD(torch_model.parameters(), lr=0.1),
    )
    return [("w", adapt_training(numpy_one, Settings())), ("weight", adapt_training(torch_one, Settings()))]


@pytest.mark.parametrize("which", [0, 1])
def test_weights_are_scaled_in_the_copy_alone(which: int) -> None:
    name, problem = problems()[which]
    plain, scaled = problem.run(1), problem.run(1, weight_scales={name: 0.5})
    index = plain.blocks.index(name)
    np.testing.assert_allclose(scaled.weight[0, index], 0.5 * plain.weight[0, index], rtol=1e-6)
    others = [i for i in range(len(plain.blocks)) if i != index]
    np.testing.assert_array_equal(scaled.weight[0, others], plain.weight[0, others])
    np.testing.assert_array_equal(problem.run(1).weight, plain.weight)
