"""GG201 on layers typed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.observing_base import Look
from gradguard.measurements.gentler_run import GentlerRun
from gradguard.measurements.units import LayerState
from gradguard.measurements.units import states as states_of
from gradguard.rules.dead_units import DeadUnits
from tests.rules.health_evidence import FAILS, WORKS, evidence, longer, passes, run, severities, state, states, trace, units


@pytest.mark.parametrize(
    ("layer", "losses", "loss", "expected"),
    [
        (state(64), WORKS, 0.2, ["error"]),  # a whole layer, whatever the loss says
        (state(2, units=2), WORKS, 0.2, ["warning"]),  # two units may be dead by chance, and there is a way around
        (state(2, units=2), FAILS, 2.3, ["error"]),
        (state(64, samples=4), WORKS, 0.2, []),  # four values say nothing
        (state(40), FAILS, 2.3, ["error"]),
        (state(40), WORKS, 0.2, ["warning"]),  # half a layer, and training works
        (state(40, born=2), WORKS, 1.5, ["warning"]),  # they were alive, and training killed them: is that worth something?
        (state(40, born=2), WORKS, 0.2, ["warning"]),  # and all the same it works
        (state(58, born=2), WORKS, 0.2, ["error"]),  # hardly anything is left of the layer
        (state(7, units=8, born=0), WORKS, 0.2, ["warning"]),  # of a few units many may die by chance
        (state(24), FAILS, 2.3, ["warning"]),
        (state(15), WORKS, 0.2, ["warning"]),
        (state(12), FAILS, 2.3, []),
        (state(40, samples=32), FAILS, 2.3, []),  # too few values for a share
    ],
)  # fmt: skip
def test_rows(layer: LayerState, losses: tuple[float, float], loss: float, expected: list[str]) -> None:
    assert severities(DeadUnits().check(evidence(states(layer), run(losses), passes(loss=loss)))) == expected


def test_a_longer_run_is_asked_for_before_half_a_layer_is_an_error() -> None:
    short = evidence(states(state(40)), run(FAILS, 20), passes(loss=2.3))
    outcome = DeadUnits().check(short)
    assert severities(outcome) == ["warning"]
    assert [r.measurement for r in outcome.requests] == ["long_run"]
    assert severities(DeadUnits().check({**short, "long_run": longer()})) == ["error"]


@pytest.mark.parametrize(
    ("layer", "losses", "loss", "behind", "expected"),
    [
        (state(40, born=2), WORKS, 1.5, 0.4, ["error"]),  # at a tenth of the rate the same training ends far lower
        (state(40, born=2), WORKS, 1.5, 0.05, ["warning"]),
        (state(40, born=2), WORKS, 1.5, -0.1, ["warning"]),  # half of a guess' loss is not always to be had
        (state(40, born=2), WORKS, 1.5, float("nan"), ["warning"]),
        (state(40, born=2), WORKS, 0.2, 0.4, ["warning"]),  # it learns well as it is
        (state(40, born=30), WORKS, 1.5, 0.4, ["warning"]),  # no rate revives what is dead at birth
        (state(40, born=2), FAILS, 2.3, float("nan"), ["error"]),
    ],
)
def test_a_tenth_of_the_rate_decides_on_units_that_died(
    layer: LayerState, losses: tuple[float, float], loss: float, behind: float, expected: list[str]
) -> None:
    seen = evidence(states(layer), run(losses), passes(loss=loss), GentlerRun(trace=trace(losses), behind=behind))
    outcome = DeadUnits().check(seen)
    assert severities(outcome) == expected
    assert ("a tenth of the rate ends lower" in outcome.findings[0].evidence) == (behind > 0.1)


def test_the_gentler_run_is_asked_for_only_where_units_died() -> None:
    def asked(layer: LayerState, loss: float) -> list[str]:
        return [r.measurement for r in DeadUnits().check(evidence(states(layer), run(WORKS), passes(loss=loss))).requests]

    assert "gentler_run" in asked(state(40, born=2), 1.5)
    assert "gentler_run" not in asked(state(40, born=30), 1.5)
    assert "gentler_run" not in asked(state(40, born=2), 0.2)


def test_the_first_dead_layer_is_named_and_the_others_go_with_it() -> None:
    outcome = DeadUnits().check(evidence(states(state(40), state(64), state(50)), run(FAILS), passes(loss=2.3)))
    (finding,) = outcome.findings
    assert finding.message == "fc1 -> act (relu): 64 of 64 units dead, at birth"
    assert "40 of 64" in finding.evidence
    assert "50 of 64" in finding.evidence


def test_pruned_units_and_saturating_ones_are_not_dead() -> None:
    look = Look(step=0, units=(units([0, 0, 1, 1], pruned=[True, True, False, False]), units([0, 0, 0, 0], kind="tanh")))
    assert [(s.units, s.dead) for s in states_of(look, look, 0)] == [(2, 0), (4, 0)]


def test_smooth_activations_are_dead_below_a_thousandth_and_relu_at_zero() -> None:
    look = Look(step=0, units=(units([1e-4, 1e-2], kind="gelu"), units([0.0, 1e-4])))
    assert [s.dead for s in states_of(look, look, 0)] == [1, 1]


def test_limits_are_validated() -> None:
    with pytest.raises(gg.UsageError, match="0 < warn <= dead <= 1"):
        DeadUnits(dead=0.1, warn=0.5)
    with pytest.raises(gg.UsageError, match="0 < lost <= 1"):
        DeadUnits(lost=1.5)
    with pytest.raises(gg.UsageError, match="harm > 0"):
        DeadUnits(harm=0.0)
    assert np.isclose(DeadUnits().dead, 0.5)
