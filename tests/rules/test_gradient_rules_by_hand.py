"""GG102, GG103, GG105, GG113, GG901, GG902 on measurements typed by hand: rows that must fire, rows that must not."""

from __future__ import annotations

import pytest

from gradguard.measurements.base import Unavailable
from gradguard.rules.detached_gradient import DetachedGradient
from gradguard.rules.missing_gradient import MissingGradient
from gradguard.rules.nondifferentiable_point import NondifferentiablePoint
from gradguard.rules.nonfinite_gradient import NonfiniteGradient
from gradguard.rules.triage import triage
from gradguard.rules.unused_ignore import UnusedIgnore
from gradguard.rules.vacuous_check import VacuousCheck
from gradguard.scenarios import Ignore
from tests.rules.gradient_evidence import BIAS, Kinks, Localisation, Place, detached, evidence, kink, result, wrong

ABSENT = wrong(analytical=0.0, numerical=2.0, missing=True)
INSIDE = kink(0.0, 0.0, 1.0, kinked=True, outside=False)
OUTSIDE = kink(3.0, 0.0, 1.0, kinked=True, outside=True)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (NonfiniteGradient(), evidence(result(verdict="nonfinite", nonfinite=2, first_nonfinite=7))),
        (NondifferentiablePoint(), evidence(result(), at_point=False, kinks=Kinks(entries=(OUTSIDE,)))),
        (MissingGradient(), evidence(ABSENT)),
        (MissingGradient(), evidence(wrong(analytical=0.0, numerical=2.0))),
        (DetachedGradient(), evidence(ABSENT, detached=detached("fc1.weight"))),
        (DetachedGradient(), evidence(ABSENT, detached=detached("fc1.weight", declared=True))),  # nothing else has a gradient
        (DetachedGradient(partial_is_error=True), evidence(wrong(), detached=detached("fc1.weight"))),
        (VacuousCheck(), evidence()),
        (VacuousCheck(), evidence(result(verdict="inconclusive", reason="noise"))),
        (VacuousCheck(), {"gradients": Unavailable(wanted="gradients", reason="it changes from call to call")}),
    ],
)
def test_must_fire(rule: object, found: dict) -> None:
    outcome = rule.check(found)  # type: ignore[attr-defined]
    assert outcome.status == "failed"
    assert outcome.findings[0].message


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (NonfiniteGradient(), evidence(result())),
        (NondifferentiablePoint(), evidence(result())),
        (NondifferentiablePoint(), evidence(result(), at_point=False, kinks=Kinks(entries=(INSIDE,)))),
        (MissingGradient(), evidence(result(verdict="zero", analytical=0.0, missing=True))),  # unused: its slope is 0
        (MissingGradient(), evidence(wrong())),
        (MissingGradient(), evidence(ABSENT, detached=detached("fc1.weight"))),
        (DetachedGradient(), evidence(wrong(), detached=detached("fc1.weight"))),  # part of it: a warning
        (DetachedGradient(), evidence(ABSENT, result(BIAS), detached=detached("fc1.weight", declared=True))),
        (DetachedGradient(), evidence(wrong())),
        (VacuousCheck(), evidence(result())),
        (VacuousCheck(), evidence(result(verdict="empty"))),
    ],
)
def test_must_not_fire(rule: object, found: dict) -> None:
    outcome = rule.check(found)  # type: ignore[attr-defined]
    assert outcome.status == "passed"
    assert not [f for f in outcome.findings if f.severity == "error"]


def test_a_nonfinite_gradient_names_its_first_entry() -> None:
    (finding,) = NonfiniteGradient().check(evidence(result(verdict="nonfinite", nonfinite=2, first_nonfinite=7))).findings
    assert finding.message.startswith("fc1.weight[2, 1]: NaN or infinite, 2 of 12 entries")


def test_a_cut_is_named_by_its_line() -> None:
    (finding,) = DetachedGradient().check(evidence(ABSENT, detached=detached("fc1.weight"))).findings
    assert "model.py:7 (detach)" in finding.message
    assert finding.severity == "error"


def test_a_missing_gradient_behind_a_guilty_module_points_to_it() -> None:
    places = Localisation(inputs=(Place(block="Scale argument 0"),), downstream=("fc1.weight",))
    (finding,) = MissingGradient().check(evidence(ABSENT, localisation=places)).findings
    assert finding.caused_by


def test_triage_puts_the_root_first_and_marks_the_rest() -> None:
    missing = MissingGradient().check(evidence(ABSENT)).findings[0]
    cut = DetachedGradient().check(evidence(ABSENT, detached=detached("fc1.weight"))).findings[0]
    first, second = triage([missing, cut])
    assert (first.code, second.code) == ("GG113", "GG105")
    assert second.caused_by == first.fingerprint


def test_a_stale_ignore_is_a_warning_with_its_reason() -> None:
    finding = UnusedIgnore.stale(Ignore("GG101", block="enc.*", reason="known"))
    assert finding.severity == "warning"
    assert "known" in finding.evidence
    assert UnusedIgnore().check({}).status == "passed"
