"""Tangents as NumPy arrays: the entries that a description stands for, and real components of complex ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.numpy_phi import UNIT
from gradguard.blocks import Tangent, draw, window_slices

__all__ = ["components", "directions", "norm"]


def directions(tangent: Tangent, x: Sequence[Any]) -> dict[int, NDArray[Any]]:
    """The tangent's values at the blocks' values ``x``, block by block: float64 or complex128 arrays of their shapes."""
    result: dict[int, NDArray[Any]] = {}
    for block, scale in tangent.scales.items():
        result[block] = _direction(x[block], tangent.seed, block, scale, tangent.relative)
        if block in tangent.windows:
            inside = window_slices(tangent.windows[block], np.ndim(x[block]))
            part = np.zeros_like(result[block])
            part[inside] = result[block][inside]
            result[block] = part
    for chosen in tangent.entries:
        still = np.zeros(np.shape(x[chosen.block]), dtype=np.asarray(x[chosen.block]).dtype)
        u = result.setdefault(chosen.block, still)
        np.add.at(u.reshape(-1), np.asarray(chosen.indices, dtype=np.intp), np.asarray(chosen.values))
    return result


def _direction(x: Any, seed: int, block: int, scale: float, relative: float | None) -> NDArray[Any]:
    is_complex = np.iscomplexobj(x)
    size = int(np.size(x)) * (2 if is_complex else 1)
    u = draw(seed, block, size).astype(np.float64) * (scale / UNIT)
    u = (u.view(np.complex128) if is_complex else u).reshape(np.shape(x))
    if relative is not None and np.size(x):
        rms = norm(x) / np.sqrt(np.size(x))
        if rms > 0:
            u = u * np.clip(np.abs(np.asarray(x)) / rms, relative, 1.0)
    return u


def components(g: NDArray[Any]) -> NDArray[np.float64]:
    """The entries flat, complex ones as real and imaginary part."""
    flat = np.ascontiguousarray(g).reshape(-1)
    return np.asarray(flat.view(flat.real.dtype) if np.iscomplexobj(flat) else flat, dtype=np.float64)


def norm(x: Any) -> float:
    """The Euclidean norm of all entries."""
    return float(np.linalg.norm(np.asarray(x).reshape(-1)))
