"""Discrete choices in a look: which codes of a codebook, or which experts, were taken how often."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradguard.adapters.observing_base import CodeFacts
from gradguard.adapters.torch_spy_units import address

__all__ = ["Choices"]

HELD = 64
"""Choices that are remembered at a time."""


class Choices:
    """Results of ``argmin``, ``argmax``, ``max``, ``min`` and ``topk`` that later index a table, become one-hot, or are
    compared with one number after the other (``index == i`` for each expert)."""

    def __init__(self, blocks: Mapping[int, str]) -> None:
        self.blocks = blocks
        self.counts: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self.tables: dict[tuple[str, str], str] = {}
        self.leads: dict[tuple[str, str], float] = {}
        self.alike: dict[tuple[str, str], bool] = {}
        self._sizes: dict[int, int] = {}
        self._scores: dict[int, float] = {}
        self._held: deque[torch.Tensor] = deque(maxlen=HELD)  # an address means this storage for as long as it is held
        self._asked: dict[int, set[int]] = {}

    def chosen(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Remember an index, and how many there were to choose from."""
        if isinstance(result, tuple):  # values and indices
            result = result[1] if len(result) == 2 else None
        dim = -1 if name == "topk" else kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(dim, int) and isinstance(result, torch.Tensor) and result.ndim >= 1 and result.dtype == torch.int64:
            if len(self._held) == HELD:
                old = address(self._held[0])
                self._sizes.pop(old, None)
                self._asked.pop(old, None)
                self._scores.pop(old, None)
            self._held.append(result)
            self._sizes[address(result)] = int(args[0].shape[dim])
            self._scores[address(result)] = _lead(args[0], dim, largest="min" not in name)

    def compared(self, here: str, args: Any) -> None:
        """Count a remembered index at the second number that it is compared with: it says which expert takes which sample."""
        if len(args) != 2 or not isinstance(args[0], torch.Tensor) or isinstance(args[1], bool) or not isinstance(args[1], int):
            return
        index, place = args[0], address(args[0])
        size = self._sizes.get(place)
        if size is None or index.dtype != torch.int64:
            return
        asked = self._asked.setdefault(place, set())
        before = len(asked)
        asked.add(args[1])
        if before == 1 and len(asked) == 2:
            self._count((here, "experts"), index, size)

    def _count(self, key: tuple[str, str], index: torch.Tensor, size: int) -> None:
        self.leads[key] = min(self.leads.get(key, math.inf), self._scores[address(index)])
        counts = self.counts.setdefault(key, np.zeros(size))
        found = torch.bincount(index.detach().reshape(-1).cpu(), minlength=size).numpy()
        if found.shape == counts.shape:
            counts += found

    def used(self, name: str, here: str, args: Any) -> None:
        """Count where a remembered index looks something up."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        tensors += [i for a in args if isinstance(a, tuple) for i in a if isinstance(i, torch.Tensor)]
        index = next((t for t in tensors if t.dtype == torch.int64 and address(t) in self._sizes), None)
        if index is None:
            return
        size = self._sizes[address(index)]
        table = next((t for t in tensors if t.is_floating_point() and t.ndim == 2 and t.shape[0] == size), None)
        if table is None and name != "one_hot":
            return
        key = (here, "experts" if name == "one_hot" else "codes")
        self.tables[key] = self.blocks.get(id(table), "") if table is not None else ""
        if table is not None and not table.requires_grad:
            self.alike[key] = bool((table == table[:1]).all())
        self._count(key, index, size)

    def facts(self) -> tuple[CodeFacts, ...]:
        """Every table that was looked up by a choice."""
        return tuple(
            CodeFacts(
                layer=layer, kind=kind, counts=counts, block=self.tables.get((layer, kind), ""), lead=self.leads[layer, kind],
                alike=self.alike.get((layer, kind), False),
            )
            for (layer, kind), counts in self.counts.items()
        )


def _lead(scores: torch.Tensor, dim: int, *, largest: bool) -> float:
    """The best score's mean distance to the second, in standard deviations over samples; 0 where that says nothing."""
    if scores.shape[dim] < 2:
        return 0.0
    best = scores.detach().to("cpu", torch.float64).topk(2, dim=dim, largest=largest).values
    gap = (best.select(dim, 0) - best.select(dim, 1)).abs().reshape(-1)
    if gap.numel() < 2 or not bool(torch.isfinite(gap).all()):
        return 0.0
    mean, spread = float(gap.mean()), float(gap.std())
    return mean / spread if spread > 0 else math.inf if mean > 0 else 0.0
