"""Changes of one part of a tensor, samples or positions, that leave the rest as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = [
    "Change",
    "at",
    "exchange_future",
    "gentler",
    "repeat_first",
    "repeat_sample",
    "replace_future",
    "replace_others",
    "replace_sample",
]

Change = Callable[[torch.Tensor], torch.Tensor]


def replace_sample(x: torch.Tensor) -> torch.Tensor:
    """Sample 0 made different: noise of its scale, or other values of the batch."""
    new = x.clone()
    if x.is_floating_point():
        new[0] = x[0] + noise_like(x[0]) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[0] = x[1:].reshape(-1).flip(0)[: x[0].numel()].reshape(x[0].shape)
        if torch.equal(new[0], x[0]):
            new[0] = torch.where(x[0] == x.max(), x.min(), x.max())
    return new


def replace_others(x: torch.Tensor) -> torch.Tensor:
    """Every sample but the first made different, and on a larger scale where it has one."""
    new = x.clone()
    rest = x[1:]
    if x.is_floating_point():
        new[1:] = 3 * rest + noise_like(rest) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[1:] = torch.where(rest == x.max(), x.min(), x.max())
    return new


def repeat_sample(x: torch.Tensor) -> torch.Tensor:
    """The next sample in the place of sample 0."""
    return torch.cat([x[1:2], x[1:]])


def repeat_first(x: torch.Tensor) -> torch.Tensor:
    """Sample 0 in the place of every other."""
    return x[:1].expand_as(x).clone()


def exchange_future(x: torch.Tensor, cut: int) -> torch.Tensor:
    """Positions from ``cut`` on as they are in the next sample."""
    return torch.cat([x[:, :cut], x.roll(1, dims=0)[:, cut:]], dim=1)


def replace_future(x: torch.Tensor, cut: int) -> torch.Tensor:
    """Positions from ``cut`` on made different."""
    new = x.clone()
    tail = x[:, cut:]
    if x.is_floating_point():
        new[:, cut:] = tail + noise_like(tail) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[:, cut:] = torch.where(tail == x.max(), x.min(), x.max())
    return new


def noise_like(x: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of their own: the model draws what it would have drawn."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


def at(place: int, change: Change) -> Change:
    """A change of sample 0, or of all others, as one of that sample."""
    return lambda x: change(x.roll(-place, dims=0)).roll(place, dims=0) if place else change(x)


def gentler(change: Change, where: Any, size: float) -> Change:
    """So much of a change; of numbers that only stand for something, the same ones in another order within each sample."""

    def made(x: torch.Tensor) -> torch.Tensor:
        new = change(x)
        if x.is_floating_point():
            return x + size * (new - x)
        if new is x or x.ndim < 2:
            return x
        new = x.clone()
        new[where] = x[where].roll(1, dims=1)
        return new

    return made
