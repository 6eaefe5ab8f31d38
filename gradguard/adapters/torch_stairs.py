"""Whether two outputs are the same stairs: the same, or the same up to an origin and a step size that entries share.

A step size that is taken from the values (dynamic quantisation, binary weights) moves with every one of them. Which entries
share one is the quantiser's own choice: all, a row, a channel, or a block of a row or of rows and columns (Dettmers et al.
2022, arXiv:2110.02861, blocks of the flattened tensor; Rouhani et al. 2023, arXiv:2310.10537, blocks of a row).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

__all__ = ["SameStairs", "groupings", "same"]

CROSSING = 1e-3
"""Share of the outputs that may lie on an edge of a stair."""
FREE, RELATIVE = 4, 64.0
"""Entries besides the one that sets a step size; rounding of entries relative to it, in units of the precision."""
COMPARED = 0.5
"""Share of the entries whose group must have that many."""
FEW, OTHERWISE = 4096, 0.1
"""Entries that are compared first; the share of them that tells at once that a grouping is another."""
Grouping = Callable[[torch.Tensor], list[torch.Tensor]]
"""The entries of a tensor as matrices (G, N): G groups of N entries that share an origin and a step size."""


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Whether outputs are the same, but for a few that lie on an edge."""
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return False
    changed = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    return changed <= CROSSING * sum(x.numel() for x in a)


@dataclass(frozen=True)
class SameStairs:
    """Whether outputs are the same stairs up to an origin and a step size of each group, such as its range or mean.

    A group is compared where at least ``FREE`` of its entries, besides the one that sets the size, are not 0: of fewer, the
    size is all that there is, and only where it is 0 is looked at. ``turned``: the same from top to bottom counts, too. So are
    two values that stand in the same places wherever the input is: two means, each repeated, and no stairs.
    """

    grouping: Grouping
    turned: bool = False

    def __call__(self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
        if len(a) != len(b) or any(x.shape != y.shape or not x.is_floating_point() for x, y in zip(a, b, strict=True)):
            return False
        total = sum(x.numel() for x in a)
        compared = changed = 0
        for x, y in zip(a, b, strict=True):
            for one, other in zip(self.grouping(x), self.grouping(y), strict=True):
                few = max(1, FEW // one.shape[1])
                if len(one) > few and self._changed(one[:few], other[:few])[1] > OTHERWISE * few * one.shape[1]:
                    return False  # most groupings are not the function's, and need not be tried on a large tensor
                pair = self._changed(one, other)
                compared, changed = compared + pair[0], changed + pair[1]
        return compared >= COMPARED * total > 0 and changed <= CROSSING * total

    def _changed(self, x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
        """How many entries of two matrices (G, N) were compared, and how many differ."""
        (one, taken), (other, taken_too) = _stairs(x), _stairs(y)
        both = taken & taken_too
        off = ((one - other).abs() > RELATIVE * torch.finfo(x.dtype).eps).sum(1)
        if self.turned:
            off = torch.minimum(off, ((1 - one - other).abs() > RELATIVE * torch.finfo(x.dtype).eps).sum(1))
        zeros = ((x == 0) != (y == 0)).sum(1)
        return int(both.sum()) * x.shape[1], int(torch.where(both, off, zeros).sum())


def _stairs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each group (G, N) from 0 to 1, and which have enough entries to be compared."""
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    size = high - low
    usable = (size[:, 0] > 0) & torch.isfinite(size[:, 0]) & ((x != 0).sum(dim=1) > FREE)
    return torch.where(usable[:, None], (x - low) / torch.where(size > 0, size, 1), 0), usable


def groupings(shape: Sequence[int]) -> Iterator[Grouping]:
    """Which entries may share a step size: all, those along some axes, or those of a block."""
    n = len(shape)
    yield lambda x: [x.reshape(1, -1)]
    if n > 1:
        yield lambda x: [x.flatten(0, -2)]  # a row
        yield lambda x: [x.flatten(0, -2).t()]  # a feature
    if n > 2:
        yield lambda x: [x.flatten(1)]  # the first axis: filters
        yield lambda x: [x.transpose(0, 1).flatten(1)]  # channels
    if n:
        yield from _blocks(shape)


def _blocks(shape: Sequence[int]) -> Iterator[Grouping]:
    """Blocks of rows, cut short at a row's end or not, of columns, and square tiles of both."""
    last, total = shape[-1], torch.Size(shape).numel()
    powers = [2**k for k in range(3, total.bit_length()) if 2**k < total]
    for size in sorted({*_divisors(last), *(p for p in powers if total % p == 0)}):
        yield partial(_of_rows, size=size)
    for size in (p for p in powers if p < last and last % p):
        yield partial(_cut_short, size=size)
    if len(shape) < 2:
        return
    for size in _divisors(shape[-2]):
        yield partial(_tiles, high=size, wide=1)
    for size in (p for p in (4, *powers) if shape[-2] % p == 0 == last % p):
        yield partial(_tiles, high=size, wide=size)


def _of_rows(x: torch.Tensor, *, size: int) -> list[torch.Tensor]:
    return [x.reshape(-1, size)]


def _cut_short(x: torch.Tensor, *, size: int) -> list[torch.Tensor]:
    """Rows in blocks, the last of which is what is left of a row."""
    whole = x.shape[-1] // size * size
    return [x[..., :whole].reshape(-1, size), x[..., whole:].reshape(-1, x.shape[-1] - whole)]


def _tiles(x: torch.Tensor, *, high: int, wide: int) -> list[torch.Tensor]:
    across = x.shape[-1] // wide
    return [x.reshape(-1, high, across, wide).transpose(1, 2).reshape(-1, high * wide)]


def _divisors(n: int) -> list[int]:
    """Sizes of equal parts that have enough entries to be compared."""
    return [size for size in range(FREE + 2, n // 2 + 1) if n % size == 0]
