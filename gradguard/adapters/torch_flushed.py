"""Which entries of a gradient a low-precision backward pass has flushed to zero."""

from __future__ import annotations

import torch

__all__ = ["SCALE", "flushed"]

SCALE = 1024.0
"""The factor on the loss that brings them back: ten more bits below the smallest number."""


def flushed(plain: torch.Tensor, scaled: torch.Tensor) -> float:
    """The share of a gradient's entries that are exactly 0, and are not when the loss is scaled up first.

    Entries that overflow when scaled are far from the smallest numbers.
    """
    real = (scaled != 0) & torch.isfinite(scaled)
    total = int(real.sum())
    return int(((plain == 0) & real).sum()) / total if total else 0.0
