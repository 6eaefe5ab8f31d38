"""What predictions say of their own labels, against every pair of prediction and label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from gradguard.adapters.torch_likelihoods import Prediction
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
