from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gradguard.errors import UsageError
from gradguard.report import Report
from gradguard.saved import load_report
from tests.handmade import failed_report


def test_a_saved_report_is_the_same_again(tmp_path: Path) -> None:
    report = failed_report()
    report.rows["gradients"][0] = {**report.rows["gradients"][0], "z": math.inf}
    report.save(tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "report.json"):
        again = load_report(path)
        assert again.findings == report.findings
        assert again.checks == report.checks
        assert again.rows == report.rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file .*, which should be a report"),
        ("{", "is not JSON"),
        ("[]", "is not a report of gradguard"),
        ('{"tables": {}, "schema_version": 99}', "schema version 99, this gradguard reads 1"),
        ('{"tables": {"checks": [{"x": 1}]}, "schema_version": 1}', "is damaged"),
        ('{"tables": [], "schema_version": 1}', "is damaged"),
    ],
)
def test_what_is_not_a_report_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_report(path)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        load_report(tmp_path)


def test_json_is_strict() -> None:
    report = Report((), (), {"curve": [{"scenario": "m", "step": 0, "loss": math.nan}]})
    assert json.loads(report.to_json(), parse_constant=pytest.fail)["tables"]["curve"][0]["loss"] == "nan"
