"""GG111: rows that must fire and rows that must not, and the pure rule on numbers typed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.precision_base import BlockPrecision, PrecisionFacts
from gradguard.measurements.precision import Precision
from gradguard.rules.precision_loss import PrecisionLoss

Backward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, backward: Backward) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.how = backward
        return nn.functional.softplus(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.how(g, x), None


def right(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return g * x.sigmoid()


def overflowing(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return g * (x.exp() / (1 + x.exp()))


def through_bfloat16(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (g.bfloat16() * x.bfloat16().sigmoid()).to(g.dtype)


def flushed(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    small = torch.finfo(g.dtype).eps > 1e-10
    return torch.zeros_like(g) if small else g * x.sigmoid()


def factor(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return right(g, x) * (1.001 if g.dtype == torch.float32 else 1.0)


class Layer(nn.Module):
    def __init__(self, backward: Backward) -> None:
        super().__init__()
        self.how = backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Softplus.apply(x, self.how)


def check(backward: Backward, dtype: torch.dtype, **options: Any) -> gg.Report:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Layer(backward), nn.Linear(8, 3)).to(dtype)
    x = torch.randn(5, 6).to(dtype)
    with torch.no_grad():
        model[0].bias.add_(12)
    return gg.check_gradients(model, (x,), **options)


@pytest.mark.parametrize(
    ("backward", "dtype", "says"),
    [
        (overflowing, torch.float16, "NaN or infinite in float16"),
        (through_bfloat16, torch.float32, "gradient in float32 is off by"),
        (flushed, torch.bfloat16, "gradient in bfloat16 is off by 1 of its norm"),
        (factor, torch.float32, "gradient in float32 is off by 0.001 of its norm"),
    ],
)
def test_a_kernel_that_is_wrong_only_in_low_precision_is_an_error(backward: Backward, dtype: torch.dtype, says: str) -> None:
    report = check(backward, dtype)
    assert {f.code for f in report.errors} == {"GG111"}, str(report)
    assert {f.block for f in report.errors} == {"0.weight", "0.bias"}
    assert says in report.errors[0].message
    assert report.errors[0].pattern == "only in low precision"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_right_kernel_passes(dtype: torch.dtype) -> None:
    report = check(right, dtype)
    assert not report.findings, str(report)
    assert [c.status for c in report.checks if c.code == "GG111"] == ["passed"]


def test_a_backward_that_casts_down_in_a_float64_model_is_an_error() -> None:
    report = check(lambda g, x: (g.float() * x.float().sigmoid()).double(), torch.float64)
    assert {f.code for f in report.errors} == {"GG111"}, str(report)
    assert "gradient in float64 is off by" in report.errors[0].message


def test_in_float64_it_is_skipped() -> None:
    report = check(overflowing, torch.float64, select="GG111")
    assert [(c.status, c.reason) for c in report.checks] == [("skipped", "everything is computed in float64")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["bfloat16", "autocast"])
def test_a_network_in_bfloat16_passes(mode: str, training: bool) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(36, 8), nn.LayerNorm(8)
    ).train(training)
    x = torch.randn(6, 3, 8, 8)
    if mode == "bfloat16":
        report = gg.check_gradients(model.bfloat16(), (x.bfloat16(),), select="GG111")
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            report = gg.check_gradients(model, (x,), select="GG111")
    assert [c.status for c in report.checks] == ["passed"], str(report)


def test_a_gradient_that_is_only_rounding_passes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))  # the first bias has no gradient
    report = gg.check_gradients(model, (torch.randn(16, 6),), select="GG111")
    assert [c.status for c in report.checks] == ["passed"], str(report)


class Pooled(nn.Module):
    """The mean over many positions behind a normalisation: its bias' gradient is a sum of equal terms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(x).mean(1))


def test_what_only_torchs_own_kernels_lose_is_no_error() -> None:
    torch.manual_seed(0)
    # On a CPU, torch sums this gradient in bfloat16: from 256 equal terms on it no longer grows.
    report = gg.check_gradients(Pooled().bfloat16(), torch.randn(2, 4000, 8).bfloat16(), select="GG111")
    assert report.ok, str(report)
    assert all("own kernels" in f.message and f.severity == "info" for f in report.findings)


@pytest.mark.parametrize("seed", range(3))
def test_errors_of_a_mean_that_a_sum_over_positions_adds_up_are_no_error(seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last)
    report = gg.check_gradients(model.to(memory_format=torch.channels_last), x, select="GG111")
    assert report.ok, str(report)


def test_nothing_of_the_users_is_changed() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Layer(overflowing)).bfloat16()
    x = torch.randn(16, 6).bfloat16()
    before = {k: (v.dtype, v.clone()) for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    gg.check_gradients(model, (x,), select="GG111")
    assert torch.equal(state, torch.get_rng_state())
    assert all(v.dtype == before[k][0] and torch.equal(v, before[k][1]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def block(**columns: Any) -> BlockPrecision:
    return BlockPrecision(block="w", shape=(2, 3), size=1.0, **columns)


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        (block(error=1e-7), "passed"),
        (block(error=1e-3, rounding=1e-3), "passed"),
        (block(error=1e-3, rounding=1e-6), "failed"),
        (block(error=1e-3, rounding=1e-6, persistent=False), "passed"),
        (block(error=1e-7, rounding=1e-7, kernels=1e-3), "passed"),
        (block(error=1e-3, reference=1e-3), "passed"),
        (block(error=1e-3, reference=1e-5), "failed"),
        (block(error=0.0, nonfinite=1, first=4), "failed"),
    ],
)
def test_the_rule(measured: BlockPrecision, status: str) -> None:
    outcome = PrecisionLoss().check({"precision": Precision(facts=PrecisionFacts(dtype="float32", blocks=(measured,)))})
    assert outcome.status == status
    if measured.nonfinite:
        assert outcome.findings[0].message.startswith("w[1, 1]: NaN or infinite in float32")


def test_a_value_that_is_lost_is_one_finding() -> None:
    facts = PrecisionFacts(dtype="float16", blocks=(block(error=1.0, nonfinite=3),), value_nonfinite=2)
    (finding,) = PrecisionLoss().check({"precision": Precision(facts=facts)}).findings
    assert finding.message == "the value is NaN or infinite in float16 (2 entries), and finite in float64"


def test_options_are_validated() -> None:
    with pytest.raises(gg.UsageError, match="must be positive"):
        PrecisionLoss(roundings=0)
