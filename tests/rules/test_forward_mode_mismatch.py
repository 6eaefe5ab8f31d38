"""GG110: rows that must fire and rows that must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradguard as gg


class Scaled(torch.autograd.Function):
    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)
        return x.sin() * w

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g * x.cos() * w, (g * x.sin()).sum(0)

    @staticmethod
    def jvp(ctx: Any, tx: torch.Tensor | None, tw: torch.Tensor | None) -> torch.Tensor:
        x, w = ctx.saved_tensors
        total = torch.zeros_like(x)
        if tx is not None:
            total = total + tx * x.cos() * w
        return total if tw is None else total + Scaled.factor * tw * x.sin()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Scaled.apply(x, self.weight)


def check(dtype: torch.dtype) -> gg.Report:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Layer(), nn.Linear(4, 2)).to(dtype)
    return gg.check_gradients(model, (torch.randn(5, 3).to(dtype),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("factor", [2.0, 1.001, -1.0])
def test_another_jvp_is_an_error(monkeypatch: pytest.MonkeyPatch, factor: float, dtype: torch.dtype) -> None:
    monkeypatch.setattr(Scaled, "factor", factor)
    (finding,) = check(dtype).errors
    assert (finding.code, finding.module) == ("GG110", "1")
    assert finding.message.startswith("Scaled in 1: jvp and backward disagree")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_right_one_passes(dtype: torch.dtype) -> None:
    report = check(dtype)
    assert not report.findings
    assert [c.status for c in report.checks if c.code == "GG110"] == ["passed"]


def test_a_function_that_is_kept_under_another_name_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaled, "factor", 2.0)
    inputs = (torch.randn(5, 4).requires_grad_(), torch.ones(4, requires_grad=True))
    (finding,) = gg.check_gradients(Scaled.apply, inputs).errors
    assert finding.code == "GG110"
    assert "test_forward_mode_mismatch.py" in finding.location
    assert "apply" not in torch.autograd.Function.__mro__[1].__dict__  # nothing of ours is left in torch


def test_without_jvp_it_is_skipped_with_its_reason() -> None:
    report = gg.check_gradients(nn.Linear(3, 2), (torch.randn(5, 3),), select="GG110")
    assert [(c.status, c.reason) for c in report.checks] == [("skipped", "no custom function defines jvp")]
