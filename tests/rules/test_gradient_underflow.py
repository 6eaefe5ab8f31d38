"""GG307 on shares typed by hand."""

from __future__ import annotations

import pytest

from gradguard.measurements.underflow import Underflow
from gradguard.rules.gradient_underflow import GradientUnderflow
from tests.rules.health_evidence import FAILS, WORKS, evidence, passes, run, severities


@pytest.mark.parametrize(
    ("share", "losses", "expected"),
    [(0.9, WORKS, ["error"]), (0.3, WORKS, ["warning"]), (0.3, FAILS, ["error"]), (0.02, FAILS, [])],
)
def test_rows(share: float, losses: tuple[float, float], expected: list[str]) -> None:
    measured = evidence(Underflow(lost={"fc1.weight": share, "fc2.weight": 0.0}), run(losses), passes(loss=losses[1]))
    assert severities(GradientUnderflow().check(measured)) == expected
