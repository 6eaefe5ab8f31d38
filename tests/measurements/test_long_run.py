"""How long the longer run is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import adapt_training
from gradguard.judging import gather
from gradguard.measurements.long_run import FURTHER, STEPS, LongRun


@pytest.mark.parametrize(
    ("lr", "known", "steps"),
    [
        (0.1, True, STEPS),  # it learns
        (1e-7, True, STEPS),  # nothing moves: it fails
        (1e-4, True, FURTHER * STEPS),  # above the guess, and on its way
    ],
)
def test_it_is_longer_only_where_it_decides_nothing(lr: float, known: bool, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator)
    y = x.sum(1, keepdim=True) / 2
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, 0.3)
    scenario = gg.Scenario(
        model,
        list(zip(x.split(64), y.split(64), strict=True)),
        lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]),
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
    )
    settings = Settings(steps=20)
    evidence = gather(adapt_training(scenario, settings), ["training_run", "passes", "long_run"], settings, {})
    longer = evidence["long_run"]
    assert isinstance(longer, LongRun)
    assert len(longer.trace.steps) == steps
