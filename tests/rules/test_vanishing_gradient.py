"""GG301 on flows typed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradguard.adapters.observing_base import TimeFlow
from gradguard.measurements.flow import fitted_growth, sparkline
from gradguard.rules.vanishing_gradient import VanishingGradient
from tests.rules.health_evidence import FAILS, WORKS, evidence, flow, longer, passes, run, severities

SIGMOIDS = [0.25**i for i in range(10, -1, -1)]


@pytest.mark.parametrize(
    ("late", "losses", "loss", "expected"),
    [
        (SIGMOIDS, FAILS, 2.3, ["error"]),
        (SIGMOIDS, WORKS, 0.2, ["info"]),  # it works all the same
        ([1e-3, 0.03, 1.0], FAILS, 2.3, ["error"]),  # steep over few layers
        ([0.027, 0.3, 1.0], FAILS, 2.3, []),
        ([1.0, 1e-6, 1.0, 1.0], FAILS, 2.3, []),  # one small matrix beside large ones
        ([1.0, 0.5, 1e-6], FAILS, 2.3, []),  # towards the output it does not vanish
    ],
)
def test_rows(late: list[float], losses: tuple[float, float], loss: float, expected: list[str]) -> None:
    assert severities(VanishingGradient().check(evidence(flow(*late), run(losses), passes(loss=loss)))) == expected


@pytest.mark.parametrize(("gain", "losses", "expected"), [(0.5, FAILS, ["error"]), (0.5, WORKS, ["info"]), (0.95, FAILS, [])])
def test_time(gain: float, losses: tuple[float, float], expected: list[str]) -> None:
    time = {"time": (TimeFlow(layer="rnn", norms=gain ** np.arange(59, -1, -1.0)),)}
    assert (
        severities(VanishingGradient().check(evidence(flow(1.0, 1.0, 1.0), run(losses), passes(time, loss=losses[1]))))
        == expected
    )


def test_weights_that_a_penalty_drives_to_zero_take_the_gradient_with_them() -> None:
    layers = flow(*SIGMOIDS)
    layers = replace(layers, layers=tuple(replace(f, shrunk=1e-3) for f in layers.layers))
    assert severities(VanishingGradient().check(evidence(layers, run(FAILS), passes(loss=2.3)))) == ["info"]


def test_growth_is_the_slope_of_the_logarithm() -> None:
    assert np.isclose(fitted_growth(np.array(SIGMOIDS)), 4.0)
    assert np.isnan(fitted_growth(np.array([1.0, 2.0])))


def test_a_longer_run_is_asked_for() -> None:
    outcome = VanishingGradient().check(evidence(flow(*SIGMOIDS), run(FAILS, 20), passes(loss=2.3)))
    assert severities(outcome) == ["info"]
    assert [r.measurement for r in outcome.requests] == ["long_run"]


def test_the_profile_is_a_line_of_marks() -> None:
    assert sparkline([1e-7, 1.0, 1e-7, 0.0]) == "▁█▁."
    assert sparkline([0.0, float("nan")]) == ".."
    assert sparkline([2.0, 2.0]) == "██"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (2.28, ["warning"]),  # it still falls, and is hardly better than a guess: noise that is learnt by heart falls, too
        (2.31, ["error"]),
        (2.1, ["info"]),
        (0.4, ["info"]),
    ],
)
def test_a_longer_run_that_cannot_tell_is_no_proof(end: float, expected: list[str]) -> None:
    ran = longer((2.6, end) if end < 2.3 else (2.31, 2.31), end)
    time = {"time": (TimeFlow(layer="rnn", norms=0.5 ** np.arange(59, -1, -1.0)),)}
    seen = evidence(flow(1.0, 1.0, 1.0), run((2.6, 2.4), 20), passes(time, loss=2.4), ran)
    assert severities(VanishingGradient().check(seen)) == expected
