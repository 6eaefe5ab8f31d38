"""The slope of phi at 0 from central differences on a ladder of steps, small to large.

Large first steps alias: a method that starts large is wrong on sin(1000 x) and reports a tiny error. So the walk starts
where noise dominates and goes up for as long as everything agrees (O. Lepski, Theory Probab. Appl. 35, 1990): each
candidate must lie within three combined noise bars of all that were accepted before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard.differences.noise import NOISE_POINTS, Noise, estimate_noise

__all__ = ["ALIASED", "DOUBLE", "SINGLE", "Ladder", "Slope", "measure_slope"]

Phi = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Steps (S,) -> phi(t) - phi(0), shape (S,); NaN where the function is not finite."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Steps as powers of two (so that t u is exact), smallest first, and where to go when the smallest disagree."""

    name: str
    exponents: tuple[int, ...]
    lower: tuple[int, ...]
    noise_exponent: int
    epsilon: float

    @property
    def steps(self) -> NDArray[np.float64]:
        """The steps, shape (L,), ascending."""
        return np.exp2(np.array(self.exponents, dtype=np.float64))

    def up_to(self, largest: float) -> Ladder:
        """The same ladder without the steps above ``largest``; at least three remain."""
        kept = tuple(e for e in self.exponents if 2.0**e <= largest)
        return self if kept == self.exponents else self._with(kept if len(kept) >= 3 else self.exponents[:3])

    def between(self, smallest: float, largest: float) -> Ladder:
        """The steps in [smallest, largest]."""
        return self._with(tuple(e for e in self.exponents if smallest <= 2.0**e <= largest))

    def _with(self, exponents: tuple[int, ...]) -> Ladder:
        return Ladder(
            name=self.name, exponents=exponents, lower=self.lower, noise_exponent=self.noise_exponent, epsilon=self.epsilon
        )


DOUBLE = Ladder(
    name="float64",
    exponents=(-27, -24, -21, -18, -15, -12, -9, -6),
    lower=(-39, -36, -33, -30),
    noise_exponent=-22,
    epsilon=2.0**-52,
)
SINGLE = Ladder(name="float32", exponents=(-13, -11, -9, -7, -5, -3), lower=(-17, -15), noise_exponent=-9, epsilon=2.0**-23)

OFF_GRID = 1.3782  # noise is looked for off the dyadic grid: a value rounded to float32 is exactly linear on it
FIRST_LEVELS = 4  # evaluated before anything is judged
AGREE = 3.0  # combined noise bars within which two candidates agree
RICHARDSON_MARGIN = 0.5  # share of the last change that counts as bias still there
EARLIER_MARGIN = 0.125  # a chance agreement is not trusted: changes against levels further down count, less each
COARSE = 1e-3  # share of the value that no rounding reaches: what looks like so much noise is the function itself
BOUNDED = 10.0  # times as much as the smallest steps change the value, where larger ones meet it just as much at random
ALIASED = "the value varies within the smallest step by as much as over the largest: no step is small enough"
SMOOTH_KINK = 0.25  # relative change of the even part over levels below which it counts as constant: a kink


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A numerical slope with its error bar.

    ``reason`` is empty where the slope is usable. ``step`` is the step it came from, ``right`` and ``left`` the one-sided
    slopes, ``kink`` whether they differ for good, ``steps``/``odd``/``even`` what was seen: (phi(h) - phi(-h)) / 2 and
    (phi(h) + phi(-h)) / 2.
    """

    value: float
    error_bar: float
    sigma: float
    step: float
    largest: float
    right: float
    left: float
    kink: bool
    forwards: int
    steps: NDArray[np.float64]
    odd: NDArray[np.float64]
    even: NDArray[np.float64]
    reason: str = ""

    def order(self, analytical: float) -> float:
        """The order of the Taylor remainder |phi(t) - t s|: 2 where the slope s is right, 1 where it is wrong.

        The median over steps where the remainder stands above the noise; NaN where it never does (phi is linear).
        """
        remainder = np.maximum(
            np.abs(self.odd + self.even - self.steps * analytical), np.abs(self.even - self.odd + self.steps * analytical)
        )
        usable = remainder > 30 * self.sigma
        usable &= np.isfinite(remainder)
        orders = [
            np.log(remainder[i + 1] / remainder[i]) / np.log(self.steps[i + 1] / self.steps[i])
            for i in range(len(self.steps) - 1)
            if usable[i] and usable[i + 1] and self.steps[i + 1] <= max(self.largest, self.steps[min(2, len(self.steps) - 1)])
        ]
        return float(np.median(orders)) if orders else float("nan")


def measure_slope(
    phi: Phi, ladder: Ladder = DOUBLE, *, scale: float = 1.0, noise: Noise | None = None, enough: float = 0.0
) -> Slope:
    """The slope of phi at 0.

    ``scale`` is the magnitude that phi's rounding error is relative to (|v| . |f|); ``noise`` spares the measurement of
    the noise where it is known from another direction. Steps are evaluated from small to large; the walk ends when two
    levels in a row no longer agree, or when the error bar is down to ``enough``.
    """
    floor = 0.3 * ladder.epsilon * scale + np.finfo(np.float64).tiny
    count = 0
    if noise is None:
        half = NOISE_POINTS // 2
        points = np.arange(-half, half + 1, dtype=np.float64) * (OFF_GRID * 2.0**ladder.noise_exponent)
        values = np.zeros(NOISE_POINTS)
        moved = points != 0
        values[moved] = phi(points[moved])
        count += int(moved.sum())
        noise = estimate_noise(values, floor)
    sigma = max(noise.sigma, floor)
    walk = _Walk(sigma)
    steps = ladder.steps
    at = 0
    while at < len(steps) and not walk.ended and not walk.precise(enough):
        part = steps[at : at + (FIRST_LEVELS if at == 0 else 1)]
        count += walk.extend(phi, part)
        at += len(part)
    if walk.lonely and ladder.lower:
        lower = np.exp2(np.array(ladder.lower, dtype=np.float64))
        below = _Walk(sigma)
        count += below.extend(phi, lower)
        below.append(walk)
        walk = below
    if walk.lonely:
        walk = walk.with_noise_that_explains()
    if walk.aliased(scale):
        rest = steps[at:]
        count += walk.extend(phi, rest) if len(rest) else 0
        if walk.aliased(scale):
            return replace(walk.slope(count), value=float("nan"), error_bar=float("inf"), reason=ALIASED)
    return walk.slope(count)


class _Walk:
    """The walk up the ladder: central differences, their Richardson extrapolations, and what was accepted."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.steps: list[float] = []
        self.plus: list[float] = []
        self.minus: list[float] = []

    def extend(self, phi: Phi, steps: NDArray[np.float64]) -> int:
        values = np.asarray(phi(np.concatenate([steps, -steps])), dtype=np.float64)
        n = len(steps)
        self.steps.extend(steps.tolist())
        self.plus.extend(values[:n].tolist())
        self.minus.extend(values[n:].tolist())
        return 2 * n

    def append(self, other: _Walk) -> None:
        self.steps.extend(other.steps)
        self.plus.extend(other.plus)
        self.minus.extend(other.minus)

    def finite(self) -> int:
        """How many levels from the smallest on are finite."""
        good = np.isfinite(self.plus) & np.isfinite(self.minus)
        return int(np.argmin(good)) if not good.all() else len(good)

    def candidates(self) -> list[tuple[float, float, int]]:
        """(value, noise bar, level), ordered by falling noise: d_k, then the extrapolation of levels k and k + 1."""
        n = self.finite()
        h = np.array(self.steps[:n])
        d = (np.array(self.plus[:n]) - np.array(self.minus[:n])) / (2 * h)
        bars = self.sigma / (np.sqrt(2) * h)
        result: list[tuple[float, float, int]] = []
        for k in range(n):
            result.append((float(d[k]), float(bars[k]), k))
            if k + 1 < n:
                q = (h[k + 1] / h[k]) ** 2
                value = (q * d[k] - d[k + 1]) / (q - 1)
                bar = np.hypot(q * bars[k], bars[k + 1]) / (q - 1)
                result.append((float(value), float(bar), k))
        return result

    def accepted(self) -> tuple[list[tuple[float, float, int]], bool]:
        """The candidates that agree with all accepted before them; and whether two levels in a row did not."""
        kept: list[tuple[float, float, int]] = []
        failed_levels: set[int] = set()
        candidates = self.candidates()
        last = candidates[-1][2] if candidates else -1
        for value, bar, level in candidates:
            if all(abs(value - v) <= AGREE * (bar + b) + 1e-15 * abs(v) for v, b, _ in kept):
                kept.append((value, bar, level))
                failed_levels.discard(level)
            elif not any(k == level for _, _, k in kept):
                failed_levels.add(level)
            if level - 1 in failed_levels and level in failed_levels and level < last:
                return kept, True
        return kept, False

    @property
    def ended(self) -> bool:
        return self.finite() < len(self.steps) or self.accepted()[1]

    @property
    def lonely(self) -> bool:
        """Nothing beyond the smallest level agrees with it, or the smallest level is not even finite."""
        kept, _ = self.accepted()
        return len({level for _, _, level in kept}) < 2

    def aliased(self, scale: float) -> bool:
        """Whether every step meets the function at random, as ``sin(x)`` at steps of 1e8: no slope can be seen.

        Then the noise is no rounding (it is a share of the value, ``scale``), and larger steps change the value by no more.
        """
        odd = np.abs(np.array(self.plus) - np.array(self.minus)) / 2
        odd = odd[np.isfinite(odd)]
        at_random = max(self.sigma, float(odd[:2].max(initial=0.0)))
        return self.sigma > COARSE * scale > 0 and float(odd.max(initial=0.0)) <= BOUNDED * at_random

    def precise(self, enough: float) -> bool:
        """Whether enough levels agree, to within an error bar that is small enough."""
        return enough > 0 and len(self.steps) >= FIRST_LEVELS and not self.lonely and self.best()[1] <= enough

    def with_noise_that_explains(self) -> _Walk:
        """The same walk with a noise that makes its two smallest levels agree: its bars then tell the truth."""
        n = self.finite()
        if n < 2:
            return self
        h = np.array(self.steps[:n])
        d = (np.array(self.plus[:n]) - np.array(self.minus[:n])) / (2 * h)
        other = _Walk(max(self.sigma, float(abs(d[1] - d[0])) * h[0] * np.sqrt(2) / AGREE))
        other.append(self)
        return other

    def best(self) -> tuple[float, float, int]:
        """Value, bar and level of the accepted candidate with the least noise plus bias."""
        kept, _ = self.accepted()
        value, bar, level = kept[0]
        best = (value, 3 * bar, level)
        for i in range(1, len(kept)):
            value, noise, level = kept[i]
            change = max(
                (abs(value - v) * EARLIER_MARGIN ** (level - 1 - k) for v, _, k in kept[:i] if k < level), default=-1.0
            )
            if change < 0:
                continue
            total = float(np.hypot(noise, RICHARDSON_MARGIN * change))
            if total <= best[1]:
                best = (value, total, level)
        return best

    def slope(self, forwards: int) -> Slope:
        n = self.finite()
        h, plus, minus = (np.array(x, dtype=np.float64) for x in (self.steps, self.plus, self.minus))
        nothing = float("nan")
        if n == 0:
            return Slope(
                value=nothing,
                error_bar=float("inf"),
                sigma=self.sigma,
                step=nothing,
                largest=nothing,
                right=nothing,
                left=nothing,
                kink=False,
                forwards=forwards,
                steps=h,
                odd=(plus - minus) / 2,
                even=(plus + minus) / 2,
                reason=f"not finite even at step {h[0]:.1e}",
            )
        value, bar, level = self.best()
        kept, _ = self.accepted()
        kink, jump = self._kink(h[:n], plus[:n], minus[:n])
        reason = "" if len({k for _, _, k in kept}) > 1 else "no two steps agree"
        return Slope(
            value=value,
            error_bar=bar,
            sigma=self.sigma,
            step=float(h[level]),
            largest=float(h[max(k for _, _, k in kept)]),
            right=value + jump,
            left=value - jump,
            kink=kink,
            forwards=forwards,
            steps=h,
            odd=(plus - minus) / 2,
            even=(plus + minus) / 2,
            reason=reason,
        )

    def _kink(self, h: NDArray[np.float64], plus: NDArray[np.float64], minus: NDArray[np.float64]) -> tuple[bool, float]:
        """Whether 0 is a kink, and half the difference of the one-sided slopes.

        (phi(h) + phi(-h)) / 2h goes to 0 like h where phi is smooth, and stays constant at a kink.
        """
        half_jump = (plus + minus) / (2 * h)
        clear = np.abs(half_jump) > 10 * self.sigma / h
        levels = np.flatnonzero(clear)
        if len(levels) < 3 or levels[2] != levels[0] + 2:
            return False, 0.0
        first = half_jump[levels[:3]]
        constant = np.abs(np.diff(first)) <= SMOOTH_KINK * np.abs(first[0])
        return bool(constant.all()), float(first[0]) if constant.all() else 0.0
