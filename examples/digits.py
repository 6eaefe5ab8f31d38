"""Handwritten digits: a torch classifier, and a NumPy network with hand-written backpropagation. Both are right.

    gradguard report examples/digits.py
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

import gradguard as gg

BATCH = 32


def batches(count: int = 20) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of images (BATCH, 64) with pixels in [0, 1], and labels (BATCH,)."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: count * BATCH].reshape(count, BATCH)
    return [(images[rows] / 16.0, labels[rows]) for rows in order]


# -- torch ------------------------------------------------------------------------------------------------------------


class Classifier(torch.nn.Module):
    """Two convolutions with batch normalisation, and a linear head with dropout before it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, stride=2, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        )
        self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(16 * 4 * 4, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def cross_entropy(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, labels = batch
    return torch.nn.functional.cross_entropy(model(images), labels)


@gg.scenario
def torch_classifier() -> gg.Scenario:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
    data = [
        (torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)) for x, y in batches()
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return gg.Scenario(
        model, data, cross_entropy, optimizer=optimizer,
        outputs=lambda model, batch: model(batch[0]), labels=lambda batch: batch[1],
    )


# -- NumPy: columns are samples, layer l computes z[l] = W[l] @ a[l - 1] + b[l] and a[l] = tanh(z[l]), the last softmax --

SIZES = (64, 32, 16, 10)
LAYERS = range(1, len(SIZES))


def network(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights W1, W2, ... of shape (outputs, inputs), and biases b1, b2, ... of shape (outputs, 1)."""
    rng = np.random.default_rng(seed)
    model = {}
    for layer in LAYERS:
        inputs, outputs = SIZES[layer - 1], SIZES[layer]
        model[f"W{layer}"] = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
        model[f"b{layer}"] = 0.1 * rng.normal(size=(outputs, 1))
    return model


def forward(model: dict[str, np.ndarray], images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pre-activations z and activations a, one of each per layer; a[0] are the images, z[0] is empty."""
    z, a = [np.empty(0)], [images.T]
    for layer in LAYERS:
        z.append(model[f"W{layer}"] @ a[-1] + model[f"b{layer}"])
        a.append(softmax(z[-1]) if layer == LAYERS[-1] else np.tanh(z[-1]))
    return z, a


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(SIZES[-1])[labels].T


def loss(model: dict[str, np.ndarray], batch: tuple[np.ndarray, np.ndarray]) -> float:
    """The mean cross-entropy."""
    images, labels = batch
    z, _ = forward(model, images)
    top = z[-1].max(axis=0)
    log_sum = top + np.log(np.exp(z[-1] - top).sum(axis=0))
    return float(np.mean(log_sum - z[-1][labels, np.arange(len(labels))]))


def backward(model: dict[str, np.ndarray], batch: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Backpropagation by hand: delta is the derivative of the loss by z[layer]."""
    images, labels = batch
    z, a = forward(model, images)
    gradient = {}
    delta = (a[-1] - one_hot(labels)) / len(labels)  # softmax and cross-entropy together
    for layer in reversed(LAYERS):
        gradient[f"W{layer}"] = delta @ a[layer - 1].T
        gradient[f"b{layer}"] = delta.sum(axis=1, keepdims=True)  # summed over the batch
        if layer > 1:
            delta = (model[f"W{layer}"].T @ delta) * (1 - np.tanh(z[layer - 1]) ** 2)
    return gradient


@gg.scenario
def numpy_network() -> gg.Scenario:
    return gg.Scenario(
        network(), batches(), loss, grad=backward, optimizer=gg.SGD(lr=0.5),
        activations=lambda model, batch: {f"layer{i}": forward(model, batch[0])[1][i].T for i in LAYERS},
        outputs=lambda model, batch: forward(model, batch[0])[0][-1].T, labels=lambda batch: batch[1],
    )
