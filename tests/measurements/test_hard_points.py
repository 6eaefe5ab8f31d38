"""Wrong gradients at points where the usual steps see nothing: each is an error, and its right twin is in ``tests/cases``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradguard as gg


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


class Power(torch.autograd.Function):
    """x ** 2.5 times y; y's gradient is wrong at one entry, where y is 0 and nothing is special."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x[:4] ** 2.5 * x[4:]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        found = torch.cat([g * 2.5 * x[:4] ** 1.5 * x[4:], g * x[:4] ** 2.5])
        found[5] *= 1.3
        return found


class Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, x.clamp(min=1e-30).sqrt(), 0.0)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, g * 0.51 / x.clamp(min=1e-30).sqrt(), 0.0)


@pytest.mark.parametrize(
    ("f", "x"),
    [(Root.apply, t(1, 0, -1, 4)), (Power.apply, t(0, 1, 2, 3, 0.5, 0, 0.2, 0.3))],
    ids=["beside the edge of the domain", "at a zero, while other zeros are at the edge"],
)
def test_torch(f: Any, x: torch.Tensor) -> None:
    report = gg.check_gradients(f, x)
    assert [e.code for e in report.errors] == ["GG101"], str(report)


X = np.random.default_rng(1).normal(size=4)
SIZES = np.array([1e8, 1.0, 1e-8])


@pytest.mark.parametrize(
    ("f", "x", "vjp"),
    [
        (lambda x: np.sin(1e9 * x), X, lambda g, x: g * 1.01e9 * np.cos(1e9 * x)),
        (lambda x: np.sin(x / SIZES), 1.3 * SIZES, lambda g, x: g * np.cos(x / SIZES) / SIZES * [1, 1, 1.01]),
        (lambda x: 0 * x + 1, X, lambda g, x: 1e15 * g),
        (lambda x: np.tanh(1e9 * x), X, lambda g, x: g),
        (np.log, np.array([1e-300, 1e-12, 0.3]), lambda g, x: g / x * [1.01, 1, 1]),
    ],
    ids=["steep", "mixed sizes", "a huge gradient of a constant", "saturated", "an entry of 1e-300"],
)
def test_numpy(f: Any, x: np.ndarray, vjp: Any) -> None:
    assert "GG101" in {e.code for e in gg.check_gradients(f, x, vjp=vjp, select="GG101").errors}


def test_a_chaotic_function_is_undecided_and_not_called_wrong() -> None:
    w = np.random.default_rng(3).normal(size=(4, 4)) * 3

    def states(w: np.ndarray) -> list[np.ndarray]:
        found = [np.full(4, 0.1)]
        for _ in range(30):
            found.append(np.sin(w @ found[-1]))
        return found

    def grad(w: np.ndarray) -> np.ndarray:
        seen, d, total = states(w), np.ones(4), 0 * w
        for h in seen[-2::-1]:
            d = d * np.cos(w @ h)
            total += np.outer(d, h)
            d = w.T @ d
        return total

    report = gg.check_gradients(lambda w: states(w)[-1].sum(), w, grad=grad)
    assert {e.code for e in report.errors} <= {"GG902"}, str(report)
