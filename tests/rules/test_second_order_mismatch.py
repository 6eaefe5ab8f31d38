"""GG109: rows that must fire and rows that must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import gradguard as gg

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()


class Exponential(torch.autograd.Function):
    """exp(x); ``how``: what backward is computed from."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, how: str) -> torch.Tensor:
        y = x.exp()
        ctx.how, ctx.kept = how, y.detach()
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if ctx.how == "kept":
            return g * ctx.kept, None
        if ctx.how == "partly":
            return g * (0.9 * x.exp() + 0.1 * ctx.kept), None
        return g * x.exp(), None


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class Layer(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Exponential.apply(x, self.how)


def model(how: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), Layer(how), nn.Linear(4, 2)).double()


@pytest.mark.parametrize(("how", "what"), [("kept", "wrong"), ("partly", "wrong")])
def test_a_detached_intermediate_is_an_error(how: str, what: str) -> None:
    report = gg.check_gradients(model(how), (X,), order=2)
    assert {f.code for f in report.errors} == {"GG109"}, str(report)
    assert {f.block for f in report.errors} <= {"0.weight", "0.bias"}
    assert report.errors[0].pattern == "only in the second order"
    assert f"the gradient of the gradient is {what}" in report.errors[0].message


def test_without_order_2_it_is_not_looked_at() -> None:
    report = gg.check_gradients(model("kept"), (X,))
    assert report.ok
    assert "GG109" in {c.code for c in report.checks if c.status == "skipped"}


@pytest.mark.parametrize(
    "right",
    [
        model("right"), nn.Linear(3, 2).double(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU()).double(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()),
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Softplus()),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)).double(),
    ],
    ids=["custom", "linear", "relu", "layer norm", "float32", "dropout", "spectral norm"],
)
def test_a_right_second_derivative_passes(right: nn.Module) -> None:
    report = gg.check_gradients(right, (X.to(next(right.parameters()).dtype),), order=2, select="GG109")
    assert [c.status for c in report.checks] == ["passed"], str(report)


def test_once_differentiable_is_inconclusive_and_said() -> None:
    report = gg.check_gradients(lambda x: Once.apply(x), X, order=2, select="GG109")
    (check,) = report.checks
    assert check.status == "inconclusive"
    assert "once_differentiable" in check.reason


def test_in_numpy_it_is_skipped() -> None:
    report = gg.check_gradients(lambda x: np.sum(x**2), np.ones(3), grad=lambda x: 2 * x, order=2, select="GG109")
    assert [c.status for c in report.checks] == ["skipped"]


def test_another_order_is_refused() -> None:
    with pytest.raises(gg.UsageError, match="order=3 is unknown"):
        gg.check_gradients(nn.Linear(3, 2), (X,), order=3)
