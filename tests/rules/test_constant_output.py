"""GG204 on outputs typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gradguard.rules.constant_output import ConstantOutput
from tests.rules.health_evidence import FAILS, WORKS, evidence, outputs, passes, run, severities


@pytest.mark.parametrize(
    ("columns", "losses", "loss", "expected"),
    [
        ({"spread": 1e-7}, FAILS, 2.3, ["error"]),
        ({"spread": 1e-7}, WORKS, 0.2, ["warning"]),
        ({"spread": 1e-3}, FAILS, 2.3, []),
        ({"spread": 0.0, "label_std": 0.0}, FAILS, 2.3, []),  # so are the labels
        ({"spread": 0.0, "samples": 4}, FAILS, 2.3, []),
        ({"spread": 4e-5, "first": 3e-5}, FAILS, 2.3, ["warning"]),  # close together from birth, and parting
        ({"spread": 4e-5, "first": 1e-2}, FAILS, 2.3, ["error"]),
        ({"spread": 4e-8, "first": 1e-8}, FAILS, 2.3, ["error"]),  # rounding
    ],
)
def test_rows(columns: dict[str, Any], losses: tuple[float, float], loss: float, expected: list[str]) -> None:
    first = columns.get("first", columns["spread"])
    kept = {key: value for key, value in columns.items() if key != "first"}
    looks = passes(start={"outputs": outputs(2.3, spread=first)}, end={"outputs": outputs(loss, **kept)})
    assert severities(ConstantOutput().check(evidence(looks, run(losses)))) == expected
