"""The ladder against derivatives that are known, in the cases that other checkers get wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.differences.ladder import ALIASED, DOUBLE, SINGLE, Slope, measure_slope

F = Callable[[float], float]


def slope_of(f: F, x: float) -> Slope:
    base = f(x)
    with np.errstate(all="ignore"):
        return measure_slope(lambda steps: np.array([f(x + t) - base for t in steps]), scale=abs(base))


@pytest.mark.parametrize(
    ("f", "x", "derivative", "worst"),
    [
        (np.sin, 0.7, np.cos(0.7), 1e-11),
        (np.exp, 20.0, np.exp(20.0), 1e-9),
        (lambda x: np.sin(1e3 * x), 0.7, 1e3 * np.cos(700.0), 1e-8),  # a large first step aliases
        (lambda x: np.sin(1e5 * x), 0.7, 1e5 * np.cos(7e4), 1e-9),
        (np.log, 1e-7, 1e7, 1e-6),  # the largest steps leave the domain
        (np.sqrt, 1e-6, 500.0, 1e-9),
        (lambda x: 3 * x + 1, 0.3, 3.0, 1e-13),
        (lambda x: x * x + 1e6, 0.3, 0.6, 1e-6),  # a small slope beside a large value
        (lambda x: 1e-30 * np.sin(x), 0.7, 1e-30 * np.cos(0.7), 1e-11),  # there is no absolute tolerance
        (lambda x: max(x - 1e-5, 0.0) + x, 0.0, 1.0, 1e-9),  # a kink close by
        (lambda x: float(np.float32(np.sin(x))), 0.7, np.cos(0.7), 1e-3),  # a cast inside
    ],
)
def test_the_slope_is_right_within_its_bar_and_the_bar_is_small(f: F, x: float, derivative: float, worst: float) -> None:
    slope = slope_of(f, x)
    assert not slope.reason
    assert abs(slope.value - derivative) <= 6 * slope.error_bar + 1e-14 * abs(derivative)
    assert slope.error_bar <= worst * abs(derivative)


def test_a_wrong_slope_falls_with_order_one_and_a_right_one_with_two() -> None:
    slope = slope_of(np.sin, 0.7)
    assert slope.order(np.cos(0.7)) == pytest.approx(2.0, abs=0.1)
    assert slope.order(1.01 * np.cos(0.7)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("f", "left", "right"), [(abs, -1.0, 1.0), (lambda x: max(x, 0.0), 0.0, 1.0)])
def test_a_kink_is_seen_with_its_one_sided_slopes(f: F, left: float, right: float) -> None:
    slope = slope_of(f, 0.0)
    assert slope.kink
    assert slope.left == pytest.approx(left, abs=1e-4)
    assert slope.right == pytest.approx(right, abs=1e-4)
    assert not slope_of(np.sin, 0.7).kink


def test_says_why_there_is_no_slope() -> None:
    assert "not finite" in slope_of(lambda x: float("nan"), 0.0).reason
    rng = np.random.default_rng(0)
    noisy = measure_slope(lambda steps: rng.standard_normal(len(steps)))
    assert noisy.reason or noisy.error_bar > 1.0


@pytest.mark.parametrize("f", [lambda x: np.sin(1e12 * x), lambda x: np.tanh(1e12 * np.sin(1e12 * x))])
def test_a_function_that_varies_within_the_smallest_step_has_no_slope(f: F) -> None:
    slope = slope_of(f, 0.7)
    assert slope.reason == ALIASED
    assert np.isnan(slope.value)


def test_noise_that_larger_steps_see_past_is_no_aliasing() -> None:
    rng = np.random.default_rng(0)
    slope = measure_slope(lambda steps: steps + 1e-4 * rng.standard_normal(len(steps)), scale=0.01)
    assert slope.reason != ALIASED
    assert slope.value == pytest.approx(1.0, abs=6 * slope.error_bar)


def test_counts_its_forwards_and_stops_when_it_is_precise_enough() -> None:
    calls: list[int] = []

    def phi(steps: np.ndarray) -> np.ndarray:
        calls.append(len(steps))
        return np.sin(0.7 + steps) - np.sin(0.7)

    full = measure_slope(phi)
    assert full.forwards == sum(calls) <= 22
    early = measure_slope(phi, enough=1e-6)
    assert early.forwards < full.forwards
    assert abs(early.value - np.cos(0.7)) < 1e-6


def test_the_error_bar_holds_on_random_layers() -> None:
    """z = |error| / bar on 1,200 right slopes of random layers: a share of 1e-3 above 20 at most, and no wild one."""
    rng = np.random.default_rng(11)
    layers: list[tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = [
        (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        (lambda x: np.log1p(np.exp(x)), lambda x: 1 / (1 + np.exp(-x))),
        (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
        (lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
    ]
    zs = []
    for trial in range(1200):
        f, derivative = layers[trial % len(layers)]
        n = int(rng.integers(1, 200))
        a, w = rng.normal(size=(n, 8)) / np.sqrt(8), rng.normal(size=8) * 10 ** rng.uniform(-3, 0.7)
        u = rng.choice([-1, 1], 8) * rng.uniform(0.5, 1.5, 8) * np.sqrt(np.mean(w**2))
        v = rng.normal(size=n) * 10 ** rng.uniform(-6, 6)
        base = f(a @ w)
        slope = measure_slope(
            lambda steps, a=a, w=w, u=u, v=v, f=f, base=base: np.array([(f(a @ (w + t * u)) - base) @ v for t in steps]),
            scale=float(np.abs(v) @ np.abs(base)),
        )
        analytical = float((derivative(a @ w) * v) @ (a @ u))
        size = float(np.linalg.norm(a.T @ (derivative(a @ w) * v) * u))
        zs.append(abs(slope.value - analytical) / np.hypot(slope.error_bar, 1e-15 * size))
    assert np.mean(np.array(zs) > 20) <= 1e-3
    assert max(zs) < 100


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(-12, 12), x=st.floats(0.1, 3.0))
def test_a_factor_on_the_function_is_a_factor_on_slope_and_bar(scale: float, x: float) -> None:
    factor = 2.0 ** round(scale)
    one, other = slope_of(np.sin, x), slope_of(lambda t: factor * np.sin(t), x)
    assert other.value == pytest.approx(factor * one.value, rel=1e-9, abs=1e-12 * factor)
    assert other.error_bar <= 100 * factor * max(one.error_bar, 1e-15)


def test_ladders_are_powers_of_two_and_can_be_cut() -> None:
    for ladder in (DOUBLE, SINGLE):
        assert np.all(np.log2(ladder.steps) == np.round(np.log2(ladder.steps)))
        assert np.all(np.diff(ladder.steps) > 0)
    assert DOUBLE.between(2.0**-18, 2.0**-9).exponents == (-18, -15, -12, -9)
    assert len(DOUBLE.up_to(1e-30).exponents) == 3
