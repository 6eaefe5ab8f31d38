"""``vary=True``: faults that only some values or sizes show, and right functions that stay right on every variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.variants import array_variants
from tests.cases.case import Checked
from tests.mutations import functions as fn


class Planted(torch.autograd.Function):
    """exp(x) with a backward that is wrong where ``where`` says."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, where: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.where = where
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return torch.where(ctx.where(x), torch.zeros_like(x), g * x.exp()), None


def partial(x: torch.Tensor) -> torch.Tensor:
    return (torch.arange(x.shape[-1]) >= x.shape[-1] // 4 * 4).expand(x.shape)


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).double()

WRONG: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "zeros": (lambda x: x == 0, "only at zeros"),
    "whole numbers": (lambda x: (x == x.round()) & (x != 0), "only at thresholds"),
    "last partial block": (partial, "only at other sizes (a last partial block?)"),
    "batch of 1": (lambda x: torch.full(x.shape, x.shape[0] == 1), "only at batch 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_the_users_inputs_hide_is_found_and_named(what: str) -> None:
    where, pattern = WRONG[what]
    assert gg.check_gradients(lambda x: Planted.apply(x, where), X).ok
    report = gg.check_gradients(lambda x: Planted.apply(x, where), X, vary=True, select="GG101,GG105")
    assert not report.ok
    assert {f.pattern for f in report.errors} == {pattern}
    assert report.errors[0].evidence.startswith("inputs: ")
    assert "failed" in {c.status for c in report.checks}


def test_repeated_indices_are_tried() -> None:
    checked: Checked = fn.gather(True)
    x, _, *rest = checked.inputs
    inputs = (x, torch.tensor([0, 2, 4, 5]), *rest)
    assert gg.check_gradients(checked.f, inputs).ok
    (finding, *_) = gg.check_gradients(checked.f, inputs, vary=True).errors
    assert finding.pattern == "only at repeated indices"


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.exp(), lambda x: x.relu().sum(-1), lambda x: x.softmax(-1), lambda x: x.abs().amax(-1),
        lambda x: nn.functional.layer_norm(x, x.shape[-1:]), lambda x: nn.functional.gelu(x) * x.std(0, correction=0),
    ],
    ids=["exp", "relu", "softmax", "amax", "layer norm", "deviation"],
)
def test_right_functions_stay_right(f: Any) -> None:
    report = gg.check_gradients(f, X, vary=True, select="GG101,GG105,GG106,GG107,GG108,GG112")
    assert not report.errors, str(report)


def test_a_variant_that_is_not_taken_is_said() -> None:
    report = gg.check_gradients(nn.Linear(8, 2).double(), (X,), vary=True)
    assert report.ok, str(report)
    reason = next(c.reason for c in report.checks if c.code == "GG101")
    assert "a batch of 1" in reason
    assert "not taken: axis 1 of 7 (the model raised RuntimeError" in reason


def test_the_users_inputs_are_left_alone() -> None:
    x = X.clone().requires_grad_()
    gg.check_gradients(lambda x: x.exp(), x, vary=True)
    assert torch.equal(x, X)
    assert x.grad is None


def test_in_numpy() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4))

    def vjp(g: Any, x: Any) -> Any:
        return np.where(x == 0, 0, g * np.cos(x))

    assert gg.check_gradients(np.sin, x, vjp=vjp).ok
    assert {f.pattern for f in gg.check_gradients(np.sin, x, vjp=vjp, vary=True).errors} == {"only at zeros"}
    assert gg.check_gradients(np.sin, x, vjp=lambda g, x: g * np.cos(x), vary=True).ok


def test_variants_that_change_nothing_are_left_out() -> None:
    names = [name for name, _, _ in array_variants({0: np.zeros((1, 2))})]
    assert names == ["a batch of 3", "axis 1 of 1", "axis 1 of 3"]


def test_vary_is_true_or_false() -> None:
    with pytest.raises(gg.UsageError, match="vary takes True or False"):
        gg.check_gradients(lambda x: x, X, vary="all")
