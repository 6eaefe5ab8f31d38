"""The backpropagation loop that many explanations print. It is wrong, and training hides it: the loss goes down.

Going back through the layers, the loop multiplies ``delta`` by the derivative of the activation *after* it has used it
for ``dW``, so the layer's own derivative is missing there; and at the output layer it multiplies by the derivative of
softmax, which ``p - y`` already contains. The last layer's gradients are right, all others are wrong.

    gradguard report examples/textbook_backprop.py        # exit code 1
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

import gradguard as gg

SIZES = (64, 32, 16, 10)
BATCH = 32


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


class Network:
    """Layer l computes z = W[l] @ a + b[l], then a sigmoid, the last layer softmax. Columns are samples."""

    @staticmethod
    def parameters(seed: int = 0) -> dict[str, list[np.ndarray]]:
        rng = np.random.default_rng(seed)
        pairs = list(pairwise(SIZES))
        return {
            "weights": [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in pairs],
            "biases": [0.1 * rng.normal(size=(n, 1)) for _, n in pairs],
        }

    @staticmethod
    def feed_forward(params: dict[str, list[np.ndarray]], x: np.ndarray) -> list[np.ndarray]:
        activations = [x.T]
        for i, (w, b) in enumerate(zip(params["weights"], params["biases"], strict=True)):
            z = w @ activations[-1] + b
            activations.append(softmax(z) if i == len(SIZES) - 2 else sigmoid(z))
        return activations

    @staticmethod
    def backpropagate(params: dict[str, list[np.ndarray]], x: np.ndarray, y: np.ndarray) -> dict[str, list[np.ndarray]]:
        activations = Network.feed_forward(params, x)
        count = len(params["weights"])
        dw, db = [np.empty(0)] * count, [np.empty(0)] * count
        delta = (activations[-1] - np.eye(SIZES[-1])[y].T) / len(y)
        for layer in reversed(range(count)):
            dw[layer] = delta @ activations[layer].T
            db[layer] = delta.sum(axis=1, keepdims=True)
            a = activations[layer + 1]
            delta = delta * a * (1 - a)  # too late for dw and db, and once too often at the output
            delta = params["weights"][layer].T @ delta
        return {"weights": dw, "biases": db}


def loss(params: dict[str, list[np.ndarray]], batch: tuple[np.ndarray, np.ndarray]) -> float:
    """The mean cross-entropy."""
    x, y = batch
    p = Network.feed_forward(params, x)[-1]
    return float(-np.mean(np.log(p[y, np.arange(len(y))])))


def grad(params: dict[str, list[np.ndarray]], batch: tuple[np.ndarray, np.ndarray]) -> dict[str, list[np.ndarray]]:
    return Network.backpropagate(params, *batch)


@gg.scenario
def textbook_network() -> gg.Scenario:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: 20 * BATCH].reshape(20, BATCH)
    batches = [(images[rows] / 16.0, labels[rows]) for rows in order]
    return gg.Scenario(Network.parameters(), batches, loss, grad=grad, optimizer=gg.SGD(lr=0.5))
