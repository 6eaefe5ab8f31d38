"""What the faulty and healthy programs share: data, nets, and a case with its machine-readable truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

__all__ = ["Case", "Program", "bce", "ce", "digits", "linears", "loader", "mlp", "mse", "xy"]


@dataclass
class Program:
    """A model with its data, loss and optimizer; ``options`` go to ``check_training``."""

    model: nn.Module
    batches: list[Any]
    loss: Callable[[Any, Any], torch.Tensor]
    optimizer: Any
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """``first``: codes that may head the report; ``expected``: one of them must be an error. Empty: healthy.

    ``watched``: a loop of its own, ``watched(program, watch, steps)``, where the fault (or the health) is in the loop.
    """

    id: str
    title: str
    build: Callable[[int], Program]
    expected: frozenset[str] = frozenset()
    watched: Callable[[Program, Any, int], None] | None = None
    module: str = ""

    @property
    def faulty(self) -> bool:
        return bool(self.expected)


@lru_cache(maxsize=1)
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, pixels in 0..1: (1797, 64) and (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


@lru_cache(maxsize=1)
def iris() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's iris: (150, 4) and (150,)."""
    from sklearn.datasets import load_iris

    data = load_iris()
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)


def loader(x: Any, y: Any, size: int, seed: int, epochs: int = 1) -> list[Any]:
    """Shuffled batches as a list of pairs."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        result += [(x[i], y[i]) for i in order.split(size) if len(i) == size or size >= len(x)]
    return result


def xy(seed: int, size: int = 64) -> list[Any]:
    """Batches of digits."""
    return loader(*digits(), size, seed)


def ce(model: Any, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def mse(model: Any, batch: Any) -> torch.Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def bce(model: Any, batch: Any) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU, last: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(a, b))
        if i < len(widths) - 2:
            layers.append(act())
    if last is not None:
        layers.append(last())
    return nn.Sequential(*layers)


def linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def he(model: nn.Module) -> nn.Module:
    """He initialisation of every linear layer, biases 0."""
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def normal(model: nn.Module, std: float, bias: float | None = 0.0) -> nn.Module:
    """Every weight from N(0, std)."""
    for layer in linears(model):
        nn.init.normal_(layer.weight, std=std)
        if bias is not None:
            nn.init.constant_(layer.bias, bias)
    return model


def seeded(build: Callable[[int], Program]) -> Callable[[int], Program]:
    """The program's model drawn from the seed."""

    def made(seed: int) -> Program:
        torch.manual_seed(seed)
        np.random.seed(seed)
        return build(seed)

    return made
