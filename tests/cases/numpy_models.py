"""NumPy models as people write them: layers with caches, convolution, recurrence, losses with kinks; each right and wrong.

``wrong`` names the blocks whose gradient is then wrong; everything else must be left alone.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.cases.case import Case, Checked

__all__ = ["PAIRS", "Pair", "numpy_model_cases"]

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(16, 8)), RNG.integers(0, 3, 16)


@dataclass(frozen=True)
class Pair:
    """``make(wrong)`` gives the arguments; ``blocks`` are wrong in the wrong half."""

    name: str
    make: Callable[[bool], Checked]
    blocks: frozenset[str]


class Dense:
    def __init__(self, inputs: int, outputs: int) -> None:
        self.W, self.b = RNG.normal(size=(inputs, outputs)) / np.sqrt(inputs), np.zeros(outputs)

    def forward(self, x: Any) -> Any:
        self.x = x
        return x @ self.W + self.b

    def backward(self, delta: Any) -> Any:
        self.dW, self.db = self.x.T @ delta, delta.sum(axis=0)
        return delta @ self.W.T


class BatchNorm:
    """In training mode; its running mean changes at every call and is not part of the value."""

    def __init__(self, width: int, *, forgets: bool) -> None:
        self.gain, self.shift, self.running, self.forgets = np.ones(width), np.zeros(width), np.zeros(width), forgets

    def forward(self, x: Any) -> Any:
        mean, self.std = x.mean(axis=0), np.sqrt(x.var(axis=0) + 1e-5)
        self.running = 0.9 * self.running + 0.1 * mean
        self.normal = (x - mean) / self.std
        return self.gain * self.normal + self.shift

    def backward(self, delta: Any) -> Any:
        self.dgain, self.dshift = (delta * self.normal).sum(axis=0), delta.sum(axis=0)
        inner = delta * self.gain
        if self.forgets:  # the mean and the variance depend on x too
            return inner / self.std
        return (inner - inner.mean(axis=0) - self.normal * (inner * self.normal).mean(axis=0)) / self.std


def layered(wrong: bool) -> Checked:
    first, norm, second = Dense(8, 12), BatchNorm(12, forgets=wrong), Dense(12, 3)

    def loss(W1: Any, b1: Any, gain: Any, shift: Any, W2: Any, b2: Any) -> Any:
        first.W, first.b, norm.gain, norm.shift, second.W, second.b = W1, b1, gain, shift, W2, b2
        loss.mask = norm.forward(first.forward(X)) > 0
        z = second.forward(norm.gain * norm.normal * loss.mask + norm.shift * loss.mask)
        loss.log_p = z - z.max(axis=1, keepdims=True)
        loss.log_p = loss.log_p - np.log(np.exp(loss.log_p).sum(axis=1, keepdims=True))
        return -loss.log_p[np.arange(len(Y)), Y].mean()

    def grad(*parameters: Any) -> Any:
        delta = np.exp(loss.log_p)  # of the forward pass before, as such code does
        delta[np.arange(len(Y)), Y] -= 1
        first.backward(norm.backward(second.backward(delta / len(Y)) * loss.mask))
        return first.dW, first.db, norm.dgain, norm.dshift, second.dW, second.db

    return Checked(loss, (first.W, first.b, norm.gain, norm.shift, second.W, second.b), {"grad": grad})


def convolution(wrong: bool) -> Checked:
    def f(x: Any, w: Any) -> Any:
        size, out = w.shape[2], x.shape[2] - w.shape[2] + 1
        y = np.zeros((len(x), len(w), out, out))
        for i in range(out):
            for j in range(out):
                y[:, :, i, j] = np.tensordot(x[:, :, i : i + size, j : j + size], w, ([1, 2, 3], [1, 2, 3]))
        return y

    def vjp(g: Any, x: Any, w: Any) -> Any:
        size = w.shape[2]
        back = w[:, :, ::-1, ::-1] if wrong else w
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for i in range(g.shape[2]):
            for j in range(g.shape[3]):
                here = (slice(None), slice(None), slice(i, i + size), slice(j, j + size))
                dw += np.tensordot(g[:, :, i, j], x[here], ([0], [0]))
                dx[here] += np.tensordot(g[:, :, i, j], back, ([1], [0]))
        return dx, dw

    return Checked(f, (X.reshape(2, 1, 8, 8), RNG.normal(size=(3, 1, 3, 3))), {"vjp": vjp})


def recurrence(wrong: bool) -> Checked:
    """An LSTM, back through time; wrong: the forget gate is left out on the way back."""
    width, steps = 4, X[:6, :3]

    def gates(W: Any, b: Any, x: Any, h: Any) -> list[Any]:
        z = W @ np.concatenate([x, h]) + b
        i, f, o = (1 / (1 + np.exp(-z[k * width : (k + 1) * width])) for k in range(3))
        return [i, f, o, np.tanh(z[3 * width :])]

    def run(W: Any, b: Any) -> tuple[Any, list[Any]]:
        h, c, tape = np.zeros(width), np.zeros(width), []
        for x in steps:
            i, f, o, g = gates(W, b, x, h)
            tape.append((x, h, c, i, f, o, g))
            c = f * c + i * g
            h = o * np.tanh(c)
        return h, tape

    def grad(W: Any, b: Any) -> Any:
        h, tape = run(W, b)
        dh, dc, dW, db = 2 * h, np.zeros(width), np.zeros_like(W), np.zeros_like(b)
        for x, before, c, i, f, o, g in reversed(tape):
            t = np.tanh(f * c + i * g)
            dc = dc + dh * o * (1 - t**2)
            dz = np.concatenate([dc * g * i * (1 - i), dc * c * f * (1 - f), dh * t * o * (1 - o), dc * i * (1 - g**2)])
            dW += np.outer(dz, np.concatenate([x, before]))
            db += dz
            dh, dc = (W.T @ dz)[len(x) :], dc * (1 if wrong else f)
        return dW, db

    parameters = (0.5 * RNG.normal(size=(4 * width, 3 + width)), np.zeros(4 * width))
    return Checked(lambda W, b: float((run(W, b)[0] ** 2).sum()), parameters, {"grad": grad})


def regularised(wrong: bool) -> Checked:
    """Logistic regression of a flat vector at its usual start, zero is a minimum of the penalty; wrong: no penalty."""
    signs = 2 * (Y > 0) - 1

    def f(theta: Any) -> Any:
        return np.logaddexp(0, -signs * (X @ theta)).sum() + 0.1 * theta @ theta

    def grad(theta: Any) -> Any:
        slope = -(X.T @ (signs / (1 + np.exp(signs * (X @ theta)))))
        return slope if wrong else slope + 0.2 * theta

    return Checked(f, np.full(8, 0.3), {"grad": grad})


Linear = namedtuple("Linear", "W b")


def named(wrong: bool) -> Checked:
    def f(layer: Any) -> Any:
        return ((X @ layer.W + layer.b) ** 2).sum()

    def grad(layer: Any) -> Any:
        error = 2 * (X @ layer.W + layer.b)
        return Linear(X.T @ error, error.mean(axis=0) if wrong else error.sum(axis=0))

    return Checked(f, (Linear(RNG.normal(size=(8, 2)), RNG.normal(size=2)),), {"grad": grad})


def clustering(wrong: bool) -> Checked:
    """k-means: a minimum over centres, at centres that are data points."""
    def nearest(centres: Any) -> Any:
        return ((X[:, None] - centres[None]) ** 2).sum(axis=-1)

    def grad(centres: Any) -> Any:
        mine = nearest(centres).argmin(axis=1)
        if wrong:
            mine = np.roll(mine, 1)
        return np.array([2 * (c - X[mine == k]).sum(axis=0) for k, c in enumerate(centres)])

    return Checked(lambda centres: nearest(centres).min(axis=1).sum(), X[:4].copy(), {"grad": grad})


def transform(wrong: bool) -> Checked:
    z = X[0] + 1j * X[1]
    return Checked(np.fft.fft, z, {"vjp": lambda g, z: np.fft.ifft(g) * (1 if wrong else len(z))})


def mask(wrong: bool) -> Checked:
    """Dropout by NumPy's global state; wrong: another mask on the way back."""
    def grad(x: Any) -> Any:
        if wrong:
            np.random.rand()
        return 2 * x * (np.random.rand(*x.shape) > 0.5)

    return Checked(lambda x: (x**2 * (np.random.rand(*x.shape) > 0.5)).sum(), X, {"grad": grad})


def determinant(wrong: bool) -> Checked:
    return Checked(
        lambda M: np.linalg.slogdet(M)[1], X[:8] + 3 * np.eye(8),
        {"grad": lambda M: np.linalg.inv(M) if wrong else np.linalg.inv(M).T},
    )


PAIRS = [
    Pair("layers with caches and batch normalisation", layered, frozenset({"W1", "b1"})),
    Pair("convolution by tensordot", convolution, frozenset({"x"})),
    Pair("LSTM through time", recurrence, frozenset({"W", "b"})),
    Pair("regularised logistic regression", regularised, frozenset({"theta"})),
    Pair("named tuple", named, frozenset({"layer.b"})),
    Pair("k-means", clustering, frozenset({"centres"})),
    Pair("Fourier transform", transform, frozenset({"a"})),
    Pair("dropout by the global state", mask, frozenset({"x"})),
    Pair("log determinant", determinant, frozenset({"M"})),
]


def numpy_model_cases() -> list[Case]:
    """The right halves, as rows of the corpus of right cases."""
    return [Case(f"NumPy model: {pair.name}", lambda pair=pair: pair.make(False)) for pair in PAIRS]
