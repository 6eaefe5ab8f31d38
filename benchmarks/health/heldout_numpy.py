"""Batches, losses and a net in NumPy for the held-out programs, with gradients by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.health.heldout_batches import rows
from benchmarks.health.heldout_data import table
from benchmarks.health.heldout_programs import Batch, Data


def numpy_rows(data: tuple[Tensor, Tensor], size: int, seed: int) -> list[Batch]:
    """As ``rows``, in float64; class ids stay integers."""
    return [(x.double().numpy(), y.double().numpy() if y.is_floating_point() else y.numpy()) for x, y in rows(*data, size, seed)]


def numpy_floats(data: Data) -> Data:
    """The batches of ``data`` in float64, the labels too."""
    return lambda seed: [(x.numpy().astype(float), y.numpy().astype(float)) for x, y in data(seed)]


def digits_numpy(scale: float = 1.0) -> list[Any]:
    x, y = (t.numpy().astype(float) for t in table("digits"))
    return [(scale * x[i : i + 64], np.eye(10)[y[i : i + 64].astype(int)]) for i in range(0, 1536, 64)]


def softmax(z: np.ndarray) -> np.ndarray:
    """Over the second axis."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def log_loss(p: np.ndarray, y: np.ndarray) -> float:
    """The mean of -log p over rows, p (B, C) the probabilities and y (B,) the class ids; finite where p is 0."""
    return float(-np.log(p[np.arange(len(y)), y] + 1e-300).mean())


def log_loss_slope(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The derivative of the mean log loss by the logits, (B, C): (p - one hot) / B."""
    d = p.copy()
    d[np.arange(len(y)), y] -= 1
    return d / len(y)


class Written:
    """A net of one hidden layer, softmax and cross-entropy, with its gradient by hand."""

    def __init__(self, activation: str = "tanh", *, sign: float = 1.0, mean: bool = True, stable: bool = True) -> None:
        self.activation, self.sign, self.mean, self.stable = activation, sign, mean, stable

    def hidden(self, p: Any, x: Any) -> Any:
        z = x @ p["w1"] + p["b1"]
        return np.tanh(z) if self.activation == "tanh" else 1 / (1 + np.exp(-z)) if self.activation == "sigmoid" else np.maximum(z, 0)

    def probabilities(self, p: Any, x: Any) -> Any:
        z = self.hidden(p, x) @ p["w2"] + p["b2"]
        e = np.exp(z - z.max(1, keepdims=True) if self.stable else z)
        return e / e.sum(1, keepdims=True)

    def loss(self, p: Any, batch: Any) -> Any:
        with np.errstate(all="ignore"):
            each = -(batch[1] * np.log(self.probabilities(p, batch[0]))).sum(1)
        return each.mean() if self.mean else each.sum()

    def grad(self, p: Any, batch: Any) -> Any:
        x, y = batch
        with np.errstate(all="ignore"):
            h = self.hidden(p, x)
            dz = self.sign * (self.probabilities(p, x) - y) / (len(x) if self.mean else 1)
            slope = 1 - h * h if self.activation == "tanh" else h * (1 - h) if self.activation == "sigmoid" else h > 0
            dh = dz @ p["w2"].T * slope
        return {"w1": x.T @ dh, "b1": dh.sum(0), "w2": h.T @ dz, "b2": dz.sum(0)}

    def activations(self, p: Any, batch: Any) -> Any:
        return {"hidden": self.hidden(p, batch[0])}
