"""Batches for the held-out programs: what takes a seed and gives them, of a table, of text or of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.health.heldout_data import LETTERS, TEXT, friedman, moons, sine, spirals, table, xor
from benchmarks.health.heldout_programs import Batch, Data


def rows(x: Any, y: Any, size: int, seed: int, count: int = 24) -> list[Batch]:
    """``count`` shuffled batches of ``size`` rows, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(math.ceil(size * count / len(x)))])
    return [(x[i], y[i]) for i in order[: size * count].split(size)]


def on(name: str, size: int = 32, *, count: int = 24, scaled: bool = True, change: Callable[[Tensor, Tensor], Batch] | None = None) -> Data:
    """Batches of a known table; ``change(x, y)`` is done to the whole table first."""
    own: dict[str, Callable[[], Batch]] = {"moons": moons, "xor": xor, "friedman": lambda: friedman(scaled=scaled), "spirals": spirals, "sine": sine}

    def data(seed: int) -> list[Batch]:
        x, y = own[name]() if name in own else table(name, scaled)
        return rows(*(change(x, y) if change else (x, y)), size, seed, count)

    return data


def made(make: Callable[..., Batch], *arguments: Any, size: int = 32, count: int = 24, **more: Any) -> Data:
    """Batches of ``make(*arguments)``, a function that gives x and y."""
    return lambda seed: rows(*make(*arguments, **more), size, seed, count)


def whole(*parts: Any) -> Data:
    """The same full batch each step."""
    return lambda seed: [parts]


def pairs(size: int = 32) -> Data:
    """Two digits, and whether they show the same number; half of the pairs do."""

    def data(seed: int) -> list[Batch]:
        x, y = table("digits")
        g = torch.Generator().manual_seed(seed)
        batches = []
        for _ in range(24):
            a, b = (torch.randint(0, len(x), (size,), generator=g) for _ in range(2))
            for i in range(0, size, 2):
                b[i] = torch.nonzero(y == y[a[i]])[int(torch.randint(0, 100, (), generator=g))]
            batches.append((x[a], x[b], (y[a] == y[b]).float()))
        return batches

    return data


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


def text(size: int = 16, length: int = 16) -> Data:
    return lambda seed: letters(size, length, seed)
