"""Layers and stacks of layers for the nets of the held-out programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, last: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers.append(act())
    return nn.Sequential(*layers, *last)


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Any) -> Any:
        return self.function(*x)


def image() -> Fn:
    return Fn(lambda x: x.reshape(-1, 1, 8, 8))


def cnn(*, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = True, width: int = 12, out: int = 10) -> nn.Sequential:
    """Two convolutions on digits, global pooling, a linear head."""
    layers: list[nn.Module] = [image()]
    for a, b in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, out))


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class Recurrent(nn.Module):
    """A recurrent layer over (B, T, F) or over ids, and a linear head on its last or on every output."""

    def __init__(self, kind: str, inputs: int, hidden: int, out: int, *, ids: bool = False, every: bool = False, **more: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, hidden) if ids else nn.Identity()
        self.core = getattr(nn, kind)(hidden if ids else inputs, hidden, batch_first=True, **more)
        self.head, self.every = nn.Linear(hidden, out), every

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.core(self.embed(x))
        return self.head(h if self.every else h[:, -1])


class Attention(nn.Module):
    """Self-attention written by hand; ``scale`` multiplies the scores (default ``1 / sqrt(d)``)."""

    def __init__(self, d: int, heads: int = 2, *, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.heads, self.causal, self.scale = heads, causal, (d // heads) ** -0.5 if scale is None else scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) * self.scale
        if self.causal:
            scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def block(d: int, heads: int = 2, **more: Any) -> nn.Sequential:
    """A pre-LN transformer block."""
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(d), Attention(d, heads, **more))),
        Residual(nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))),
    )


class Positions(nn.Module):
    """Ids to vectors, with learned positions."""

    def __init__(self, symbols: int, d: int, longest: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(symbols, d), nn.Embedding(longest, d)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token(ids) + self.position.weight[: ids.shape[1]]


class Lora(nn.Module):
    """A frozen linear layer and a low-rank change of it that begins at 0."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T
