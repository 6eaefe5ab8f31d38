"""Which weight an activation is counted with, from pass to pass."""

from __future__ import annotations

import torch
from torch import nn

from gradguard.adapters.torch_spy import Spy
from gradguard.adapters.torch_untouched import clean


def test_an_activation_of_the_input_is_no_weights_in_any_pass() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    spy = Spy(model, clean)
    x = torch.randn(3, 4)
    for _ in range(8):
        with spy.installed():
            x = model(x.detach().clone())  # memory is used again, and shapes are the same
    assert [(one.layer, one.block, one.samples) for one in spy.unit_facts()] == [("0", "", 24), ("2", "1.weight", 24)]
