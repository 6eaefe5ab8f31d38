"""Discrete choices in a look: which codes of a codebook, or which experts, were taken how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradguard.adapters.observing_base import CodeFacts
from gradguard.adapters.torch_spy_units import address

__all__ = ["Choices"]


class Choices:
    """Results of ``argmin``, ``argmax`` and ``topk`` that later index a table, or become one-hot."""

    def __init__(self, blocks: Mapping[int, str]) -> None:
        self.blocks = blocks
        self.counts: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self.tables: dict[tuple[str, str], str] = {}
        self._sizes: dict[int, int] = {}

    def chosen(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Remember an index, and how many there were to choose from."""
        if name == "topk":
            if isinstance(result, tuple) and len(result) == 2:
                self._sizes[address(result[1])] = int(args[0].shape[-1])
            return
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(dim, int) and isinstance(result, torch.Tensor) and result.ndim >= 1:
            self._sizes[address(result)] = int(args[0].shape[dim])

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
        counts = self.counts.setdefault(key, np.zeros(size))
        self.tables[key] = self.blocks.get(id(table), "") if table is not None else ""
        found = torch.bincount(index.detach().reshape(-1).cpu(), minlength=size).numpy()
        if found.shape == counts.shape:
            counts += found

    def facts(self) -> tuple[CodeFacts, ...]:
        """Every table that was looked up by a choice."""
        return tuple(
            CodeFacts(layer=layer, kind=kind, counts=counts, block=self.tables.get((layer, kind), ""))
            for (layer, kind), counts in self.counts.items()
        )
