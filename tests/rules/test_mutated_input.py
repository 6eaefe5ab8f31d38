"""GG108: rows that must fire and rows that must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(5)).double()


class Writes(torch.autograd.Function):
    """exp(x), with a backward that writes somewhere."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, where: str) -> torch.Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        ctx.where, ctx.kept = where, y.clone()
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (y,) = ctx.saved_tensors
        if ctx.where == "grad_output":
            return g.mul_(y), None
        if ctx.where == "saved tensor":
            return y.data.mul_(g).clone(), None
        if ctx.where == "ctx":
            return ctx.kept.mul_(g).clone(), None
        return g * y, None


def statuses(report: gg.Report) -> dict[str, str]:
    return {c.code: c.status for c in report.checks}


@pytest.mark.parametrize("where", ["grad_output", "saved tensor"])
def test_a_backward_that_writes_is_an_error(where: str) -> None:
    (finding,) = gg.check_gradients(lambda x: Writes.apply(x, where), X, select="GG108").errors
    assert finding.message == f"Writes: backward writes into its {where} 0"


def test_a_second_backward_that_differs_is_an_error() -> None:
    (finding,) = gg.check_gradients(lambda x: Writes.apply(x, "ctx"), X, select="GG108").errors
    assert finding.pattern == "only in the second backward"


class InPlace(nn.Module):
    """Writes into its input or its parameter."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(4, 3).double(), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if self.what == "input":
                x.mul_(2)
            elif self.what == "input, the same again":
                x.clamp_(min=0)
            elif self.what == "parameter":
                self.linear.weight.mul_(0.9)
            elif self.what == "parameter, the same again":
                self.linear.weight.clamp_(-0.3, 0.3)
        return self.linear(x)


@pytest.mark.parametrize(
    ("what", "severity"),
    [
        ("input", ["error"]), ("input, the same again", ["warning"]), ("parameter", ["error"]),
        ("parameter, the same again", ["warning"]), ("nothing", []),
    ],
)
def test_a_forward_that_writes(what: str, severity: list[str]) -> None:
    model, x = InPlace(what), X.clone()
    before = [p.detach().clone() for p in model.parameters()]
    report = gg.check_gradients(model, (x,), select="GG108")
    assert [f.severity for f in report.findings] == severity
    assert torch.equal(x, X)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_function_that_writes_into_its_argument() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x += 1
        return x * x

    (finding,) = gg.check_gradients(f, X, select="GG108").errors
    assert finding.message == "input x is written into"


def test_a_forward_that_overwrites_what_backward_needs_is_an_error_and_no_crash() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        y += 1
        return y

    report = gg.check_gradients(f, X)
    assert {f.code for f in report.errors} == {"GG108"}
    assert report.errors[0].message == "forward writes into a tensor that was saved for backward: backward raises"


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), nn.BatchNorm1d(4),
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True)),
    ],
    ids=["relu in place", "batch normalisation", "dropout in place"],
)
def test_what_torch_does_in_place_itself_passes(model: nn.Module) -> None:
    assert not gg.check_gradients(model.double(), (X,), select="GG108").findings


def square(x: Any) -> Any:
    return np.sum(x**2)


def writing(x: Any) -> Any:
    x *= 2
    return np.sum(x**2)


def writing_gradient(x: Any) -> Any:
    x *= 2
    return x


@pytest.mark.parametrize(
    ("f", "grad", "expected"),
    [(square, lambda x: 2 * x, "passed"), (writing, lambda x: 8 * x, "failed"), (square, writing_gradient, "failed")],
    ids=["right", "f writes", "grad writes"],
)
def test_in_numpy(f: Any, grad: Any, expected: str) -> None:
    x = np.ones(3)
    report = gg.check_gradients(f, x, grad=grad, select="GG108")
    assert statuses(report)["GG108"] == expected, str(report)
    assert x.tolist() == [1, 1, 1]


def test_in_numpy_a_vjp_that_writes_into_the_cotangent() -> None:
    def vjp(g: Any, x: Any) -> Any:
        g *= np.cos(x)
        return g

    (finding,) = gg.check_gradients(np.sin, np.ones(3), vjp=vjp, select="GG108").errors
    assert finding.message == "the cotangent of vjp is written into"
