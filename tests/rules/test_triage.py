"""The order of causes: one root, and what it explains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradguard.finding import Finding
from gradguard.rules.triage import CAUSES, triage


def finding(name: str) -> Finding:
    """``CODE`` or ``CODE/pattern``, an error."""
    code, _, pattern = name.partition("/")
    return Finding(code=code, rule=code.lower(), severity="error", message=name, pattern=pattern)


@pytest.mark.parametrize(
    ("found", "root"),
    [
        (["GG302/overflow", "GG401"], "GG401"),  # a rate too large, until numbers overflow
        (["GG302/at birth", "GG401"], "GG302/at birth"),  # an initialisation that no rate can take
        (["GG302/overflow", "GG201", "GG401", "GG502"], "GG502"),
        (["GG302/not finite", "GG102"], "GG102"),
        (["GG401", "GG406/ascent"], "GG401"),
        (["GG401", "GG406"], "GG401"),
        (["GG402", "GG406"], "GG402"),
        (["GG201", "GG402", "GG204"], "GG402"),
        (["GG201", "GG204", "GG404/sum", "GG406"], "GG404/sum"),
        (["GG204", "GG406", "GG303", "GG501"], "GG501"),
        (["GG102", "GG302/time", "GG404"], "GG302/time"),  # numbers overflow at birth
        (["GG303/cut", "GG303/optimizer", "GG307"], "GG307"),
        (["GG403", "GG307"], "GG307"),
        (["GG201", "GG304", "GG204", "GG402"], "GG304"),  # steps that grow with what nothing clears
        (["GG201", "GG303/cut"], "GG303/cut"),  # what lies below a cut is not trained
        (["GG201", "GG303/unused"], "GG201"),
        (["GG102", "GG203/output"], "GG203/output"),
        (["GG503", "GG201", "GG401", "GG404"], "GG503"),
    ],
)
def test_roots(found: list[str], root: str) -> None:
    ordered = triage([finding(name) for name in found])
    assert ordered[0].message == root
    assert [f.message for f in ordered if not f.caused_by] == [root]


def test_values_that_a_gradient_made_are_not_its_cause() -> None:
    gradient, value = replace(finding("GG102"), step=0), replace(finding("GG203/output"), step=3)
    assert not any(f.caused_by for f in triage([gradient, value]))


def test_no_two_findings_explain_each_other() -> None:
    names = {*CAUSES, *(cause for causes in CAUSES.values() for cause in causes)}
    for a in names:
        for b in names:
            if a != b:
                assert any(not f.caused_by for f in triage([finding(a), finding(b)])), (a, b)
