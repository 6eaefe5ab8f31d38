"""Losses that take gradients inside, with respect to a tensor of their own: audited like any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradguard as gg


def physics(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The residual of u_t = u_x, and a boundary."""
    x = batch.clone().requires_grad_()
    u = model(x)
    slopes = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    return (slopes[:, 1] - slopes[:, 0]).square().mean() + (u[:4] - 1.0).square().mean()


def penalty(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The critic's loss of a Wasserstein GAN, with a gradient penalty at random points between the halves."""
    real, fake = batch.chunk(2)
    share = torch.rand(len(real), 1)
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    slopes = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)[0]
    return model(fake).mean() - model(real).mean() + 10.0 * (slopes.norm(dim=1) - 1.0).square().mean()


class Cube(torch.autograd.Function):
    factor = 3.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return g * Cube.factor * x**2


class Cubed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Cube.apply(x)


def scenario(loss: Any, activation: nn.Module) -> gg.Scenario:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 1))
    return gg.Scenario(model, [torch.rand(16, 2) for _ in range(2)], loss)


@pytest.mark.parametrize("loss", [physics, penalty])
def test_silent(loss: Any) -> None:
    report = gg.audit(scenario(loss, nn.Tanh()), select="GG1,GG9")
    assert not report.findings, str(report)
    assert not [c for c in report.checks if c.status == "inconclusive"]
    assert {row["block"] for row in report.table_rows("gradients")} == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("loss", [physics, penalty])
def test_a_wrong_backward_is_found(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not gg.audit(scenario(loss, Cubed()), select="GG101").findings
    monkeypatch.setattr(Cube, "factor", 3.1)
    report = gg.audit(scenario(loss, Cubed()), select="GG101")
    assert report.errors[0].code == "GG101"
    assert "Cube" in str(report.errors[0].block) + report.errors[0].location


def test_new_parameters_in_every_call_are_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(gg.UsageError, match="makes new parameters in every call"):
        gg.check_gradients(lambda x: nn.Linear(2, 1)(model(x)), torch.randn(4, 2))


def test_a_gradient_that_cancels_to_rounding_is_no_nonlinear_backward() -> None:
    def cox(model: nn.Module, batch: Any) -> torch.Tensor:  # no constant changes it, so the last bias has gradient 0
        risk = model(batch).squeeze(-1)
        return (risk.logcumsumexp(0) - risk).mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    report = gg.audit(gg.Scenario(model, [torch.randn(64, 5)], cox), select="GG1")
    assert not report.errors, str(report)


@pytest.mark.parametrize("second_order", [True, False], ids=["MAML", "first-order MAML"])
def test_an_inner_step_without_its_graph_is_a_cut_that_is_named(second_order: bool) -> None:
    def adapted(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        weights = dict(model.named_parameters())
        inner = torch.func.functional_call(model, weights, (batch,)).square().mean()
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=second_order)
        moved = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
        return torch.func.functional_call(model, moved, (batch.flip(0),)).sin().mean()

    report = gg.audit(scenario(adapted, nn.Tanh()), select="GG1")
    assert not report.errors, str(report)
    assert [f.code for f in report.findings] == ([] if second_order else ["GG113"])
    assert second_order or "autograd.grad" in report.findings[0].location
