"""GG307 in a watched loop: what float16 flushes to zero at the loop's own loss scale, and nothing of the loop's is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.torch_flushed import flushed
from tests.health.test_watch_loops import batch


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))


def run(
    *,
    size: float = 1.0,
    scale: float = 0.0,
    record: str = "before",
    dtype: torch.dtype = torch.float16,
    model: nn.Module | None = None,
    touch: Callable[[torch.Tensor], None] = lambda out: None,
) -> Any:
    """The check GG307 of a loop whose loss is multiplied by ``size``, under a loss scale."""
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scale > 0, init_scale=scale or 1.0)
    with gg.watch(model, optimizer=optimizer, select="GG307") as watch:
        for i in range(8):
            x, y = batch(i)
            with torch.autocast("cpu", dtype=dtype):
                out = model(x)
                loss = functional.cross_entropy(out, y) * size
            touch(out)
            optimizer.zero_grad()
            if record == "before":
                watch.record(loss=loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if record == "after":
                watch.record(loss=loss)
    assert not watch._seen.notes
    return next(c for c in watch.report().checks if c.code == "GG307")


@pytest.mark.parametrize(
    ("size", "scale", "record", "status"),
    [
        (1.0, 0.0, "before", "passed"),
        (1.0, 0.0, "after", "passed"),
        (1e3, 0.0, "before", "passed"),
        (1e-6, 0.0, "before", "failed"),
        (1e-5, 0.0, "after", "failed"),
        (1e-6, 2.0**16, "before", "passed"),
        (1e-6, 2.0**16, "after", "passed"),
        (1e-8, 0.0, "after", "skipped"),  # nothing reaches the model: only a loss recorded before tells why
        (1e-8, 0.0, "before", "failed"),
    ],
)
def test_what_the_true_loss_scale_leaves(size: float, scale: float, record: str, status: str) -> None:
    assert run(size=size, scale=scale, record=record).status == status


def test_bfloat16_has_the_range_of_float32() -> None:
    check = run(size=1e-8, dtype=torch.bfloat16)
    assert (check.status, check.reason) == ("skipped", "not measured: no pass in float16 was seen")


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 2 * g


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Double.apply(x)


calls: list[int] = []


def test_a_backward_written_in_python_runs_once() -> None:
    calls.clear()
    check = run(size=1e-6, model=nn.Sequential(net(), Doubling()))
    assert "written in Python" in check.reason
    assert len(calls) == 8


def test_retained_gradients_are_not_added_to() -> None:
    kept: list[torch.Tensor] = []

    def touch(out: torch.Tensor) -> None:
        out.retain_grad()
        kept.append(out)

    assert "intermediate" in run(touch=touch).reason
    expected = functional.cross_entropy(last := kept[-1].detach().requires_grad_(), batch(7)[1])
    expected.backward()
    assert torch.allclose(kept[-1].grad, last.grad, rtol=1e-2)


@pytest.mark.parametrize("where", ["parameter", "module"])
def test_hooks_of_the_users_are_called_once(where: str) -> None:
    model, seen = net(), []
    if where == "parameter":
        model[0].weight.register_hook(lambda g: seen.append(1))
    else:
        model[2].register_full_backward_hook(lambda *a: seen.append(1))
    assert "hooks" in run(model=model).reason
    assert len(seen) == 8


def test_the_share_of_what_was_flushed() -> None:
    plain = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    scaled = torch.tensor([0.0, 1.0, 2.0, torch.inf, torch.nan])
    assert flushed(plain, scaled) == 0.5
    assert flushed(plain, torch.zeros(5)) == 0.0
