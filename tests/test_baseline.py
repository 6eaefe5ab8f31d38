from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gradguard.baseline import Accepted, apply_baseline, apply_ignores, entries_of, read_baseline, write_baseline
from gradguard.errors import UsageError
from gradguard.report import Report
from gradguard.scenarios import Ignore
from tests.handmade import CAUSED, SCALED, UNSCALED, failed_report


def test_a_baseline_lets_today_pass(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, entries_of(failed_report()))
    report = apply_baseline(failed_report(), read_baseline(path))
    assert report.ok
    assert report.findings == ()
    failed = next(check for check in report.checks if check.code == "GG101")
    assert failed.status == "passed"
    assert failed.reason == "accepted fc1.weight: in the baseline"


def test_a_measured_value_does_not_matter_but_the_block_does() -> None:
    entries = entries_of(failed_report())
    again = replace(SCALED, observed=1.0, message="another number", pattern="another")
    other = replace(SCALED, block="fc2.weight")
    report = apply_baseline(Report((again, other), failed_report().checks), entries)
    assert [f.block for f in report.errors] == ["fc2.weight"]


def test_a_warning_that_was_accepted_is_not_accepted_as_an_error() -> None:
    entries = entries_of(Report((UNSCALED,)))
    assert not apply_baseline(Report((replace(UNSCALED, severity="error"),)), entries).ok
    assert apply_baseline(Report((UNSCALED,)), entries).findings == ()


def test_what_no_longer_occurs_is_gg901_only_where_the_rule_ran() -> None:
    gone = Accepted("models.py:mlp", "GG102", "fc9.weight")
    skipped = Accepted("models.py:mlp", "GG305", "fc9.weight")
    elsewhere = Accepted("models.py:other", "GG102", "fc9.weight")
    report = apply_baseline(failed_report(), [gone, skipped, elsewhere])
    stale = [f for f in report.findings if f.code == "GG901"]
    assert [f.message for f in stale] == ["the baseline accepts GG102 for fc9.weight, which no longer occurs"]
    assert stale[0].severity == "warning"


def test_a_finding_does_not_hide_behind_an_accepted_cause() -> None:
    entries = entries_of(Report((SCALED,)))
    report = apply_baseline(Report((SCALED, CAUSED), failed_report().checks), entries)
    assert [(f.code, f.caused_by) for f in report.errors] == [("GG301", "")]


def test_ignores_accept_by_rule_and_glob_and_say_why() -> None:
    ignores = [Ignore("GG101", block="fc1.*", reason="known"), Ignore("GG101", block="fc7.*", reason="never met")]
    report, used = apply_ignores(failed_report(), ignores)
    assert [f.code for f in report.errors] == ["GG301"]
    assert used == [ignores[0]]
    assert "accepted fc1.weight: known" in next(c.reason for c in report.checks if c.code == "GG101")


def test_the_file_is_sorted_one_entry_a_line_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    entries = entries_of(failed_report())
    write_baseline(path, reversed(entries))
    first = path.read_text()
    write_baseline(path, read_baseline(path))
    assert path.read_text() == first
    assert sum('"rule"' in line for line in first.splitlines()) == len(entries) == 3
    assert "4.71155" not in first
    write_baseline(path, [])
    assert read_baseline(path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("not json", "is not JSON, and should be a baseline"),
        ("[]", "is not a baseline of gradguard"),
        ('{"gradguard_baseline": 7, "accepted": []}', "baseline of version 7, this gradguard reads 1"),
        ('{"gradguard_baseline": 1, "accepted": [{"nonsense": 1}]}', "has a damaged entry"),
        ('{"gradguard_baseline": 1}', "has a damaged entry"),
    ],
)
def test_what_is_not_a_baseline_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "b.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_baseline(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the baseline"):
        write_baseline(tmp_path / "missing" / "b.json", [])
