"""GG204 on outputs typed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradguard.adapters.observing_base import spreads
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
        ({"spread": 0.2, "within": 1e-7}, FAILS, 2.3, ["error"]),  # the same in each batch
        ({"spread": 0.2, "within": 1e-7}, WORKS, 0.2, ["warning"]),
        ({"spread": 0.2, "within": 1e-2}, FAILS, 2.3, []),
    ],
)
def test_rows(columns: dict[str, Any], losses: tuple[float, float], loss: float, expected: list[str]) -> None:
    first = columns.get("first", columns["spread"])
    kept = {key: value for key, value in columns.items() if key != "first"}
    start = {"spread": first, **{key: kept[key] for key in kept if key == "within"}}
    looks = passes(start={"outputs": outputs(2.3, **start)}, end={"outputs": outputs(loss, **kept)})
    assert severities(ConstantOutput().check(evidence(looks, run(losses)))) == expected


def test_the_spread_within_batches_is_about_each_batch_s_own_mean() -> None:
    one, other = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[11.0, 2.0], [13.0, 2.0], [12.0, 2.0]])
    found = spreads([one, other])
    mean = np.abs(np.concatenate([one, other])).mean()
    assert np.isclose(found["spread"], np.concatenate([one, other])[:, 0].std() / mean)
    assert np.isclose(found["within"], np.sqrt((2 + 2) / 5) / mean)  # squares about 2 and about 12


def test_batches_of_one_sample_have_no_spread_within() -> None:
    assert spreads([np.array([[1.0]]), np.array([[2.0]])])["within"] == np.inf
