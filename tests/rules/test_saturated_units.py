"""GG202 on layers typed by hand."""

from __future__ import annotations

import pytest

from gradguard.rules.saturated_units import SaturatedUnits
from tests.rules.health_evidence import FAILS, WORKS, evidence, passes, run, severities, state, states


@pytest.mark.parametrize(
    ("saturated", "losses", "loss", "expected"),
    [
        (60, FAILS, 2.3, ["error"]),
        (60, WORKS, 0.2, ["info"]),  # gates that are open or closed, in a net that learns
        (20, FAILS, 2.3, []),
    ],
)
def test_rows(saturated: int, losses: tuple[float, float], loss: float, expected: list[str]) -> None:
    layer = state(0, saturated=saturated, kind="sigmoid")
    assert severities(SaturatedUnits().check(evidence(states(layer), run(losses), passes(loss=loss)))) == expected
