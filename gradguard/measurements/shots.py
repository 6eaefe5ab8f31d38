"""One tangent, measured: the numerical slope along it beside each block's analytical share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import hypot, log2

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Analytic, BlockFacts, Differentiable
from gradguard.blocks import Tangent
from gradguard.differences.ladder import ALIASED, DOUBLE, SINGLE, Ladder, Slope, measure_slope
from gradguard.differences.noise import Noise

__all__ = ["FINE", "RELATIVE", "Shooter", "Shot", "equalising_scales"]

FINE = Ladder(
    name="confirmation",
    exponents=(-32, -30, -28, -26, -24, -22, -20, -18, -16, -14, -12, -10, -8),
    lower=(-44, -42, -40, -38, -36, -34),
    noise_exponent=-24,
    epsilon=2.0**-52,
)
FINE_SINGLE = Ladder(
    name="confirmation in float32",
    exponents=(-14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3),
    lower=(-18, -17, -16, -15),
    noise_exponent=-10,
    epsilon=2.0**-23,
)
COMPLEX_TRUST = 1e-3
"""A complex step is believed to this share of the error bar that verified it."""
PRECISE = 1e-9
"""The resolution at which a walk up the ladder stops."""
STEEP, STEEPEST = 2.0**5, 2.0**40
"""The gradient's share of a step over the value, between which smaller steps are tried where the usual ones are too large."""
RELATIVE = (1e-3, 0.0)
"""Least multiples of a block's scale for tangents whose steps go by the entry: one that moves all, one that holds zeros."""
ROUNDING = 16.0
"""Units of rounding that the analytical sum may be off by, relative to the norms of its terms."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A tangent's numerical slope, the blocks' analytical shares (P,) and their norms (P,), and the bar of both."""

    tangent: Tangent
    slope: Slope
    shares: NDArray[np.float64]
    norms: NDArray[np.float64]
    error_bar: float

    @property
    def analytical(self) -> float:
        """The analytical slope along the tangent."""
        return float(self.shares.sum())

    @property
    def difference(self) -> float:
        """Analytical minus numerical."""
        return self.analytical - self.slope.value

    @property
    def z(self) -> float:
        """|analytical - numerical| in error bars."""
        return abs(self.difference) / self.error_bar if np.isfinite(self.slope.value) else float("nan")

    def resolution(self, block: int) -> float:
        """The smallest relative error of a block that this shot would have seen."""
        share = abs(float(self.shares[block]))
        return self.error_bar / share if share > 0 else float("inf")


class Shooter:
    """Draws tangents with fresh seeds and measures along them, at one point of one problem."""

    def __init__(self, problem: Differentiable, seed: int) -> None:
        self.problem = problem
        self.facts: tuple[BlockFacts, ...] = problem.facts()
        self.double = not problem.path.startswith("native") or "float64" in problem.path
        self.ladder = DOUBLE if self.double else SINGLE
        self.limit = 20.0 if self.double else 10.0
        self.noise: Noise | None = None
        self.natural = natural_scales(self.facts)
        self.analytic = True
        self._seed = seed * 1000
        self._value_scale = problem.scale_of_value()

    def seed(self) -> int:
        """A fresh seed, from the one that was given."""
        self._seed += 1
        return self._seed

    def tangent(
        self, blocks: Iterable[int], scales: Mapping[int, float] | None = None, *, relative: float | None = None
    ) -> Tangent:
        """A fresh tangent over some blocks, at their natural scales or at those given."""
        chosen = {i: (scales or {}).get(i, self.natural[i]) for i in blocks}
        return Tangent(seed=self.seed(), scales=chosen, relative=relative)

    def shoot(self, tangent: Tangent, ladder: Ladder | None = None, *, fresh_noise: bool = False) -> Shot:
        """Measure along a tangent, until every block in it that is not drowned by others is resolved to ``PRECISE``."""
        known = None if fresh_noise else self.noise
        shares, norms = (rows[0] for rows in self.problem.shares([tangent]))
        audible = norms[norms > 1e-9 * float(norms.max(initial=0.0))]
        slope = measure_slope(
            lambda steps: self.problem.values([tangent], steps)[0],
            ladder or self.ladder,
            scale=self._value_scale,
            noise=known,
            enough=PRECISE * float(audible.min(initial=np.inf)) if len(audible) else 0.0,
        )
        if known is None and np.isfinite(slope.value):
            self.noise = Noise(sigma=slope.sigma, measured=True)
        slope = self._sharpened(tangent, slope, float(norms.sum()))
        steeper = float(norms.sum()) / self._value_scale if slope.reason == ALIASED else 0.0
        if STEEP < steeper < STEEPEST:  # the gradient, if it is right, tells at which steps the value can be followed
            return self.shoot(tangent.times(2.0 ** -round(log2(steeper))), ladder, fresh_noise=True)
        floor = ROUNDING * self.ladder.epsilon * float(norms.sum()) + np.finfo(np.float64).tiny
        bar = hypot(slope.error_bar, floor) if np.isfinite(slope.error_bar) else float("inf")
        return Shot(tangent=tangent, slope=slope, shares=shares, norms=norms, error_bar=bar)

    def _sharpened(self, tangent: Tangent, slope: Slope, size: float) -> Slope:
        """The slope by a complex step, where the function allows one: verified by the differences, free of cancellation."""
        if not self.analytic or not isinstance(self.problem, Analytic) or slope.reason or slope.kink:
            return slope
        found = self.problem.complex_slopes([tangent])
        self.analytic = found is not None
        if found is None or not abs(found[0] - slope.value) <= self.limit * slope.error_bar:
            return slope
        bar = max(64 * self.ladder.epsilon * size, COMPLEX_TRUST * slope.error_bar)
        return replace(slope, value=float(found[0]), error_bar=min(bar, slope.error_bar))

    def shoot_like(self, tangent: Tangent, like: Slope) -> Shot:
        """Measure along a tangent from a little below the step that served another one; all steps where that fails."""
        shot = self.shoot(tangent, self.ladder.between(like.step / 600, 1.0))
        return shot if not shot.slope.reason and shot.z <= self.limit else self.shoot(tangent)

    def confirm(self, shot: Shot) -> Shot:
        """The same tangent on a finer ladder that starts lower, with its own noise."""
        again = self.shoot(shot.tangent, FINE if self.double else FINE_SINGLE, fresh_noise=True)
        return again


def natural_scales(facts: tuple[BlockFacts, ...]) -> list[float]:
    """Per block a power of two near the root mean square of its values; where that is 0, near that of the others."""
    sizes = [f.value_rms for f in facts if f.value_rms > 0 and np.isfinite(f.value_rms)]
    usual = float(np.median(sizes)) if sizes else 1.0
    usual = min(usual, 1.0)
    return [2.0 ** round(log2(f.value_rms if f.value_rms > 0 and np.isfinite(f.value_rms) else usual)) for f in facts]


def equalising_scales(natural: list[float], norms: NDArray[np.float64], blocks: list[int]) -> dict[int, float]:
    """Scales that bring the blocks' shares together by making the large ones smaller, never the small ones larger.

    A scale that grows without bound leaves the region where phi is smooth; one that shrinks costs nothing.
    """
    sizes = {i: float(norms[i]) for i in blocks if norms[i] > 0}
    if not sizes:
        return {i: natural[i] for i in blocks}
    least = max(min(sizes.values()), 1e-12 * max(sizes.values()))
    return {i: natural[i] * 2.0 ** round(min(0.0, log2(least / sizes[i]))) if i in sizes else natural[i] for i in blocks}
