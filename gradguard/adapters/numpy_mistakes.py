"""Gradients that are a common mistake away from the one under test: transposed, rows moved, and the like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.blocks import axis_name

__all__ = ["repeated_values", "slice_shares", "variants"]

MOST = 1000
"""Repeated values that are kept of one array."""


def variants(g: NDArray[Any] | None, u: NDArray[Any] | None) -> dict[str, float]:
    """<g', u> by the name of the mistake; nothing where g or u is missing, complex or has no axis."""
    if g is None or u is None or np.iscomplexobj(g) or g.ndim < 1:
        return {}
    found: dict[str, NDArray[Any]] = {}
    for axis in range(g.ndim):
        what = axis_name(axis, g.ndim)
        found[f"{what} reversed"] = np.flip(g, axis)
        found[f"{what} moved by one"] = np.roll(g, 1, axis)
        found[f"{what} moved back by one"] = np.roll(g, -1, axis)
    if g.ndim >= 2:
        found["transposed"] = np.swapaxes(g.reshape(*g.shape[:-2], g.shape[-1], g.shape[-2]), -1, -2)
    return {name: float(np.sum(other * u)) for name, other in found.items()}


def slice_shares(g: NDArray[Any] | None, u: NDArray[Any] | None, axis: int, index: int) -> NDArray[np.float64]:
    """<g_j, u_index> for every slice j along an axis, shape (extent,)."""
    if g is None or u is None or np.iscomplexobj(g) or g.ndim < 1:
        return np.zeros(0)
    flat = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return np.asarray(flat @ np.take(u, index, axis).reshape(-1), dtype=np.float64)


def repeated_values(arrays: Iterable[NDArray[Any]]) -> frozenset[int]:
    """The values that integer arrays hold more than once."""
    found: set[int] = set()
    for array in arrays:
        if array.dtype.kind in "iu":
            values, counts = np.unique(array, return_counts=True)
            found.update(int(k) for k in values[counts > 1][:MOST])
    return frozenset(found)
