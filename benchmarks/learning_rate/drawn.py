"""Small nets drawn from a seed: data, architecture and optimizer by chance, so that a claim is judged on what nobody chose."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_friedman1,
    make_friedman2,
    make_friedman3,
)
from torch import nn

from benchmarks.learning_rate.nets import OPTIMIZERS, Batch, Net, classify, regress

__all__ = ["EVERY", "draw"]

EVERY = {**OPTIMIZERS, "Adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr)}
"""The optimizers that are drawn from."""

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Sigmoid, nn.LeakyReLU)
CLASSES = ("iris", "wine", "cancer", "digits")
NUMBERS = ("diabetes", "friedman1", "friedman2", "friedman3")
SEQUENCES = ("last", "sum", "rows")


class Data:
    """Standardised samples, labels or values, and how many outputs they need; ``shape`` of one sample."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        g = np.random.default_rng(seed)
        if name in ("last", "sum"):
            x = g.standard_normal((768, 8, 4))
            y = (x[:, -3:].sum((1, 2)) > 0).astype(int) if name == "last" else x.sum((1, 2)) / 32**0.5
        elif name == "rows":
            x, y = load_digits(return_X_y=True)
            x = x.reshape(-1, 8, 8) / 16
        elif name.startswith("friedman"):
            make = {"friedman1": make_friedman1, "friedman2": make_friedman2, "friedman3": make_friedman3}[name]
            x, y = make(768, random_state=seed)
            y = y + 0.1 * y.std() * g.standard_normal(len(y))
        else:
            loaders = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer, "digits": load_digits, "diabetes": load_diabetes}
            x, y = loaders[name](return_X_y=True)
        self.counts = name in NUMBERS or name == "sum"
        order = g.permutation(len(x))[:1024]
        x, y = x[order], y[order]
        if x.ndim == 2:
            x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6) if name != "digits" else x / 16
        if self.counts:
            y = (y - y.mean()) / y.std()
        self.x = torch.tensor(x, dtype=torch.float32)
        self.y = torch.tensor(y, dtype=torch.float32 if self.counts else torch.int64)
        self.outputs = 1 if self.counts else int(y.max()) + 1
        self.features = x.shape[-1]

    def batches(self, size: int) -> list[Batch]:
        """Whole batches only."""
        return [(self.x[i : i + size], self.y[i : i + size]) for i in range(0, len(self.x) - size + 1, size)]


def norm_of(kind: str, width: int) -> list[nn.Module]:
    """No normalisation, or one of two."""
    return {"batch": [nn.BatchNorm1d(width)], "layer": [nn.LayerNorm(width)]}.get(kind, [])


class Added(nn.Module):
    """x + inner(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, W) to (B, W)."""
        return x + self.inner(x)


class Last(nn.Module):
    """A recurrent net, and a head on its last state."""

    def __init__(self, kind: type[nn.RNNBase], features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = kind(features, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, features) to (B, outputs)."""
        return self.head(self.body(x)[0][:, -1])


class Attention(nn.Module):
    """One or two encoder layers with learned positions, averaged."""

    def __init__(self, features: int, length: int, width: int, layers: int, first: bool, outputs: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=first)
        self.embed, self.positions = nn.Linear(features, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, features) to (B, outputs)."""
        return self.head(self.body(self.embed(x) + self.positions).mean(1))


def pictures(channels: int, norm: bool, act: type[nn.Module]) -> nn.Sequential:
    """Two convolutions on 8 x 8 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, channels, 3, padding=1), *([nn.BatchNorm2d(channels)] if norm else []), act(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2), act(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * channels, 10),
    )


def dense(data: Data, depth: int, width: int, act: type[nn.Module], norm: str, residual: bool) -> nn.Sequential:
    """An MLP, plain or residual."""
    layers: list[nn.Module] = [nn.Linear(data.features, width), *norm_of(norm, width), act()]
    for _ in range(depth - 1):
        block = [nn.Linear(width, width), *norm_of(norm, width), act()]
        layers += [Added(*block)] if residual else block
    return nn.Sequential(*layers, nn.Linear(width, data.outputs))


def draw(seed: int) -> tuple[Net, str]:
    """A net with its data, and the name of an optimizer."""
    r = random.Random(seed)
    kind = r.choice(["mlp"] * 7 + ["residual"] * 2 + ["cnn", "gru", "lstm", "transformer"])
    act, norm = r.choice(ACTIVATIONS), r.choice(["", "", "batch", "layer"])
    depth, width, size = r.randint(1, 5), r.choice([8, 16, 24, 32, 48, 64]), r.choice([16, 32, 64])
    build: Callable[[], nn.Module]
    if kind in ("mlp", "residual"):
        data = Data(r.choice(CLASSES + NUMBERS), seed)
        build = partial(dense, data, depth, width, act, norm, kind == "residual")
        name = f"{data.name}-{kind}-{depth}x{width}-{act.__name__}{'-' + norm if norm else ''}"
    elif kind == "cnn":
        data = Data("digits", seed)
        build = partial(pictures, 8, norm == "batch", act)
        name = f"digits-cnn-{act.__name__}{'-batch' if norm == 'batch' else ''}"
    else:
        data = Data(r.choice(SEQUENCES), seed)
        width, layers, first = 16 if width < 32 else 24, r.randint(1, 2), r.random() < 0.5
        if kind == "transformer":
            build = partial(Attention, data.features, data.x.shape[1], width, layers, first, data.outputs)
            name = f"{data.name}-transformer-{layers}x{width}-{'pre' if first else 'post'}"
        else:
            build = partial(Last, nn.GRU if kind == "gru" else nn.LSTM, data.features, width, data.outputs)
            name = f"{data.name}-{kind}-{width}"
    net = Net(f"{name}-b{size}", build, lambda _, data=data, size=size: data.batches(size), regress if data.counts else classify)
    return net, r.choice(list(EVERY))
