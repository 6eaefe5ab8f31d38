"""GG112: rows that must fire and rows that must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradguard as gg

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(5))


class Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, how: str) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        right = (g @ weight, g.T @ x, g.sum(0), None)
        if ctx.how == "unsummed":
            return *right[:2], g, None
        if ctx.how == "narrow":
            return *right[:2], g.sum(0)[:1], None
        if ctx.how == "transposed":
            return right[0], right[1].T, right[2], None
        if ctx.how == "too few":
            return right[:3]
        if ctx.how == "raises":
            raise IndexError("no such head")
        return right


class Layer(nn.Linear):
    how = "right"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Affine.apply(x, self.weight, self.bias, self.how)


def check(how: str) -> gg.Report:
    torch.manual_seed(0)
    layer = Layer(4, 3)
    layer.how = how
    return gg.check_gradients(nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2)), (X,))


SAYS = {
    "unsummed": "Affine in 0: backward returned shape (5, 3) for an argument of shape (3,)",
    "narrow": "Affine in 0: backward returned shape (1,) for an argument of shape (3,)",
    "transposed": "Affine in 0: backward returned shape (4, 3) for an argument of shape (3, 4)",
    "too few": "incorrect number of gradients",
    "raises": "Affine in 0: backward raises IndexError: no such head",
}


@pytest.mark.parametrize("how", SAYS)
def test_a_gradient_of_another_shape_is_an_error_and_no_crash(how: str) -> None:
    report = check(how)
    assert {f.code for f in report.errors} == {"GG112"}, str(report)
    finding = report.errors[0]
    assert SAYS[how] in finding.message
    assert finding.module == "0"
    assert "test_wrong_gradient_shape.py" in finding.location


def test_a_backward_that_raises_behind_dropout_is_one_error() -> None:
    layer = Layer(4, 3)
    layer.how = "raises"
    report = gg.check_gradients(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), layer), (X,))
    assert [f.code for f in report.errors] == ["GG112"], str(report)


def test_the_right_one_passes() -> None:
    assert not check("right").findings


def test_another_dtype_is_a_warning() -> None:
    class Wide(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> Any:
            return 2 * g.double()

    report = gg.check_gradients(lambda x: Wide.apply(x), X, precision="native", select="GG112")
    assert report.ok
    assert [f.severity for f in report.findings] == ["warning"]
    assert "backward returned torch.float64 for an argument of torch.float32" in report.findings[0].message


def test_an_error_that_is_no_custom_functions_is_still_a_usage_error() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()

        def fail(g: torch.Tensor) -> torch.Tensor:
            raise ValueError("a hook")

        y.register_hook(fail)
        return y

    with pytest.raises(gg.UsageError, match="backward raised ValueError: a hook"):
        gg.check_gradients(f, X)
