"""Data for the held-out programs: tables, made-up points, images, series and words, as a whole."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_programs import Batch

TEXT = ("it was a bright cold day in april and the clocks were striking thirteen the hall way smelt of boiled cabbage and old rag mats "
        "a ship in harbour is safe but that is not what ships are built for and so the crew went down to the sea again to the lonely sea ") * 4
LETTERS = sorted(set(TEXT))
VOCABULARY = len(LETTERS)


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


def images() -> tuple[Tensor, Tensor]:
    x, y = table("digits")
    return x.reshape(-1, 1, 8, 8), y


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


def spirals(n: int = 400) -> Batch:
    t = torch.linspace(0.5, 3 * math.pi, n // 2)
    arm = torch.stack([t * t.cos(), t * t.sin()], 1) / 8
    return torch.cat([arm, -arm]), torch.arange(n) // (n // 2)


def sine(n: int = 512) -> Batch:
    x = torch.linspace(-2, 2, n)[:, None]
    return x, torch.sin(3 * x)


def clusters(features: int, classes: int, n: int = 600, **more: Any) -> Batch:
    x, y = datasets.make_classification(n, features, n_informative=min(features, 8), n_redundant=0, n_classes=classes, n_clusters_per_class=1, class_sep=1.5, random_state=4, **more)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def rings(n: int = 480) -> Batch:
    x, y = datasets.make_circles(n, noise=0.08, factor=0.5, random_state=6)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def blobs(n: int = 480, classes: int = 5) -> Batch:
    x, y = datasets.make_blobs(n, 6, centers=classes, cluster_std=1.5, random_state=6)
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32), torch.tensor(y)


def houses(n: int = 480, scaled: bool = True) -> Batch:
    """Rooms, area, year and distance, and the price in thousands, about 100 to 700."""
    g = torch.Generator().manual_seed(62)
    u = torch.rand(n, 4, generator=g)
    rooms, area, year, distance = (1 + 7 * u[:, 0]).floor(), 30 + 220 * u[:, 1], (1900 + 120 * u[:, 2]).floor(), 30 * u[:, 3]
    price = 50 + 2 * area + 10 * rooms + 0.5 * (year - 1900) - 3 * distance + 15 * torch.randn(n, generator=g)
    x = torch.stack([rooms, area, year, distance], 1)
    return ((x - x.mean(0)) / x.std(0), (price - price.mean()) / price.std()) if scaled else (x, price)


def sequences(n: int = 512, length: int = 20, features: int = 3, asked: int = -1) -> Batch:
    """Random walks; the label is whether feature 0 is positive at the position that is asked."""
    x = torch.randn(n, length, features, generator=torch.Generator().manual_seed(21))
    return x, (x[:, asked, 0] > 0).long()


def waves(n: int = 480, length: int = 48) -> Batch:
    """Noisy sines, squares and saws (n, 1, length) of any phase and of two to four periods, and which of the three it is."""
    g = torch.Generator().manual_seed(61)
    y = torch.arange(n) % 3
    t = torch.linspace(0, 1, length)[None] * (2 + 2 * torch.rand(n, 1, generator=g)) + torch.rand(n, 1, generator=g)
    sine = (2 * math.pi * t).sin()
    shapes = torch.stack([sine, sine.sign(), 2 * (t % 1) - 1], 1)
    return shapes[torch.arange(n), y][:, None] + 0.1 * torch.randn(n, 1, length, generator=g), y


def series(n: int = 480, length: int = 24) -> Batch:
    """Windows of a sum of two sines as (n, length, 1), and the next value."""
    t = torch.arange(n + length).float()
    s = (0.3 * t).sin() + 0.5 * (0.11 * t).sin() + 0.05 * torch.randn(n + length, generator=torch.Generator().manual_seed(63))
    windows = s.unfold(0, length + 1, 1)[:n]
    return windows[:, :-1, None], windows[:, -1]


def padded(n: int = 512, longest: int = 12, symbols: int = 20) -> tuple[Tensor, Tensor]:
    """Ids from 1, padded with 0; the label is whether small ids outnumber large ones."""
    g = torch.Generator().manual_seed(22)
    ids = torch.randint(1, symbols, (n, longest), generator=g)
    lengths = torch.randint(3, longest + 1, (n,), generator=g)
    ids[torch.arange(longest)[None] >= lengths[:, None]] = 0
    small = ((ids > 0) & (ids < symbols // 2)).sum(1) * 2 > (ids > 0).sum(1)
    return ids, small.long()


def reviews(n: int = 480, words: int = 50, length: int = 16) -> Batch:
    """Ids of words; the label is whether more words are from the first half."""
    ids = torch.randint(0, words, (n, length), generator=torch.Generator().manual_seed(64))
    return ids, ((ids < words // 2).sum(1) > length // 2).long()


def bags(n: int = 480, words: int = 30) -> Batch:
    """Counts of words, and which half occurs more often; a few documents are empty."""
    g = torch.Generator().manual_seed(65)
    x = torch.poisson(torch.full((n, words), 0.3), generator=g)
    x[::40] = 0
    return x, (x[:, : words // 2].sum(1) > x[:, words // 2 :].sum(1)).long()


def squares(n: int = 256, side: int = 16) -> Batch:
    """Noisy images of one bright rectangle, and its mask (N, 1, side, side)."""
    g = torch.Generator().manual_seed(23)
    corner, extent = torch.randint(0, side - 7, (n, 2), generator=g), torch.randint(3, 8, (n, 2), generator=g)
    at = torch.arange(side)
    row = (at >= corner[:, :1]) & (at < corner[:, :1] + extent[:, :1])
    column = (at >= corner[:, 1:]) & (at < corner[:, 1:] + extent[:, 1:])
    mask = (row[:, :, None] & column[:, None, :])[:, None].float()
    return mask + 0.3 * torch.randn(n, 1, side, side, generator=g), mask


def graph(nodes: int = 120, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A random graph with communities: row-normalised adjacency with loops, noisy features, groups."""
    g = torch.Generator().manual_seed(24)
    y = torch.arange(nodes) % groups
    same = y[:, None] == y[None]
    a = (torch.rand(nodes, nodes, generator=g) < torch.where(same, 0.15, 0.01)).float()
    a = ((a + a.T + torch.eye(nodes)) > 0).float()
    return a / a.sum(1, keepdim=True), F.one_hot(y, groups).float().repeat(1, 4) + torch.randn(nodes, 4 * groups, generator=g), y


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)
