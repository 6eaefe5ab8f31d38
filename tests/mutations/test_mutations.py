"""Every published bug of the table is found, by the rule and at the place that a reader needs; its right twin is clean."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradguard as gg
from gradguard.blocks import matching
from gradguard.finding import Finding
from gradguard.rules.registry import RULES
from tests.cases.case import Checked
from tests.mutations.mutation import Mutation
from tests.mutations.table import MUTATIONS

ROWS = [pytest.param(one, id=one.number) for one in MUTATIONS]


def run(checked: Checked) -> gg.Report:
    if "order" in checked.options and "GG109" not in RULES:
        pytest.skip("GG109: the rule is not there yet")
    return gg.check_gradients(checked.f, checked.inputs, **checked.options)


def is_it(mutation: Mutation, finding: Finding) -> bool:
    """Whether a finding says what this mutation's must say."""
    at = matching(finding.block, [mutation.block]) or matching(finding.module, [mutation.block])
    said = "\n".join([finding.location, finding.message, finding.evidence, finding.pattern, finding.likely, finding.hint])
    severe = mutation.severity in ("any", finding.severity)
    return finding.code in mutation.rules and at and severe and all(text in said for text in mutation.says)


@pytest.mark.parametrize("mutation", ROWS)
def test_the_wrong_one_is_found_where_it_is(mutation: Mutation) -> None:
    if mutation.refused:
        with pytest.raises(gg.UsageError) as caught:
            run(mutation.make(True))
        assert mutation.refused in str(caught.value)
        return
    if not set(mutation.rules) & set(RULES):
        pytest.skip(f"{', '.join(mutation.rules)}: the rule is not there yet")
    report = run(mutation.make(True))
    assert any(is_it(mutation, f) for f in report.findings), str(report)
    wrongly = [f.block for f in report.errors if matching(f.block, mutation.left_alone)]
    assert not wrongly, str(report)


@pytest.mark.parametrize("mutation", ROWS)
def test_its_right_twin_is_clean(mutation: Mutation) -> None:
    report = run(mutation.make(False))
    assert not report.errors, str(report)
    assert not report.inconclusive, str(report)


def test_the_page_has_a_row_for_each_and_none_is_missed() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "mutations.md").read_text(encoding="utf-8")
    lines = ([cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("|"))
    rows = {cells[1]: cells for cells in lines}
    for one in MUTATIONS:
        said = rows[one.number][3]
        assert one.bug in rows[one.number][2]
        assert said.startswith("refused:" if one.refused else one.rules), said
        assert "false alarm" not in said


def test_all_twenty_two_are_there() -> None:
    assert {one.number.rstrip("abc") for one in MUTATIONS} == {str(i) for i in range(1, 23)}
