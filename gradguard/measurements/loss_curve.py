"""A loss curve in a few robust numbers: where it began, its floor, its peak after that, its end, and its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CurveShape", "shape_of"]


@dataclass(frozen=True, kw_only=True)
class CurveShape:
    """Smoothed: ``first``, ``floor`` (at step ``floor_step``), ``peak`` after the floor, ``end``; and ``noise``.

    ``first`` and ``end`` are medians over a twentieth of the run, at least 5 steps; ``noise`` is the standard deviation of
    single steps about the running median, from median deviations. ``drop`` is by how much the last third after the peak
    lies below the third before it (0 where that is within the noise). ``nonfinite`` are the steps whose loss is not finite,
    ``finite_after`` the number of finite steps after the last of them. ``rate_rose``: the rate after the floor exceeds that
    at it, by this factor; ``rate_new``: and the largest until then.
    """

    steps: int
    first: float = math.nan
    floor: float = math.nan
    floor_step: int = 0
    peak: float = math.nan
    peak_step: int = 0
    end: float = math.nan
    noise: float = 0.0
    drop: float = 0.0
    nonfinite: tuple[int, ...] = ()
    finite_after: int = 0
    rate_rose: float = 1.0
    rate_new: float = 1.0


def shape_of(losses: Sequence[float], rates: Sequence[float] = ()) -> CurveShape:
    """The shape of a curve (T,), and of the rates (T,) that go with it, where they are known."""
    values = np.asarray(losses, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    kept = values[np.isfinite(values)]
    if len(kept) < 5:
        return CurveShape(steps=len(values), nonfinite=tuple(map(int, bad)), finite_after=_after(values, bad))
    width = max(5, len(kept) // 20) | 1
    smooth = running_median(kept, width)
    steps = np.diff(kept)
    spread = 1.4826 * max(
        float(np.median(np.abs(kept - smooth))), float(np.median(np.abs(steps - np.median(steps)))) / 2.0**0.5
    )
    floor = int(np.argmin(smooth))
    peak = floor + int(np.argmax(smooth[floor:]))
    third = max(width, (len(kept) - peak) // 3)
    late, before = kept[-third:], kept[-2 * third : -third]
    error = 2.5 * spread / third**0.5
    drop = float(np.median(before) - np.median(late)) if len(before) else 0.0
    return CurveShape(
        steps=len(values), first=float(np.median(kept[:width])), floor=float(smooth[floor]), floor_step=floor,
        peak=float(smooth[peak]), peak_step=peak, end=float(np.median(kept[-width:])), noise=spread,
        drop=drop if drop > error else 0.0,
        nonfinite=tuple(map(int, bad)), finite_after=_after(values, bad),
        rate_rose=_rose(rates, floor, floor), rate_new=_rose(rates, 0, floor),
    )


def running_median(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The median of ``width`` neighbours (odd), with the ends mirrored; shape as ``values``."""
    padded = np.pad(values, width // 2, mode="reflect")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=-1)
    return np.asarray(middle, dtype=np.float64)


def _after(values: NDArray[np.float64], bad: NDArray[np.int64]) -> int:
    return len(values) - 1 - int(bad[-1]) if len(bad) else len(values)


def _rose(rates: Sequence[float], start: int, floor: int) -> float:
    """The largest rate from the floor on against the largest from ``start`` to the floor."""
    if len(rates) <= floor + 1:
        return 1.0
    before = max(*rates[start : floor + 1], 1e-300)
    return max(rates[floor:]) / before
