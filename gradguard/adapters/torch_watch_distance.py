"""How far the weights of a watched loop came from where they were at its first step, from a few entries of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ENTRIES", "Distance"]

ENTRIES = 4096
"""Entries of one parameter that are compared, evenly spread over it: memory is bounded."""


class Distance:
    """The largest distance that any step found before it began: weights that are put back after each step stay at 0.

    Norms stay on the device until they are read.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.counts: list[int] = []
        """Entries that are compared."""
        self.start: list[torch.Tensor] = []
        self.first: list[torch.Tensor] = []
        """Norms at the start."""
        self.largest: list[torch.Tensor] = []

    def see(self) -> None:
        """A step begins."""
        with torch.no_grad():
            now = [some(p) for p in self.parameters]
            if not self.start:
                self.start = [entries.clone() for entries in now]
                self.counts = [entries.numel() for entries in now]
                self.first = list(torch._foreach_norm(self.start))
                self.largest = [torch.zeros_like(norm) for norm in self.first]
                return
            moved: Any = torch._foreach_sub(now, self.start)
            norms = torch._foreach_norm(moved)
            self.largest = [torch.maximum(old, new) for old, new in zip(self.largest, norms, strict=True)]

    def forget(self) -> None:
        """No copy of a parameter is left."""
        self.start = []
        self.parameters = []

    def shares(self) -> NDArray[np.float64] | None:
        """Distance over the norm at the start, (P,), transferred now; None where nothing was seen.

        What began as zeros is measured by the root mean square of all entries; NaN where everything began as zeros.
        """
        if not self.first:
            return None
        first = np.array([float(norm) for norm in self.first])
        moved = np.array([float(norm) for norm in self.largest])
        counts = np.array(self.counts, dtype=np.float64)
        size = math.sqrt(float(np.sum(first**2)) / max(1.0, float(counts.sum())))
        scale = np.where(first > 0, first, size * np.sqrt(counts))
        return np.asarray(moved / np.where(scale > 0, scale, math.nan), dtype=np.float64)


def stride_of(parameter: torch.Tensor) -> int:
    """Every how many-th entry is compared."""
    return max(1, -(-parameter.numel() // ENTRIES))


def some(parameter: torch.Tensor) -> torch.Tensor:
    """At most ``ENTRIES`` entries in single precision or better, the same ones each time, (n,)."""
    sharded: Any = parameter.detach()
    local: torch.Tensor = sharded.to_local() if hasattr(sharded, "to_local") else sharded
    if not local.is_contiguous():  # in the order of memory, no copy is needed
        strides = local.stride()
        local = local.permute(sorted(range(local.ndim), key=lambda axis: -strides[axis]))
    taken = local.reshape(-1)[:: stride_of(local)]
    return taken.float() if taken.dtype in (torch.float16, torch.bfloat16) else taken
