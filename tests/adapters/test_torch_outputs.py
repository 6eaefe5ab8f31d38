"""What predictions say of their own labels, against every pair of prediction and label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.torch_likelihoods import Prediction
from gradguard.adapters.torch_observe import TorchHealth
from gradguard.adapters.torch_outputs import Outputs


def collected(kind: str, p: torch.Tensor, y: torch.Tensor) -> Outputs:
    found = Outputs()
    for a, b in zip(p.split(16), y.split(16), strict=True):
        found.add(Prediction(kind, a, b), a)
    return found


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_cross_entropy(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 4
    logits = torch.randn(64, 4, generator=generator) + scale * functional.one_hot(y, 4)
    log_p = logits.double().log_softmax(1)
    pairs = -log_p[:, y].mean()  # every prediction with every label
    own = -log_p.gather(1, y[:, None]).mean()
    facts = collected("nll", log_p, y).facts()
    assert facts is not None
    assert np.isclose(facts.told, float(pairs - own), rtol=1e-10)


def test_squared_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(64, 3, generator=generator).double()
    p = 0.5 * y + torch.randn(64, 3, generator=generator)
    pairs = ((p[:, None] - y[None]) ** 2).mean()
    facts = collected("mse", p, y).facts()
    assert facts is not None
    assert np.isclose(facts.told, float(pairs - ((p - y) ** 2).mean()), rtol=1e-10)


def test_other_losses_say_nothing() -> None:
    facts = collected("absolute", torch.ones(32, 1), torch.zeros(32, 1)).facts()
    assert facts is not None
    assert np.isnan(facts.told)


@pytest.mark.parametrize(
    ("labels", "alike", "counted"),
    [
        (torch.arange(64.0), False, True),
        (torch.arange(64.0), True, False),  # so are the samples of each batch
        (torch.arange(4.0).repeat_interleave(16), False, False),  # so are their labels: one answer for a whole graph
    ],
)
def test_outputs_that_are_right_to_be_the_same_within_a_batch(labels: torch.Tensor, alike: bool, counted: bool) -> None:
    outputs = torch.arange(4.0).repeat_interleave(16)
    facts = collected("mse", outputs[:, None], labels[:, None]).facts(alike=alike)
    assert facts is not None
    assert (facts.within == 0.0) is counted


@pytest.mark.parametrize("kind", ["bce", "bce_logits"])
def test_binary_cross_entropy(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(64) % 2).double()[:, None]
    z = y + torch.randn(64, 1, generator=generator).double()
    pairs = functional.binary_cross_entropy_with_logits(z.expand(64, 64), y.T.expand(64, 64))
    own = functional.binary_cross_entropy_with_logits(z, y)
    facts = collected(kind, z.sigmoid() if kind == "bce" else z, y).facts()
    assert facts is not None
    assert np.isclose(facts.told, float(pairs - own), rtol=1e-5)


@pytest.mark.parametrize(("known", "dropped", "same"), [(True, 0.0, 0), (False, 0.0, 64), (True, 0.5, 64)])
def test_inputs_are_not_all_the_same_where_the_model_knows_something_else(known: bool, dropped: float, same: int) -> None:
    """A grid is what the model is given; what tells samples apart is set before. Where dropout is drawn, that is not known."""

    class Conditioned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.drop, self.context = torch.nn.Linear(2, 1), torch.nn.Dropout(dropped), torch.zeros(16, 1)

        def forward(self, grid: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.drop(self.last(torch.cat([grid, self.context], 1)))
            return made

    def loss(model: Conditioned, batch: torch.Tensor) -> torch.Tensor:
        model.context = batch if known else torch.zeros(16, 1)
        return functional.mse_loss(model(torch.ones(16, 1)), batch)

    torch.manual_seed(0)
    scenario = gg.Scenario(model=Conditioned(), batches=[torch.randn(16, 1) for _ in range(4)], loss=loss)
    assert TorchHealth(scenario, Settings()).look("start").same_inputs == same
