"""A loss curve in a few robust numbers: where it began, its floor, its peak after that, its end, and its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CurveShape", "fall_of", "noise_of", "running_median", "shape_of", "width_of"]


@dataclass(frozen=True, kw_only=True)
class CurveShape:
    """Smoothed: ``first``, ``floor`` (at step ``floor_step``), ``peak`` after the floor, ``end``; and ``noise``.

    ``first`` and ``end`` are medians over a twentieth of the run, at least 5 steps; ``noise`` is the standard deviation of
    single steps about the running median, from median deviations. ``drop`` is by how much the last third after the peak
    lies below the third before it (0 where that is within the noise). ``nonfinite`` are the steps whose loss is not finite,
    ``finite_after`` the number of finite steps after the last of them. ``rate_rose``: the rate after the floor exceeds that
    at it, by this factor; ``rate_new``: and the largest until then. ``ahead`` is how much further the end falls if it goes on
    slowing down as it did over the last half since the peak (infinite where it does not slow down beyond the noise).
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
    ahead: float = math.inf
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
    width = width_of(len(kept))
    smooth = running_median(kept, width)
    floor = int(np.argmin(smooth))
    peak = floor + int(np.argmax(smooth[floor:]))
    spread = noise_of(kept)
    if np.quantile(kept[-(len(kept) // 3) :], 0.25) > np.max(kept[:width]):  # how wild it is by then does not make it noise
        spread = min(spread, noise_of(kept[: max(2 * width, floor + 1)]))
    drop, ahead = fall_of(kept, peak, spread)
    return CurveShape(
        steps=len(values), first=float(np.median(kept[:width])), floor=float(smooth[floor]), floor_step=floor,
        peak=float(smooth[peak]), peak_step=peak, end=float(np.median(kept[-width:])), noise=spread, drop=drop, ahead=ahead,
        nonfinite=tuple(map(int, bad)), finite_after=_after(values, bad),
        rate_rose=_rose(rates, floor, floor), rate_new=_rose(rates, 0, floor),
    )


def width_of(steps: int) -> int:
    """The width of the medians over a run: a twentieth of it, at least 5, odd."""
    return max(5, steps // 20) | 1


def fall_of(values: NDArray[np.float64], peak: int, noise: float) -> tuple[float, float]:
    """``drop`` and ``ahead`` of a curve (T,) since its peak; see :class:`CurveShape`.

    The fall from one sixth to the next shrinks by a factor q per sixth where the curve nears a limit; what it still falls at
    most at that pace is the last fall / ln(1 / q), the sum of an exponential. (Of a power law it is a third to a half.)
    """
    since, width = len(values) - peak, width_of(len(values))
    third, sixth = max(width, since // 3), since // 6
    late, before = values[-third:], values[-2 * third : -third]
    drop = float(np.median(before) - np.median(late)) if len(before) else 0.0
    if not drop > 2.5 * noise / third**0.5:
        return 0.0, 0.0
    if sixth < width:  # too short to see how it slows down
        return drop, math.inf
    one, two, three = (float(np.median(block)) for block in np.split(values[-3 * sixth :], 3))
    earlier, later = one - two, two - three + 1.8 * noise / sixth**0.5  # a standard error of two medians
    if later >= earlier:
        return drop, math.inf
    return drop, later / math.log(earlier / later) if later > 0 else 0.0


def noise_of(values: NDArray[np.float64]) -> float:
    """The standard deviation of single steps of a curve (T,) about its running median, and of their differences."""
    steps = np.diff(values)
    about = float(np.median(np.abs(values - running_median(values, width_of(len(values))))))
    return 1.4826 * max(about, float(np.median(np.abs(steps - np.median(steps))) / np.sqrt(2.0)))


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
