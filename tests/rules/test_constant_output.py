"""GG204 on outputs typed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gradguard.adapters.observing_base import lengths, spreads
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


@pytest.mark.parametrize(
    ("start", "end", "losses", "expected"),
    [
        ({"kind": ""}, {"kind": "", "spread": 0.003, "rms": 0.5}, (1.0, 1e-4), ["error"]),
        ({"kind": ""}, {"kind": "", "spread": 0.003, "rms": 0.5}, (1.0, 0.5), []),  # the loss did not fall for it
        ({"kind": ""}, {"kind": "", "spread": 0.003, "rms": 200.0}, (1.0, 1e-4), []),  # they differ as much as before
        ({"kind": ""}, {"kind": "", "spread": 0.2, "rms": 0.001}, (1.0, 1e-4), []),  # all are small, and differ
        ({"kind": "mse"}, {"kind": "mse", "spread": 0.003, "rms": 0.5}, (1.0, 1e-4), []),  # labels of data that hardly vary
        ({"kind": "mse"}, {"kind": "mse", "spread": 0.003, "rms": 0.5, "prior": 1e-5}, (1.0, 1e-4), ["error"]),  # no data
        ({"kind": "mse", "prior": math.nan}, {"kind": "mse", "spread": 0.003, "rms": 0.5, "prior": math.nan}, (1.0, 1e-4), []),
    ],
)
def test_collapse_without_labels(
    start: dict[str, Any], end: dict[str, Any], losses: tuple[float, float], expected: list[str]
) -> None:
    looks = passes(start={"outputs": outputs(1.0, **start)}, end={"outputs": outputs(1e-4, **end)})
    assert severities(ConstantOutput().check(evidence(looks, run(losses)))) == expected


@pytest.mark.parametrize(("rewarded", "expected"), [(False, ["error"]), (True, ["warning"])])
def test_actions_that_rewards_made_the_same_are_no_collapse(rewarded: bool, expected: list[str]) -> None:
    none = {"kind": "", "prior": float("nan"), "rewarded": rewarded}
    looks = passes(start={"outputs": outputs(1.0, spread=0.5, **none)}, end={"outputs": outputs(1e-4, spread=1e-5, **none)})
    assert severities(ConstantOutput().check(evidence(looks, run((1.0, 1e-4))))) == expected


def test_outputs_of_one_length() -> None:
    ones = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]])
    found = lengths([ones], [10 * ones, 0.5 * ones])
    assert (found["length"], found["longer_labels"]) == (1.0, 0.5)
    theirs = np.concatenate([10 * ones, 0.5 * ones])
    assert np.isclose(found["beyond"], (81 / 2) / theirs.var(axis=0).sum())
    assert lengths([ones, 2 * ones], [ones]) == {}
    assert lengths([1 + 1e-4 * ones], [10 * ones]) == {}  # nearly the same for all: no normalisation
    assert lengths([ones[:, :1]], [ones[:, :1]]) == {}
