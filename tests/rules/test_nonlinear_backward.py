"""GG106: rows that must fire, rows that must not, and the pure rule on numbers typed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.backward_base import BackwardFacts, Fault
from gradguard.measurements.backwards import BackwardPasses
from gradguard.rules.nonlinear_backward import NonlinearBackward

Change = Callable[[torch.Tensor], torch.Tensor]


class Odd(torch.autograd.Function):
    """sin(x), with the cotangent changed before it is used."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: Change) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.change = change
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.change(g) * x.cos(), None


class Layer(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Odd.apply(x, self.change)


WRONG: dict[str, tuple[Change, str]] = {
    "absolute value": (torch.abs, "the sign of the cotangent is lost"),
    "clamped": (lambda g: g.clamp(-1e3, 1e3), "only for large cotangents"),
    "small entries dropped": (lambda g: torch.where(g.abs() < 1e-6, torch.zeros_like(g), g), "only for small cotangents"),
    "derivative alone": (torch.ones_like, "a term without the cotangent"),
    "a constant added": (lambda g: g + 1e-3, "a term without the cotangent"),
    "normalised": (lambda g: g / g.norm().clamp(min=1e-30), "the cotangent's size is lost"),
    "largest entry": (lambda g: g * g.abs() / g.abs().max(), "additive only where one cotangent is alone"),
}
RIGHT: dict[str, Change] = {
    "as it is": lambda g: g,
    "sums": lambda g: g - g.mean(-1, keepdim=True) + g.cumsum(0).flip(0),
    "a mask": lambda g: g * (torch.arange(g.shape[-1]) % 2),
    "by a logarithm": lambda g: torch.sign(g) * (g.abs().log() + 0.3).exp() * torch.tensor(-0.3, dtype=g.dtype).exp(),
}


def check(change: Change, *, loss: bool) -> gg.Report:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), Layer(change), nn.Linear(5, 3)).double()
    options: dict[str, Any] = {"loss": lambda y: y.square().mean()} if loss else {}
    return gg.check_gradients(model, (torch.randn(3, 4).double(),), select="GG106", **options)


@pytest.mark.parametrize("loss", [False, True], ids=["cotangent", "loss"])
@pytest.mark.parametrize("what", WRONG)
def test_a_nonlinear_backward_is_an_error_that_names_the_function(what: str, loss: bool) -> None:
    change, pattern = WRONG[what]
    (finding,) = check(change, loss=loss).errors
    assert (finding.code, finding.module, finding.pattern) == ("GG106", "1", pattern)
    assert finding.message.startswith("Odd in 1: backward is not linear in the cotangent")
    assert "test_nonlinear_backward.py" in finding.location
    assert finding.likely


@pytest.mark.parametrize("loss", [False, True], ids=["cotangent", "loss"])
@pytest.mark.parametrize("what", RIGHT)
def test_a_linear_backward_passes(what: str, loss: bool) -> None:
    report = check(RIGHT[what], loss=loss)
    assert not report.findings
    assert [c.status for c in report.checks if c.code == "GG106"] == ["passed"]


def test_a_hook_that_clamps_is_found_without_a_custom_function() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 3
        y.register_hook(lambda g: g.clamp(-5, 5))
        return y.sin()

    (finding,) = gg.check_gradients(f, torch.linspace(-1, 1, 6).double(), select="GG106").errors
    assert finding.pattern == "only for large cotangents"


def test_a_sum_that_cancels_is_rounding_and_no_error() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1) + 1e-3 * (x - x.mean(-1, keepdim=True)) * x.new_tensor(1e6)

    assert not gg.check_gradients(f, torch.randn(4, 1000, generator=torch.Generator().manual_seed(1)), select="GG106").findings


class Two(torch.autograd.Function):
    """sin and cos of x; ``drops`` both gradients where the first is not wanted."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, drops: bool) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.drops = drops
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor | None, h: torch.Tensor | None) -> Any:
        (x,) = ctx.saved_tensors
        if g is None and ctx.drops:
            return torch.zeros_like(x), None
        first = 0.0 if g is None else g * x.cos()
        return first - (0.0 if h is None else h * x.sin()), None


@pytest.mark.parametrize("drops", [True, False])
def test_each_output_is_also_used_alone(drops: bool) -> None:
    report = gg.check_gradients(lambda x: Two.apply(x, drops), torch.linspace(0.2, 1, 6).double())
    assert [(f.code, f.pattern) for f in report.errors] == (
        [("GG106", "only where some outputs are not used")] if drops else []
    ), str(report)


def test_outputs_whose_gradients_cancel_are_not_compared_with_their_rounding() -> None:
    x = torch.linspace(0.2, 1, 6).double()
    report = gg.check_gradients(lambda x: (Two.apply(x, False)[0] * 1e9, x.sin() * -1e9 + x), x, select="GG106")
    assert not report.findings, str(report)


class Once(torch.autograd.Function):
    """A backward that frees what it saved, and can be run once only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: Change) -> torch.Tensor:
        ctx.kept, ctx.change = x.cos(), change
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        kept = ctx.kept
        del ctx.kept
        return ctx.change(g) * kept, None


@pytest.mark.parametrize(("change", "status"), [(torch.abs, "failed"), (lambda g: g, "passed")])
def test_a_backward_that_can_be_run_once_only_is_asked_on_fresh_graphs(change: Change, status: str) -> None:
    x = torch.linspace(-1, 1, 6).double()
    report = gg.check_gradients(lambda x: Once.apply(x, change), x, select="GG106")
    assert [c.status for c in report.checks] == [status]


@pytest.mark.parametrize(
    ("vjp", "code"),
    [
        (lambda g, x: np.abs(g) * np.cos(x), "failed"),
        (lambda g, x: np.cos(x), "failed"),
        (lambda g, x: np.clip(g, -10, 10) * np.cos(x), "failed"),
        (lambda g, x: g * np.cos(x), "passed"),
    ],
)
def test_in_numpy_the_vjp_is_asked(vjp: Any, code: str) -> None:
    report = gg.check_gradients(np.sin, np.linspace(0.1, 1, 7), vjp=vjp, select="GG106")
    assert [c.status for c in report.checks] == [code]


def test_a_gradient_without_cotangent_is_skipped_with_its_reason() -> None:
    report = gg.check_gradients(lambda x: np.sum(x**2), np.ones(3), grad=lambda x: 2 * x, select="GG106")
    assert [(c.status, c.reason) for c in report.checks] == [("skipped", "grad= takes no cotangent; vjp= does")]


def test_the_rule_groups_by_function() -> None:
    faults = (
        Fault(kind="linearity", what="-g", function="A", module="m", size=2.0, limit=1e-12),
        Fault(kind="linearity", what="2^30 g", function="A", module="m", size=1.0, limit=1e-12),
        Fault(kind="linearity", what="-g", function="B", size=2.0, limit=1e-12),
        Fault(kind="layout", what="expanded", function="A", size=2.0, limit=1e-12),
    )
    measured = BackwardPasses(facts=BackwardFacts(faults=faults, skipped={}))
    outcome = NonlinearBackward().check({"backwards": measured})
    assert outcome.status == "failed"
    assert [f.message.split(":")[0] for f in outcome.findings] == ["A in m", "B"]
