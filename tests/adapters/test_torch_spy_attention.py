"""Softmax over the one output of a linear layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradguard.adapters.torch_spy import Spy


class Scored(nn.Module):
    def __init__(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.score, self.weigh = nn.Linear(4, 1), weigh

    def forward(self, h: Tensor) -> Tensor:
        return (self.weigh(self.score(h), h) * h).sum(1)


@pytest.mark.parametrize(
    ("weigh", "wrong"),
    [
        (lambda s, h: s.softmax(-1), True),
        (lambda s, h: torch.softmax(s / 2.0, dim=2), True),
        (lambda s, h: s.softmax(1), False),
        (lambda s, h: s.squeeze(-1).softmax(-1).unsqueeze(-1), False),
        (lambda s, h: (h @ h[:, :1].transpose(1, 2)).softmax(-1), False),  # attention to a single key
    ],
)
def test_one_score(weigh: Callable[[Tensor, Tensor], Tensor], wrong: bool) -> None:
    model = Scored(weigh)
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model(torch.randn(3, 5, 4, requires_grad=True))
    assert any(spy.attention.single.values()) == wrong


def test_a_sequence_of_one_place_says_nothing() -> None:
    model = Scored(lambda s, h: s.softmax(-1))
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model(torch.randn(3, 1, 4, requires_grad=True))
    assert not any(spy.attention.single.values())
