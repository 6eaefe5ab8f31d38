"""What is believed of the limit, against a weighted sample, and as a way to find a limit that single runs miss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.measurements.rate_belief import ABOVE, ODD, SCALE, SPREAD, chance_below, likely_limit

special = pytest.importorskip("scipy.special")

SEEN = {
    "nothing": [],
    "one holds": [(5.0, False)],
    "one diverged": [(5.0, True)],
    "both sides": [(5.0, False), (9.0, True), (6.5, False)],
    "they disagree": [(5.0, True), (5.0, False), (5.0, True), (8.0, False)],
}


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("ceiling", [math.inf, 7.0])
def weighted(name: str, ceiling: float = math.inf) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A sample of what is believed before any longer run, in order, and the weight of each after those of a case."""
    sample = np.sort(np.random.default_rng(0).laplace(ABOVE, SCALE, 400_000))
    weight = np.where(sample <= math.log10(ceiling), 1.0, 0.0)
    for factor, diverged in SEEN[name]:
        lost = ODD + (1 - 2 * ODD) * special.expit((math.log10(factor) - sample) / SPREAD)
        weight *= lost if diverged else 1 - lost
    return sample, weight


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("ceiling", [math.inf, 7.0])
def test_the_median_is_that_of_a_weighted_sample(name: str, ceiling: float) -> None:
    sample, weight = weighted(name, ceiling)
    middle = sample[np.searchsorted(np.cumsum(weight), weight.sum() / 2)]
    assert math.log10(likely_limit(1.0, SEEN[name], ceiling)) == pytest.approx(middle, abs=0.03)


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("factor", [1.0, 5.0, 20.0])
def test_the_chance_is_that_of_a_weighted_sample(name: str, factor: float) -> None:
    sample, weight = weighted(name)
    share = weight[sample < math.log10(factor)].sum() / weight.sum()
    assert chance_below(factor, 1.0, SEEN[name]) == pytest.approx(share, abs=0.03)


def test_the_scale_of_the_rates_does_not_matter() -> None:
    once = likely_limit(1.0, SEEN["both sides"])
    assert likely_limit(1e-3, [(1e-3 * factor, lost) for factor, lost in SEEN["both sides"]]) == pytest.approx(1e-3 * once, rel=0.05)


def test_single_runs_that_go_either_way_still_lead_to_the_limit() -> None:
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(300):
        truth = 10.0 ** generator.uniform(0.0, 1.2)  # decades above what a short run holds
        seen: list[tuple[float, bool]] = []
        for _ in range(6):
            factor = likely_limit(1.0, seen)
            seen.append((factor, bool(math.log10(factor) + generator.normal(0.0, 0.15) > math.log10(truth))))
        ratios.append(likely_limit(1.0, seen) / truth)
    within = np.mean([0.5 <= ratio <= 2.0 for ratio in ratios])
    assert within > 0.97
