"""GG101 on measurements typed by hand."""

from __future__ import annotations

import pytest

from gradguard.measurements.base import Unavailable
from gradguard.rules.gradient_mismatch import GradientMismatch
from tests.rules.gradient_evidence import BIAS, WEIGHT, Kinks, Localisation, Place, detached, evidence, kink, result, wrong

RULE = GradientMismatch()


@pytest.mark.parametrize(
    "found",
    [
        evidence(result(), result(BIAS)),
        evidence(result(verdict="zero", analytical=0.0, numerical=0.0)),
        evidence(result(verdict="empty")),
        evidence(wrong(analytical=0.0, missing=True)),  # GG105's
        evidence(wrong(), detached=detached("fc1.weight")),  # GG113's
        evidence(result(), at_point=False, kinks=Kinks(entries=(kink(0.5, 0.0, 1.0, kinked=True, outside=False),))),
        evidence(result(), at_point=False, kinks=Kinks(entries=(kink(2.0, 0.0, 1.0, kinked=True, outside=True),))),  # GG103's
    ],
)
def test_must_not_fire(found: dict) -> None:
    outcome = RULE.check(found)
    assert outcome.status == "passed"
    assert not outcome.findings


@pytest.mark.parametrize(
    "found",
    [
        evidence(wrong()),
        evidence(wrong(), detached=detached("fc1.bias")),
        evidence(result(), at_point=False, kinks=Kinks(entries=(kink(0.0, 1.0, 1.0, kinked=False, outside=True),))),
    ],
)
def test_must_fire(found: dict) -> None:
    outcome = RULE.check(found)
    assert outcome.status == "failed"
    assert [f.block for f in outcome.findings] == ["fc1.weight"]


def test_inconclusive_is_not_a_pass_and_names_its_reason() -> None:
    outcome = RULE.check(evidence(result(), result(BIAS, "inconclusive", reason="no two steps agree")))
    assert outcome.status == "inconclusive"
    assert "fc1.bias" in outcome.reason
    assert "no two steps agree" in outcome.reason


def test_other_limits_judge_again_without_measuring_again() -> None:
    found = evidence(wrong(z=30.0))
    assert RULE.check(found).status == "failed"
    assert GradientMismatch(z=40.0).check(found).status == "passed"


def test_asks_where_and_whether_it_is_detached() -> None:
    assert {r.measurement for r in RULE.check(evidence(wrong())).requests} == {"detached", "localisation"}
    assert {r.measurement for r in RULE.check(evidence(result(), at_point=False)).requests} == {"kinks"}


def test_one_root_and_what_it_causes() -> None:
    place = Place(block=WEIGHT.name, module="fc1", entry="fc1.weight[1, 2]", analytical=1.01, numerical=1.0, error_bar=1e-9,
                  extent="all of it", pattern="analytical = 1.01 x numerical", guilty=True, location="module fc1 (Linear)")
    outcome = RULE.check(evidence(wrong(), wrong(BIAS), localisation=Localisation(places=(place,), downstream=("fc1.bias",))))
    root, carried = outcome.findings
    assert root.message == "fc1.weight[1, 2]: analytical 1.01, numerical 1 +- 1e-09"
    assert root.headline.startswith("GG101 gradient-mismatch  fc1.weight[1, 2]: ")
    assert root.pattern == "analytical = 1.01 x numerical"
    assert not root.caused_by
    assert carried.caused_by == root.fingerprint


def test_skipped_with_the_reason_where_nothing_could_be_measured() -> None:
    outcome = RULE.check({"gradients": Unavailable(wanted="gradients", reason="no gradient")})
    assert (outcome.status, outcome.reason) == ("skipped", "no gradient")
