"""Losses that draw random numbers of their own: diffusion, sampled latents, dropout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import Trace
from gradguard.measurements.rate_runs import DRAWS, LEAST, losses_before

torch = pytest.importorskip("torch")

BATCHES = 12


class Drawn:
    """Every batch's loss is 1 and what the seed adds, as much as ``noise``."""

    def __init__(self, noise: float, batches: int = BATCHES) -> None:
        self.noise = noise
        self.training = SimpleNamespace(batch_count=batches)
        self.evaluated = 0

    def run(self, steps: int, *, seed: int, compare: int) -> Trace:
        """Only the losses before training are asked for."""
        assert steps == 0
        self.evaluated += compare
        losses = tuple(1.0 + self.noise * np.random.default_rng([seed, index]).standard_normal() for index in range(compare))
        nothing = np.zeros((0, 1))
        return Trace(steps=(), blocks=("w",), gradient=nothing, weight=nothing, update=nothing, loss_start=losses)


def test_a_loss_that_draws_nothing_is_taken_once() -> None:
    problem: Any = Drawn(0.0)
    assert losses_before(problem, Settings()) == (1.0,) * BATCHES
    assert problem.evaluated == BATCHES + 1


@pytest.mark.parametrize(("batches", "draws"), [(BATCHES, 6), (1, DRAWS), (40, LEAST)])
def test_other_losses_are_means_of_several_draws(batches: int, draws: int) -> None:
    problem: Any = Drawn(0.1, batches)
    found = losses_before(problem, Settings())
    assert len(found) == batches
    assert problem.evaluated == draws * batches + 1
    assert np.std(found) < 2 * 0.1 / draws**0.5
    assert abs(np.mean(found) - 1.0) < 4 * 0.1 / (draws * batches) ** 0.5
    assert losses_before(problem, Settings()) == found


def noisy(seed: int) -> tuple[Any, list[Any], Any]:
    """A linear model that is asked for the noise that was added to its input."""
    torch.manual_seed(seed)
    model, batches = torch.nn.Linear(2, 2), [torch.randn(64, 2) for _ in range(BATCHES)]

    def loss(m: Any, b: Any) -> Any:
        noise = torch.randn_like(b)
        return (m(b + noise) - noise).square().mean()

    return model, batches, loss


@pytest.mark.parametrize("seed", range(6))
def test_nothing_diverges_where_nothing_moves(seed: int) -> None:
    model, batches, loss = noisy(seed)
    report = gg.check_learning_rate(
        model, batches, loss=loss, optimizer=torch.optim.SGD(model.parameters(), 1e-9), seed=seed, select="GG401"
    )
    assert report.ok, str(report)


def test_what_diverges_is_found_all_the_same() -> None:
    model, batches, loss = noisy(0)
    report = gg.check_learning_rate(model, batches, loss=loss, optimizer=torch.optim.SGD(model.parameters(), 10.0))
    assert [f.code for f in report.errors] == ["GG401"]


def test_batches_draw_numbers_of_their_own_before_training() -> None:
    from gradguard.adapters.torch_training import TorchTraining

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scenario = gg.Scenario(model, [torch.ones(3)] * 4, lambda m, b: m.weight.sum() * 0 + torch.rand(()), optimizer=optimizer)
    start = TorchTraining(scenario, Settings(steps=8)).run(0, seed=0, compare=4).loss_start
    assert len(set(start)) == 4


class Tempered(torch.nn.Module):
    """Only a temperature has a gradient: the scores are cut off."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.body, self.temperature = inner or torch.nn.Linear(8, 4), torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Any) -> Any:
        return self.temperature * self.body(x).detach()


def test_a_model_that_is_cut_off_cannot_learn_a_batch_with_few_labels_of_a_class() -> None:
    torch.manual_seed(0)
    model = Tempered(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)))
    batches = [(torch.randn(32, 8), torch.randint(0, 4, (32,))) for _ in range(4)]
    report = gg.check_learning_rate(
        model, batches, loss=lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]),
        optimizer=torch.optim.Adam(model.parameters(), 1.0),
    )
    assert "GG405" in {f.code for f in report.errors}, str(report)
    assert not any("no weight moves" in f.message for f in report.findings), str(report)
