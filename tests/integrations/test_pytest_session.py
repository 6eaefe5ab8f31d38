"""Baseline, output files and annotations of a pytest run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.integrations.conftest import Run
from tests.models import RIGHT, WRONG, scenario
from tests.rendering.test_formats import COMMAND, junit_errors

FEW = "--gradguard-select=GG101,GG102,GG901"
THREE = WRONG + scenario("worse", 1.05, 1.0) + scenario("worst", 1.0, -1.0)


def test_nothing_is_written_unasked(run: Run, pytester: pytest.Pytester) -> None:
    run(WRONG + RIGHT, FEW)
    assert {path.name for path in pytester.path.iterdir()} <= {"test_models.py", "__pycache__"}


@pytest.mark.parametrize("name", ["json", "jsonl", "sarif", "gitlab", "junit", "markdown", "text", "github"])
def test_output_files(run: Run, pytester: pytest.Pytester, name: str) -> None:
    result = run(WRONG + RIGHT, FEW, f"--gradguard-output-format={name}", "--gradguard-output-file=out")
    result.assert_outcomes(passed=5, failed=1)
    text = (pytester.path / "out").read_text()
    assert "GG101" in text
    if name == "json":
        assert [row["block"] for row in json.loads(text)["tables"]["gradients"]] == ["0.weight", "2.weight"] * 2


def test_github_annotations_and_summary(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    result = run(WRONG, FEW, "--gradguard-output-format=github")
    (line,) = [line for line in result.outlines if line.startswith("::")]
    assert COMMAND.fullmatch(line)
    assert line.startswith("::error file=test_models.py,line=")
    assert "FAILED" in (pytester.path / "summary.md").read_text()


def test_junit_of_pytest_keeps_to_its_schema_and_holds_the_evidence(run: Run, pytester: pytest.Pytester) -> None:
    run(WRONG + RIGHT, FEW, "--junitxml=junit.xml")
    root = ElementTree.fromstring((pytester.path / "junit.xml").read_text())
    for case in root.iter("testcase"):
        case.attrib.pop("file", None), case.attrib.pop("line", None)
    assert junit_errors(root) == []
    (failure,) = root.iter("failure")
    assert failure.attrib["message"].startswith("GG101 gradient-mismatch")
    assert "where      block 2.weight" in (failure.text or "")
    names = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert names["gradguard.checks"] == "6 checks on 2 scenarios: 5 passed, 1 failed"
    assert names["gradguard.GG101.test_models.py:wrong.2.weight"].startswith("error: 2.weight")


@pytest.mark.parametrize("file", ["no/folder/out", "."])
def test_a_file_that_cannot_be_written_fails_the_run_and_says_so(run: Run, file: str) -> None:
    result = run(RIGHT, FEW, f"--gradguard-output-file={file}")
    assert result.ret == 1
    assert f"gradguard: cannot write {file}" in result.stderr.str() + result.stdout.str()


def test_an_unknown_format_is_said_before_anything_runs(run: Run) -> None:
    result = run(RIGHT, FEW, "--gradguard-output-format=sarf", "--gradguard-output-file=out")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Did you mean 'sarif'?" in result.stderr.str() + result.stdout.str()


def test_the_legacy_walk_through(run: Run, pytester: pytest.Pytester) -> None:
    """Three findings accepted; green; a fourth is red and the only one shown; one fixed is GG901; pruned."""
    baseline = "--gradguard-baseline=baseline.json"
    run(THREE, FEW).assert_outcomes(passed=6, failed=3)

    written = run(THREE, FEW, baseline, "--gradguard-write-baseline")
    written.assert_outcomes(passed=9)
    entries = json.loads((pytester.path / "baseline.json").read_text())["accepted"]
    assert [(e["scenario"], e["rule"], e["block"]) for e in entries] == [
        ("test_models.py:worse", "GG101", "0.weight"),
        ("test_models.py:worst", "GG101", "2.weight"),
        ("test_models.py:wrong", "GG101", "2.weight"),
    ]

    green = run(THREE, FEW, baseline)
    green.assert_outcomes(passed=9)
    assert "GG101 gradient-mismatch" not in green.stdout.str()

    fourth = run(THREE.replace("build(1.05, 1.0)", "build(1.05, 1.05)"), FEW, baseline)
    fourth.assert_outcomes(passed=8, failed=1)
    lines = [line for line in fourth.outlines if line.startswith("error ")]
    assert lines == ["error   GG101 gradient-mismatch  test_models.py:worse  2.weight"]

    fixed = run(THREE.replace("build(1.0, -1.0)", "build(1.0, 1.0)"), FEW, baseline)
    fixed.assert_outcomes(passed=9)
    lines = [line for line in fixed.outlines if line.startswith("warning ")]
    assert lines == ["warning GG901 unused-ignore  test_models.py:worst  2.weight"]


def test_a_missing_baseline_warns_and_strict_fails(run: Run) -> None:
    first = run(RIGHT, FEW, "--gradguard-baseline=none.json")
    assert first.ret == 0
    first.stdout.fnmatch_lines(["*there is no baseline*none.json yet*"])
    strict = run(RIGHT, FEW, "--gradguard-baseline=none.json", "--gradguard-strict")
    assert strict.ret == 1
    strict.stdout.fnmatch_lines(["*there is no file *none.json, which should be a baseline*"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "*is not JSON, and should be a baseline*"),
        ('{"gradguard_baseline": 99, "accepted": []}', "*is a baseline of version 99, this gradguard reads 1"),
    ],
)
def test_a_baseline_that_cannot_be_read_fails_what_needs_it(
    run: Run, pytester: pytest.Pytester, text: str, message: str
) -> None:
    (pytester.path / "baseline.json").write_text(text)
    result = run(RIGHT + "\ndef test_other():\n    pass\n", FEW, "--gradguard-baseline=baseline.json")
    assert result.parseoutcomes()["passed"] == 1
    assert result.ret == 1
    result.stdout.fnmatch_lines([message])


def test_an_ignore_that_accepted_nothing_is_said_where_all_tests_ran(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.gradguard]\nignore = ["GG101:2.*=known", "GG102:0.*=was once"]\n')
    stale = "warning GG901 unused-ignore  0.*"
    assert stale in run(WRONG, FEW).outlines
    assert stale not in run(WRONG, FEW, "-k", "wrong and not nonfinite").outlines
    assert stale not in run(WRONG, FEW, "test_models.py").outlines


def test_a_read_only_folder(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is read-only, so the refusal is played."""

    def refuse(self: Path, *args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied", str(self))

    pytester.makepyfile(test_models="")
    result = None
    with monkeypatch.context() as patch:
        written = Path.write_text

        def write(self: Path, *args: object, **kwargs: object) -> int:
            return refuse(self) if self.name == "baseline.json" else written(self, *args, **kwargs)  # type: ignore[arg-type]

        patch.setattr(Path, "write_text", write)
        result = run(RIGHT, FEW, "--gradguard-baseline=baseline.json", "--gradguard-write-baseline")
    assert result.ret == 1
    output = result.stderr.str() + result.stdout.str()
    assert re.search(r"cannot write the baseline .*baseline.json: Permission denied", output)
