"""Small real nets on scikit-learn's data: every architecture with every optimizer of the calibration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name that every torch program gives it)
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from torch import nn

import gradguard as gg

__all__ = ["NETS", "OPTIMIZERS", "Net", "scenario"]

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Net:
    """One architecture with its data and loss."""

    name: str
    build: Callable[[], nn.Module]
    batches: Callable[[int], list[Batch]]
    loss: Callable[[nn.Module, Batch], torch.Tensor]


def digits(size: int) -> list[Batch]:
    """Shuffled batches of (B, 64) pixels in 0..1 and labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x) - size + 1, size)]


def tabular(x: np.ndarray, y: np.ndarray, size: int) -> list[Batch]:
    """Standardised batches."""
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    a, b = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return [(a[i : i + size], b[i : i + size]) for i in range(0, len(a) - size + 1, size)]


def classes(load: Callable[..., Any], size: int) -> list[Batch]:
    """Standardised columns and labels, shuffled; small sets are one batch."""
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    a, b = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)[order], torch.tensor(y)[order]
    size = min(size, len(a))
    return [(a[i : i + size], b[i : i + size]) for i in range(0, len(a) - size + 1, size)]


def diabetes(size: int) -> list[Batch]:
    """442 patients, 10 columns."""
    return tabular(*load_diabetes(return_X_y=True), size)


def friedman(size: int) -> list[Batch]:
    """1024 samples of a smooth function of 10 columns, with noise."""
    return tabular(*make_friedman1(1024, noise=1.0, random_state=0), size)


def classify(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def regress(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean squared error."""
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def mlp(widths: list[int], activation: type[nn.Module], norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Linear (norm) activation, and a linear head."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), *([norm(b)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def cnn(norm: bool) -> nn.Sequential:
    """Two convolutions on 8 x 8 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), *([nn.BatchNorm2d(16)] if norm else []), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), *([nn.BatchNorm2d(32)] if norm else []), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )


def grouped() -> nn.Sequential:
    """Three convolutions on 8 x 8 images with group normalisation."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.GroupNorm(4, 16), nn.SiLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )


class Rows(nn.Module):
    """A recurrent net that reads the image row by row."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body, self.head = kind(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 64) to logits (B, 10)."""
        return self.head(self.body(x.view(-1, 8, 8))[0][:, -1])


class Tokens(nn.Module):
    """A transformer over the image's rows, with learned positions."""

    def __init__(self, first: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True, norm_first=first)
        self.embed, self.positions = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 64) to logits (B, 10)."""
        return self.head(self.body(self.embed(x.view(-1, 8, 8)) + self.positions).mean(1))


class Residual(nn.Module):
    """Pre-activation blocks with branches scaled by 1 / sqrt(L)."""

    def __init__(self, depth: int = 8, width: int = 48) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 64) to logits (B, 10)."""
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h) / len(self.blocks) ** 0.5
        return self.head(h)


NETS: tuple[Net, ...] = (
    Net("digits-softmax", lambda: nn.Linear(64, 10), digits, classify),
    Net("digits-mlp-relu", lambda: mlp([64, 64, 64, 10], nn.ReLU), digits, classify),
    Net("digits-mlp-tanh", lambda: mlp([64, 64, 64, 10], nn.Tanh), digits, classify),
    Net("digits-mlp-gelu-layernorm", lambda: mlp([64, 64, 64, 64, 10], nn.GELU, nn.LayerNorm), digits, classify),
    Net("digits-mlp-relu-batchnorm", lambda: mlp([64, 64, 64, 10], nn.ReLU, nn.BatchNorm1d), digits, classify),
    Net("digits-residual", Residual, digits, classify),
    Net("digits-cnn", lambda: cnn(False), digits, classify),
    Net("digits-cnn-batchnorm", lambda: cnn(True), digits, classify),
    Net("digits-transformer", Tokens, digits, classify),
    Net("digits-rnn", lambda: Rows(nn.RNN), digits, classify),
    Net("digits-lstm", lambda: Rows(nn.LSTM), digits, classify),
    Net("digits-gru", lambda: Rows(nn.GRU), digits, classify),
    Net("digits-cnn-silu-groupnorm", grouped, digits, classify),
    Net("digits-transformer-post", lambda: Tokens(first=False), digits, classify),
    Net("iris-mlp-sigmoid", lambda: mlp([4, 16, 3], nn.Sigmoid), lambda size: classes(load_iris, size), classify),
    Net("wine-mlp-relu-batchnorm", lambda: mlp([13, 32, 32, 3], nn.ReLU, nn.BatchNorm1d), lambda size: classes(load_wine, size), classify),
    Net("cancer-mlp-gelu", lambda: mlp([30, 32, 32, 32, 2], nn.GELU), lambda size: classes(load_breast_cancer, size), classify),
    Net("diabetes-linear", lambda: nn.Linear(10, 1), diabetes, regress),
    Net("diabetes-mlp-tanh", lambda: mlp([10, 32, 32, 1], nn.Tanh), diabetes, regress),
    Net("friedman-mlp-relu", lambda: mlp([10, 64, 64, 1], nn.ReLU), friedman, regress),
    Net("friedman-mlp-silu-layernorm", lambda: mlp([10, 64, 64, 1], nn.SiLU, nn.LayerNorm), friedman, regress),
)

OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "Nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
}


def scenario(net: Net, optimizer: str, lr: float, *, seed: int = 0, size: int = 64) -> gg.Scenario:
    """A fresh scenario: the net initialised from ``seed``."""
    torch.manual_seed(seed)
    model = net.build()
    return gg.Scenario(model, net.batches(size), net.loss, optimizer=OPTIMIZERS[optimizer](model.parameters(), lr))


def everything() -> Iterator[tuple[Net, str]]:
    """Every architecture with every optimizer."""
    for net in NETS:
        for optimizer in OPTIMIZERS:
            yield net, optimizer
