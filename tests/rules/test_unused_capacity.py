"""GG207 on counts typed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gradguard.adapters.observing_base import CodeFacts
from gradguard.rules.unused_capacity import UnusedCapacity
from tests.rules.health_evidence import FAILS, WORKS, evidence, passes, run, severities


@pytest.mark.parametrize(
    ("counts", "steps", "losses", "expected"),
    [
        ([1000] + [0] * 31, 300, WORKS, ["error"]),
        ([1000] + [0] * 31, 5, WORKS, ["warning"]),  # before training, a codebook often begins there
        ([400, 400] + [0] * 30, 300, WORKS, ["warning"]),
        ([400, 400] + [0] * 30, 300, FAILS, ["error"]),
        ([50] * 16 + [0] * 16, 300, FAILS, []),
        ([3] + [0] * 31, 300, FAILS, []),  # three choices say nothing
    ],
)
def test_rows(counts: list[int], steps: int, losses: tuple[float, float], expected: list[str]) -> None:
    looks = passes(end={"codes": (CodeFacts(layer="vq", kind="codes", counts=np.array(counts, float)),)}, loss=losses[1])
    assert severities(UnusedCapacity().check(evidence(looks, run(losses, steps)))) == expected


@pytest.mark.parametrize(
    ("lead", "losses", "expected"),
    [
        (50.0, WORKS, ["error"]),  # no sample ever comes near another expert
        (2.0, WORKS, ["warning"]),  # the router settled on one, which learns as a single net would
        (2.0, FAILS, ["error"]),
    ],
)
def test_one_expert(lead: float, losses: tuple[float, float], expected: list[str]) -> None:
    def experts(counts: list[float], lead: float) -> dict[str, object]:
        return {"codes": (CodeFacts(layer="moe", kind="experts", counts=np.array(counts), lead=lead),)}

    looks = passes(start=experts([900, 50, 50, 0], lead), end=experts([1000, 0, 0, 0], 9.0), loss=losses[1])
    assert severities(UnusedCapacity().check(evidence(looks, run(losses, 300)))) == expected


@pytest.mark.parametrize(("alike", "losses", "expected"), [(True, WORKS, ["warning"]), (True, FAILS, ["error"]), (False, WORKS, ["error"])])
def test_a_table_that_is_set_from_data_later(alike: bool, losses: tuple[float, float], expected: list[str]) -> None:
    facts = CodeFacts(layer="vq", kind="codes", counts=np.array([1000.0] + [0.0] * 31), alike=alike)
    looks = passes(end={"codes": (facts,)}, loss=losses[1])
    assert severities(UnusedCapacity().check(evidence(looks, run(losses, 300)))) == expected
