"""GG502 on scales typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gradguard.adapters.observing_base import BatchFacts
from gradguard.rules.unscaled_data import UnscaledData
from tests.rules.health_evidence import FAILS, WORKS, evidence, outputs, passes, run, severities

LARGE = BatchFacts(rms=150.0, low=0.0, high=255.0, first_module="fc1", first_owner="Linear")
NORMALISED = BatchFacts(rms=150.0, low=0.0, high=255.0, first_module="bn", first_owner="BatchNorm1d", normalised=True)


@pytest.mark.parametrize(
    ("inputs", "columns", "losses", "expected"),
    [
        (LARGE, {}, FAILS, ["error"]),
        (LARGE, {}, WORKS, ["info"]),
        (NORMALISED, {}, FAILS, []),
        (BatchFacts(rms=1.0), {}, FAILS, []),
        (None, {"kind": "mse", "label_rms": 1e3}, FAILS, ["error"]),
        (None, {"kind": "mse", "label_rms": 3.0}, FAILS, []),
    ],
)
def test_rows(inputs: Any, columns: dict[str, Any], losses: tuple[float, float], expected: list[str]) -> None:
    looks = passes({"inputs": inputs, "outputs": outputs(2.3, **columns)}, {"outputs": outputs(losses[1], **columns)})
    assert severities(UnscaledData().check(evidence(looks, run(losses)))) == expected
