"""GG107: rows that must fire and rows that must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg


def stored(t: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor from its start, in the tensor's shape, whatever its strides; repeated where it is shorter."""
    memory = torch.as_strided(t, (t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return memory.repeat(t.numel() // len(memory) + 1)[: t.numel()].reshape(t.shape)


class Reads(torch.autograd.Function):
    """x ** 2, with a backward that reads the cotangent (or x) in one of several ways."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, how: str) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.how = how
        return x.contiguous() * x.contiguous()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if ctx.how == "cotangent":
            g = stored(g)
        elif ctx.how == "input":
            x = stored(x)
        elif ctx.how == "view":
            g = g.view(-1).view(x.shape)
        return 2 * x * g, None


class Layer(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Reads.apply(x, self.how)


def check(model: nn.Module, *shape: int, **options: Any) -> gg.Report:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()
    return gg.check_gradients(model.double(), (x.requires_grad_(),), select="GG107", **options)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_a_cotangent_read_as_contiguous_is_an_error(shape: tuple[int, ...]) -> None:
    findings = check(Layer("cotangent"), *shape).errors
    assert {f.pattern for f in findings} == {"only with a non-contiguous cotangent"}
    assert findings[0].message.startswith("Reads: the same cotangent")


def test_it_is_found_behind_a_loss_that_never_makes_such_a_cotangent() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Layer("cotangent"), nn.Linear(4, 2))
    (finding,) = check(model, 3, 4, loss=lambda y: y.square().mean()).errors
    assert (finding.module, finding.pattern) == ("1", "only with a non-contiguous cotangent")


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5)], ids=str)
def test_an_input_read_as_contiguous_is_an_error(shape: tuple[int, ...]) -> None:
    (finding,) = check(Layer("input"), *shape).errors
    assert finding.pattern == f"only with inputs {'channels_last' if len(shape) == 4 else 'in another memory order'}"


def test_a_value_that_depends_on_layout_is_an_error() -> None:
    class Value(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return stored(x).sin() * x

    assert "gives another value" in check(Value(), 3, 4).errors[0].message


def test_a_refusal_is_a_warning() -> None:
    report = check(Layer("view"), 3, 4)
    assert report.ok
    assert {f.severity for f in report.findings} == {"warning"}
    assert "raises for a cotangent that is expanded" in report.findings[0].message or "transposed" in report.findings[0].message


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Layer("right"), (3, 4)),
        (Layer("right"), (2, 3, 4, 5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)), (2, 3, 8, 8)),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU()), (5, 4)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Dropout(0.5)), (2, 3, 4)),
        (nn.MultiheadAttention(8, 2), (4, 8)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else str(v),
)
def test_a_right_gradient_passes(model: nn.Module, shape: tuple[int, ...]) -> None:
    if isinstance(model, nn.MultiheadAttention):
        attention = model.double()
        report = gg.check_gradients(lambda x: attention(x, x, x)[0], torch.randn(*shape).double(), select="GG107")
    else:
        report = check(model, *shape)
    assert not report.findings, str(report)


@pytest.mark.parametrize(
    ("vjp", "status"),
    [
        (lambda g, x: np.ravel(g, order="K").reshape(g.shape) * 2 * x, "failed"),
        (lambda g, x: g * 2 * np.ravel(x, order="K").reshape(x.shape), "failed"),
        (lambda g, x: g * 2 * x, "passed"),
    ],
    ids=["cotangent", "input", "right"],
)
def test_in_numpy(vjp: Any, status: str) -> None:
    x = np.arange(12.0).reshape(3, 4) / 7
    report = gg.check_gradients(lambda x: x**2, x, vjp=vjp, select="GG107")
    assert [c.status for c in report.checks] == [status], str(report)
