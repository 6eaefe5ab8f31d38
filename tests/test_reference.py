"""``reference=``: a plain implementation whose error in the same precision is the yardstick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg

X = (3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(1))).float()


class Variance(torch.autograd.Function):
    """The variance over the last axis, with a backward that loses ``bits`` in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, lossy: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.lossy = lossy
        return x.var(-1, correction=0)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        centred = x - x.mean(-1, keepdim=True)
        if ctx.lossy and x.dtype == torch.float32:
            centred = centred * (1 + 4e-6 * torch.sign(centred))
        return g[..., None] * 2 * centred / x.shape[-1], None


def plain(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)).square().mean(-1)


def test_an_error_below_the_general_limit_is_found_with_a_reference() -> None:
    assert gg.check_gradients(lambda x: Variance.apply(x, True), X).ok
    (finding,) = gg.check_gradients(lambda x: Variance.apply(x, True), X, reference=plain).errors
    assert finding.code == "GG111"
    assert "the reference is off by" in finding.message


def test_a_kernel_as_good_as_the_reference_passes() -> None:
    assert gg.check_gradients(lambda x: Variance.apply(x, False), X, reference=plain).ok


def test_another_name_of_the_argument_is_the_same_argument() -> None:
    assert not gg.check_gradients(lambda x: Variance.apply(x, True), X, reference=lambda values: plain(values)).ok


def test_a_reference_module_gets_the_models_parameters() -> None:
    torch.manual_seed(0)
    model, reference = nn.Sequential(nn.Linear(8, 4), nn.Tanh()), nn.Sequential(nn.Linear(8, 4), nn.Tanh())
    before = reference[0].weight.detach().clone()
    report = gg.check_gradients(model, (X,), reference=reference)
    assert report.ok, str(report)
    assert torch.equal(reference[0].weight, before)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: gg.check_gradients(nn.Linear(8, 4), (X,), reference=nn.Linear(8, 5)), "the reference has other parameters"),
        (lambda: gg.check_gradients(lambda x: x, X, reference=3), "reference takes a torch module or a function"),
        (
            lambda: gg.check_gradients(np.sum, np.ones(3), grad=np.ones_like, reference=np.sum),
            "reference takes a torch module or a function",
        ),
    ],
)
def test_bad_references_are_refused(call: Any, says: str) -> None:
    with pytest.raises(gg.UsageError) as caught:
        call()
    assert says in str(caught.value)
