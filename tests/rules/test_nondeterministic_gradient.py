"""GG104: rows that must fire, with their cause, and rows that must not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradguard as gg

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()


class Counting(nn.Module):
    """Its value depends on how often anything was called, kept where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = itertools.count()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + next(self.counter))


COUNTER = itertools.count(1)


class Drifting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        return 2 * g * next(COUNTER)


class Drifts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Drifting.apply(x)


class Remade(nn.Module):
    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.body, self.keep = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh()), keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.body, x, use_reentrant=False, preserve_rng_state=self.keep)


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), middle, nn.Linear(4, 2)).double()


def errors(model: nn.Module) -> list[Any]:
    return [f for f in gg.check_gradients(model, (X,)).errors if not f.caused_by]


def test_a_value_that_changes_names_the_module() -> None:
    (finding,) = errors(network(Counting()))
    assert (finding.code, finding.module) == ("GG104", "2")
    assert "2 (Counting) differs first" in finding.message


def test_a_gradient_that_changes_names_the_node_and_its_module() -> None:
    report = gg.check_gradients(network(Drifts()), (X,), select="GG104")
    assert "DriftingBackward in 2 (Drifts) differs first" in report.errors[0].message


def test_another_mask_in_backward_names_the_module_that_draws() -> None:
    (finding,) = errors(Remade(keep=False).double())
    assert (finding.code, finding.module) == ("GG104", "body.1")
    assert "drawn by body.1 (Dropout)" in finding.message


@pytest.mark.parametrize("model", [Remade(keep=True), network(nn.Dropout(0.5))], ids=["checkpoint", "dropout"])
def test_a_random_layer_that_can_be_repeated_passes(model: nn.Module) -> None:
    assert not gg.check_gradients(model.double(), (X,)).findings
