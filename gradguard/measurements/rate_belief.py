"""Where the limit lies, from a few runs near it that held or diverged: a posterior over its logarithm.

Runs at one rate in several orders of the batches, or from several initialisations, do not all end alike: on drawn nets the
rate at which single runs begin to diverge spreads by 0.05 to 0.3 decades (``benchmarks/learning_rate``). So one run is
evidence, not proof, and no bisection: it counts by a logistic curve of that width, and the next run is made at the median of
what is believed so far (probabilistic bisection: Waeber, Frazier and Henderson 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["chance_below", "likely_limit"]

STEP = 0.02
"""Of the grid, in decades."""
SPREAD = 0.15
"""The width of the logistic curve, in decades."""
ODD = 0.03
"""A run ends the other way, however far from the limit, with this probability."""
ABOVE, SCALE = 0.7, 0.4
"""Before any longer run: the limit is this many decades above the largest rate that a short run holds, give or take (the
scale of a Laplace distribution). A short run that is thrown off often comes back in a longer one, so it is not the middle."""


def likely_limit(held: float, seen: Sequence[tuple[float, bool]], ceiling: float = math.inf) -> float:
    """The median of the limit, as a factor on the user's rates.

    ``held`` is the largest factor that a short run holds, ``seen`` are the factors of longer runs and whether each diverged,
    ``ceiling`` is a factor that is certainly too high.
    """
    grid, mass = _belief(held, seen, ceiling)
    return float(10.0 ** grid[np.searchsorted(mass, 0.5)])


def chance_below(factor: float, held: float, seen: Sequence[tuple[float, bool]]) -> float:
    """How likely the limit is below a factor on the user's rates, from 0 to 1; the rest is as in :func:`likely_limit`."""
    grid, mass = _belief(held, seen, math.inf)
    return float(np.interp(math.log10(factor), grid, mass))


def _belief(
    held: float, seen: Sequence[tuple[float, bool]], ceiling: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A grid of decimal logarithms of the limit, and how likely the limit is at or below each of them; both of shape (G,)."""
    start = math.log10(held)
    grid: NDArray[np.float64] = np.arange(start - 6.0, start + 6.0, STEP)
    log = -np.abs(grid - start - ABOVE) / SCALE
    for factor, diverged in seen:
        lost = ODD + (1 - 2 * ODD) / (1 + np.exp((grid - math.log10(factor)) / SPREAD))
        log += np.log(lost if diverged else 1 - lost)
    log[grid > math.log10(ceiling)] = -math.inf
    mass = np.cumsum(np.exp(log - np.max(log)))
    return grid, mass / mass[-1]
