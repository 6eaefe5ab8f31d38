"""Data and small parts for the held-out programs, and what a program is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

Batch = tuple[Any, ...]


@dataclass
class Setup:
    """What ``check_training`` takes; or ``loop``, a user's own loop that is given ``gg.watch``."""

    model: Any
    batches: Any = None
    loss: Any = None
    optimizer: Any = None
    more: dict[str, Any] = field(default_factory=dict)
    loop: Callable[[Any], None] | None = None
    way: str = "training"  # "audit": the gradient rules belong to the question
    steps: int = 20


@dataclass(frozen=True)
class Program:
    """One program of a draw; ``codes`` are the acceptable first codes, empty where the program is healthy."""

    name: str
    build: Callable[[int], Setup]
    codes: frozenset[str]
    note: str


class Draw:
    """A list of programs; used as a decorator on their builders."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def __call__(self, *codes: str) -> Callable[[Callable[[int], Setup]], Callable[[int], Setup]]:
        def add(build: Callable[[int], Setup]) -> Callable[[int], Setup]:
            self.programs.append(Program(build.__name__, build, frozenset(codes), (build.__doc__ or "").strip()))
            return build

        return add


def rows(x: Any, y: Any, size: int, seed: int, count: int = 24) -> list[Batch]:
    """``count`` shuffled batches of ``size`` rows, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(math.ceil(size * count / len(x)))])
    return [(x[i], y[i]) for i in order[: size * count].split(size)]


@cache
def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, y


def table(name: str, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """iris, wine, breast_cancer, digits: rows and class ids; diabetes: rows and a float column of labels."""
    x, y = _loaded(name)
    x = torch.tensor(x, dtype=torch.float32)
    if scaled:
        x = x / 16 if name == "digits" else (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    if name == "diabetes":
        y = torch.tensor(y, dtype=torch.float32)
        return x, ((y - y.mean()) / y.std() if scaled else y)
    return x, torch.tensor(y)


def friedman(n: int = 640, scaled: bool = True) -> tuple[Tensor, Tensor]:
    x, y = datasets.make_friedman1(n, random_state=5)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return (x * 2 - 1, (y - y.mean()) / y.std()) if scaled else (x, y)


def moons(n: int = 640) -> tuple[Tensor, Tensor]:
    x, y = datasets.make_moons(n, noise=0.15, random_state=3)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def xor(n: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(n, 2, generator=generator)
    return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()


TEXT = ("it was a bright cold day in april and the clocks were striking thirteen the hall way smelt of boiled cabbage and old rag mats "
        "a ship in harbour is safe but that is not what ships are built for and so the crew went down to the sea again to the lonely sea ") * 4
LETTERS = sorted(set(TEXT))


def letters(size: int, length: int, seed: int, count: int = 24) -> list[Batch]:
    """Batches ``(x, y)`` of shape (size, length): y is x one letter later."""
    ids = torch.tensor([LETTERS.index(c) for c in TEXT])
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        start = torch.randint(0, len(ids) - length - 1, (size,), generator=generator)
        window = torch.stack([ids[s : s + length + 1] for s in start.tolist()])
        batches.append((window[:, :-1], window[:, 1:]))
    return batches


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def ce(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def mse(model: Any, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, last: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers.append(act())
    return nn.Sequential(*layers, *last)


def adam(lr: float = 1e-3, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, **more)


def sgd(lr: float, momentum: float = 0.0, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **more)


def cycle(batches: list[Batch], steps: int) -> Iterator[Batch]:
    for i in range(steps):
        yield batches[i % len(batches)]
