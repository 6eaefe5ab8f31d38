"""ECnoise against noise that is known."""

from __future__ import annotations

import numpy as np
import pytest

from gradguard.differences.noise import NOISE_POINTS, estimate_noise


@pytest.mark.parametrize("sigma", [1e-16, 1e-10, 1e-3, 10.0])
def test_finds_added_noise_within_a_factor_of_four(sigma: float) -> None:
    rng = np.random.default_rng(3)
    t = np.linspace(-1, 1, NOISE_POINTS) * 1e-4 * sigma
    found = [estimate_noise(t + sigma * rng.standard_normal(NOISE_POINTS), 0.0) for _ in range(200)]
    measured = np.array([noise.sigma for noise in found if noise.measured])
    assert len(measured) > 150
    assert sigma / 4 < np.median(measured) < 4 * sigma


def test_is_not_deceived_by_a_smooth_trend() -> None:
    t = np.linspace(-1, 1, NOISE_POINTS) * 1e-3
    noise = estimate_noise(np.exp(t) - 1 + 1e-13 * np.random.default_rng(0).standard_normal(NOISE_POINTS), 0.0)
    assert noise.sigma < 1e-11


def test_never_below_the_floor_and_says_where_nothing_was_measured() -> None:
    exact = estimate_noise(np.arange(NOISE_POINTS, dtype=float), 1e-20)
    assert exact.sigma == 1e-20
    assert not exact.measured
    assert not estimate_noise(np.array([1.0, np.nan, 0, 0, 0, 0, 0]), 1e-9).measured
