"""Bugs of hand-written NumPy gradients. Numbers as in the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cases.case import Checked

__all__ = ["bias_shape", "broadcast_shape", "mean_of_means", "textbook", "textbook_bias"]

RNG = np.random.default_rng(22)
SIZES = (5, 7, 6, 4)
X, Y = RNG.normal(size=(8, SIZES[0])), RNG.integers(0, SIZES[-1], 8)


def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    model = {}
    for layer in range(1, len(SIZES)):
        model[f"W{layer}"] = rng.normal(size=(SIZES[layer], SIZES[layer - 1])) / np.sqrt(SIZES[layer - 1])
        model[f"b{layer}"] = 0.1 * rng.normal(size=(SIZES[layer], 1))
    return model


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def forward(params: Any, x: Any) -> list[Any]:
    """Activations, a[0] the input; columns are samples."""
    a = [x.T]
    for layer in range(1, len(SIZES)):
        z = params[f"W{layer}"] @ a[-1] + params[f"b{layer}"]
        if layer == len(SIZES) - 1:
            e = np.exp(z - z.max(axis=0))
            a.append(e / e.sum(axis=0))
        else:
            a.append(sigmoid(z))
    return a


def loss(params: Any) -> Any:
    return -np.mean(np.log(forward(params, X)[-1][Y, np.arange(len(Y))]))


def backward(params: Any, *, late: bool = False, bias: Any = None) -> dict[str, Any]:
    """Backpropagation; ``late`` multiplies by the slope after its use, and at the output too, as the textbook does."""
    a = forward(params, X)
    gradient = {}
    delta = (a[-1] - np.eye(SIZES[-1])[Y].T) / len(Y)
    for layer in reversed(range(1, len(SIZES))):
        gradient[f"W{layer}"] = delta @ a[layer - 1].T
        gradient[f"b{layer}"] = delta.sum(axis=1, keepdims=True) if bias is None else bias(delta)
        if late:
            delta = params[f"W{layer}"].T @ (delta * a[layer] * (1 - a[layer]))
        else:
            delta = (params[f"W{layer}"].T @ delta) * a[layer - 1] * (1 - a[layer - 1])
    return gradient


def textbook(wrong: bool) -> Checked:
    return Checked(loss, (parameters(),), {"grad": lambda params: backward(params, late=wrong)})


def textbook_bias(wrong: bool) -> Checked:
    bias = (lambda delta: delta[:, :1]) if wrong else None
    return Checked(loss, (parameters(),), {"grad": lambda params: backward(params, bias=bias)})


def bias_shape(wrong: bool) -> Checked:
    bias = (lambda delta: delta) if wrong else None
    return Checked(loss, (parameters(),), {"grad": lambda params: backward(params, bias=bias)})


def broadcast_shape(wrong: bool) -> Checked:
    def vjp(g: Any, x: Any, row: Any) -> Any:
        return g * row, (g * x if wrong else (g * x).sum(axis=0))

    return Checked(lambda x, row: x * row, (X, X[0] + 1), {"vjp": vjp})


def mean_of_means(wrong: bool) -> Checked:
    """Token losses accumulated over micro-batches of different lengths."""
    tokens = RNG.normal(size=(12, 3))
    labels = RNG.normal(size=12)
    parts = [slice(0, 2), slice(2, 5), slice(5, 12)]

    def f(weight: Any) -> Any:
        return np.mean((tokens @ weight - labels) ** 2)

    def gradient(weight: Any) -> Any:
        total = np.zeros_like(weight)
        for part in parts:
            error = tokens[part] @ weight - labels[part]
            summed = 2 * tokens[part].T @ error
            total += summed / len(error) / len(parts) if wrong else summed / len(labels)
        return total

    return Checked(f, (np.array([0.3, -1.0, 0.8]),), {"grad": gradient})
