"""Scenarios are tests: one item per rule, one measurement per scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.conftest import Run
from tests.models import MODELS, RIGHT, WRONG, scenario

FEW = "--gradguard-select=GG101,GG102,GG104"

COUNTED = """
import pathlib

@gg.scenario
def counted():
    with pathlib.Path(__file__).with_name("built.txt").open("a") as file:
        file.write("built\\n")
    return build(1.0, 1.0)
"""


def built(pytester: pytest.Pytester) -> int:
    path = pytester.path / "built.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_one_item_per_rule(run: Run) -> None:
    result = run(WRONG, FEW, "--collect-only", "-q")
    assert result.outlines[:3] == [
        "test_models.py::wrong::gradient-mismatch",
        "test_models.py::wrong::nonfinite-gradient",
        "test_models.py::wrong::nondeterministic-gradient",
    ]


def test_every_rule_has_an_item_where_none_is_selected(run: Run) -> None:
    from gradguard.rules.registry import RULES

    result = run(RIGHT, "--collect-only", "-q")
    for slug, _ in RULES.values():
        assert f"test_models.py::right::{slug}" in result.outlines


def test_the_failure_is_the_evidence_alone(run: Run) -> None:
    result = run(WRONG + RIGHT, FEW)
    result.assert_outcomes(passed=5, failed=1)
    text = result.stdout.str()
    block = text[text.index("wrong::gradient-mismatch ___") : text.index("gradguard ===")].splitlines()
    assert block[1].startswith("GG101 gradient-mismatch  2.weight")
    assert all(line.startswith("  ") or "===" in line for line in block[2:])
    assert "FAILED test_models.py::wrong::gradient-mismatch - GG101 gradient-mismatch" in text


def test_the_summary_is_short_and_worst_first(run: Run) -> None:
    result = run(RIGHT + WRONG, FEW)
    result.stdout.fnmatch_lines(
        [
            "*= gradguard =*",
            "6 checks on 2 scenarios: 5 passed, 1 failed",
            "error   GG101 gradient-mismatch  test_models.py:wrong  2.weight",
        ]
    )
    assert "gradguard =" not in run(RIGHT, FEW, "-q").stdout.str()


@pytest.mark.parametrize("columns", ["40", "60"])
def test_narrow_terminals_shorten_names_in_the_middle(run: Run, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = run(scenario("a_scenario_with_a_very_long_name_indeed_and_on", 1.0, 1.01), FEW)
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if "gradguard ==" in line)
    finding = lines[start + 2]
    assert len(finding) <= int(columns)
    assert finding.endswith("2.weight")
    assert "..." in finding


def test_measured_once_whichever_items_run(run: Run, pytester: pytest.Pytester) -> None:
    run(COUNTED, FEW).assert_outcomes(passed=3)
    assert built(pytester) == 1
    run(COUNTED, FEW, "-k", "nonfinite").assert_outcomes(passed=1, deselected=2)
    assert built(pytester) == 2
    run(COUNTED, FEW, "--collect-only")
    assert built(pytester) == 2


def test_parametrize_and_fixtures_as_arguments(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
@pytest.fixture
def factor():
    return 1.01

@pytest.mark.parametrize("depth", [1, pytest.param(2, id="two")])
@gg.scenario
def deep(depth, factor, unused=3):
    return build(*([1.0] * depth), factor)

@gg.scenario
@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.skip(reason="too narrow")), 2])
def wide(width):
    return build(1.0)
""",
        "--gradguard-select=GG101,GG102",
    )
    result.assert_outcomes(passed=4, failed=2, skipped=2)
    result.stdout.fnmatch_lines(
        ["FAILED test_models.py::deep::gradient-mismatch?1?*", "FAILED test_models.py::deep::gradient-mismatch?two?*"]
    )
    pytester.runpytest_inprocess("-p", "no:randomly", "test_models.py::deep::nonfinite-gradient[two]").assert_outcomes(passed=1)
    both = pytester.runpytest_inprocess("-p", "no:randomly", "--gradguard-select=GG101,GG102", "test_models.py::deep")
    both.assert_outcomes(failed=2, passed=2)


def test_a_missing_fixture_is_pytests_own_message(run: Run) -> None:
    result = run("@gg.scenario\ndef needs(nothing_of_that_name):\n    return build(1.0)\n", "--gradguard-select=GG101")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*fixture 'nothing_of_that_name' not found"])


def test_keywords_marks_and_expected_failures(run: Run) -> None:
    text = WRONG.replace("@gg", "@pytest.mark.xfail(strict=True, reason='known')\n@gg") + RIGHT
    run(WRONG.replace("@gg", "@pytest.mark.skip(reason='later')\n@gg"), FEW).assert_outcomes(skipped=3)
    run(text, FEW, "-k", "gradient-mismatch and wrong").assert_outcomes(xfailed=1, deselected=5)
    # Strict: what was expected to fail and did not is a failure.
    run(text, FEW, "-k", "wrong").assert_outcomes(xfailed=1, failed=2, deselected=3)
    run(text, FEW, "-m", "gradguard", "-k", "right").assert_outcomes(passed=3, deselected=3)
    run(text, FEW, "-m", "not gradguard").assert_outcomes(deselected=6)
    # A scenario's items answer to their own names, not to those of the class that holds the function.
    for word in ("function", "name"):
        assert run(RIGHT, FEW, "-k", word).parseoutcomes() == {"deselected": 3}


def test_last_failed(run: Run, pytester: pytest.Pytester) -> None:
    run(WRONG + RIGHT, FEW, cache=True).assert_outcomes(passed=5, failed=1)
    result = pytester.runpytest_inprocess("-p", "no:randomly", FEW, "--lf")
    result.assert_outcomes(failed=1)
    assert "1 check on 1 scenario" in result.stdout.str()


def test_durations_and_exit_codes(run: Run) -> None:
    result = run(RIGHT, FEW, "--durations=3", "-vv")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*s call     test_models.py::right::*"])
    assert run(WRONG, FEW).ret == 1


def test_skipped_rules_say_why_and_strict_fails_what_is_inconclusive(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import pytest
from gradguard.finding import Check
from gradguard.report import Report

@pytest.fixture(autouse=True, scope="session")
def _stub():
    import gradguard.auditing as auditing
    def audit(scenario, *, name, **options):
        return Report((), (
            Check(scenario=name, code="GG101", rule="gradient-mismatch", status="inconclusive", reason="too noisy"),
            Check(scenario=name, code="GG102", rule="nonfinite-gradient", status="skipped", reason="no backward"),
        ))
    before, auditing.audit = auditing.audit, audit
    yield
    auditing.audit = before
"""
    )
    result = run(RIGHT, "--gradguard-select=GG101,GG102", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*inconclusive: too noisy*", "*skipped: no backward*"])
    strict = run(RIGHT, "--gradguard-select=GG101,GG102", "--gradguard-strict")
    strict.assert_outcomes(skipped=1, failed=1)
    strict.stdout.fnmatch_lines(["*GG101*inconclusive, and --gradguard-strict is set: too noisy"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise OSError('no data')", "scenario test_models.py:bad raised: OSError: no data"),
        ("raise MemoryError", "scenario test_models.py:bad raised: MemoryError: (no message)"),
        ("return 3", "scenario 'bad' returned int, not a gg.Scenario"),
        (
            "return gg.Scenario(nn.Linear(2, 1), [torch.ones(3, 5)], lambda m, b: m(b).sum())",
            "the model raised RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        ("return gg.Scenario(nn.Linear(2, 1), [torch.ones(3, 2)], lambda m, b: [][3])", "IndexError: list index out of range"),
    ],
)
def test_a_scenario_that_raises_says_so_once_and_the_others_go_on(run: Run, body: str, message: str) -> None:
    result = run(f"@gg.scenario\ndef bad():\n    {body}\n" + RIGHT, FEW)
    result.assert_outcomes(passed=3, failed=3)
    text = result.stdout.str()
    assert message in text
    assert text.count("  to do ") <= 2
    assert text.count("(in full at test_models.py::bad::gradient-mismatch)") >= 2
    assert "auditing.py" not in text


def test_scenarios_in_classes_are_static(run: Run) -> None:
    result = run(
        """
class TestModels:
    @staticmethod
    @gg.scenario
    def right():
        return build(1.0)

    @gg.scenario
    def method(self):
        return build(1.0)
""",
        FEW,
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["scenario 'method' is a method of TestModels, and a scenario has no self"])


def test_a_module_that_does_not_import_is_pytests_own_error(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other():\n    pass\n")
    result = run("undefined_name\n", "--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)


def test_unknown_settings_are_one_test_that_fails(run: Run) -> None:
    result = run(RIGHT + "\ndef test_other():\n    pass\n", "--gradguard-select=gradient-missmatch")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*option: select: there is no rule 'gradient-missmatch'. Did you mean 'gradient-mismatch'?"])


def test_two_modules_may_import_one_scenario(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_again="from test_models import right\n")
    run(RIGHT, FEW).assert_outcomes(passed=6)


CONFIGURED = """
[tool.gradguard]
select = ["GG101", "GG102"]
scenarios = ["zoo.models:wrong", "zoo/models.py:right", {model = "zoo.models:net", inputs = "3x4"}]
"""


@pytest.fixture
def zoo(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of models without a test file."""
    package = pytester.mkpydir("zoo")
    (package / "models.py").write_text(MODELS + RIGHT + WRONG + "\ndef net():\n    return nn.Linear(4, 2)\n")
    pytester.makepyprojecttoml(CONFIGURED)
    return package


def inner(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)


def test_configured_scenarios_need_no_test_file(zoo: Path, pytester: pytest.Pytester) -> None:
    result = inner(pytester, "--gradguard")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["FAILED zoo/models.py::wrong::gradient-mismatch - *", "*1 failed*"])
    assert "error   GG101 gradient-mismatch  zoo/models.py:wrong  2.weight" in result.stdout.str()
    inner(pytester, "--gradguard", "-k", "net").assert_outcomes(passed=2, deselected=4)
    assert inner(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "--gradguard collects*scenarios, and there are none"),
        ('scenarios = ["zoo.nothing:x"]', "there is no module 'zoo.nothing'"),
        ('scenarios = ["zoo.models:rihgt"]', "*has no 'rihgt'. Did you mean 'right'?"),
        ('scenarios = ["zoo/broken.py"]', "*does not import: ZeroDivisionError: division by zero"),
        ('scenarios = [{model = "zoo.models:nett", inputs = "3x4"}]', "*has no factory 'nett'. Did you mean 'net'?"),
        ("seeed = 3", "*has the unknown key 'seeed'. Did you mean 'seed'?"),
    ],
)
def test_what_is_wrong_with_the_table_is_one_test_that_fails(
    zoo: Path, pytester: pytest.Pytester, table: str, message: str
) -> None:
    (zoo / "broken.py").write_text("import gradguard\n1 / 0\n")
    pytester.makepyfile(test_other="def test_other():\n    pass\n")
    pytester.makepyprojecttoml(f"[tool.gradguard]\n{table}\n")
    result = inner(pytester, "--gradguard")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([message])
