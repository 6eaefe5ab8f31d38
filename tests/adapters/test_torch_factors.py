"""With which factor the loss of the predictions enters what is minimised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradguard as gg

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(128, 8, generator=GENERATOR)
CLASSES = (X[:, :4] @ torch.randn(4, 4, generator=GENERATOR)).argmax(1)
NUMBERS = X[:, :2].sin()
BINARY = (X[:, :3] > 0).float()
BATCHES = [tuple(part[i : i + 32] for part in (X, CLASSES, NUMBERS, BINARY)) for i in range(0, 128, 32)]


def log_p(m: Any, b: Any) -> Tensor:
    return functional.log_softmax(m(b[0]), 1).gather(1, b[1][:, None])


def report(
    loss: Any, outputs: int, *, model: nn.Module | None = None, parameters: Any = None, maximize: bool = False
) -> list[tuple[str, str]]:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, outputs))
    optimizer = torch.optim.Adam(parameters(model) if parameters else model.parameters(), lr=1e-3, maximize=maximize)
    found = gg.check_training(model, BATCHES, loss=loss, optimizer=optimizer, select="GG406")
    return [(f.code, f.pattern) for f in found.errors]


def ce(m: Any, b: Any) -> Tensor:
    return functional.cross_entropy(m(b[0]), b[1])


@pytest.mark.parametrize(
    ("loss", "outputs", "maximize"),
    [
        (lambda m, b: -ce(m, b), 4, False),
        (lambda m, b: (-0.5 * functional.cross_entropy(m(b[0]), b[1], reduction="none")).mean(), 4, False),
        (ce, 4, True),
        (lambda m, b: log_p(m, b).mean(), 4, False),
        (lambda m, b: m(b[0]).log_softmax(1)[torch.arange(32), b[1]].mean(), 4, False),
        (lambda m, b: (functional.one_hot(b[1], 4) * m(b[0]).log_softmax(1)).sum() / 32, 4, False),
        (lambda m, b: -functional.mse_loss(m(b[0]), b[2]), 2, False),
        (lambda m, b: -((m(b[0]) - b[2]) ** 2).mean(), 2, False),
        (lambda m, b: -functional.smooth_l1_loss(m(b[0]), b[2]), 2, False),
        (lambda m, b: -functional.binary_cross_entropy_with_logits(m(b[0]), b[3]), 3, False),
    ],
)
def test_the_wrong_sign(loss: Any, outputs: int, maximize: bool) -> None:
    assert report(loss, outputs, maximize=maximize) == [("GG406", "ascent")]


class Attacked(nn.Module):
    """A change of the input is learnt; the classifier is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.change, self.fixed = nn.Parameter(torch.zeros(8)), nn.Linear(8, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fixed(x + self.change.clamp(-0.1, 0.1))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.one, self.other = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 2)


def reinforced(m: Any, b: Any) -> Tensor:
    advantage = torch.where(b[1] == 0, 1.0, -1.0)
    return (functional.cross_entropy(m(b[0]), b[1], reduction="none") * advantage).mean()


def penalised(m: Any, b: Any) -> Tensor:
    """Advantages, and a penalty on the distance from an earlier policy: GRPO."""
    chosen = log_p(m, b)[:, 0]
    ratio, back = (chosen - chosen.detach()).exp(), -1.4 - chosen
    return -(ratio * torch.where(b[1] == 0, 1.0, -1.0)).mean() + 0.04 * (back.exp() - back - 1).mean()


def confused(m: Any, b: Any) -> Tensor:
    """One head is to know, the other not."""
    h = m.trunk(b[0]).tanh()
    return functional.cross_entropy(m.one(h), b[1]) - 0.1 * functional.cross_entropy(m.other(h), (b[0][:, 5] > 0).long())


@pytest.mark.parametrize(
    ("loss", "outputs", "columns"),
    [
        (ce, 4, {}),
        (lambda m, b: -ce(m, b), 4, {"maximize": True}),
        (lambda m, b: -10 * torch.log10(1 / functional.mse_loss(m(b[0]), b[2])), 2, {}),  # the negative of a PSNR
        (lambda m, b: -torch.exp(-((m(b[0]) - b[2]) ** 2)).mean(), 2, {}),  # correntropy
        (lambda m, b: -log_p(m, b).mean(), 4, {}),
        (lambda m, b: -ce(m, b), 4, {"model": Attacked(), "parameters": lambda m: [m.change]}),
        (confused, 4, {"model": Two()}),
        (reinforced, 4, {}),
        (penalised, 4, {}),
    ],
)
def test_what_is_meant(loss: Any, outputs: int, columns: dict[str, Any]) -> None:
    assert report(loss, outputs, **columns) == []
