"""The fixture: it raises with the evidence, wherever it is used."""

from __future__ import annotations

import pytest

from tests.integrations.conftest import Run

WRONG_CALL = """
def test_wrong(gradguard):
    gradguard.check_gradients(ScaledLinear(4, 3, 1.01), torch.ones(2, 4))
"""
RIGHT_CALL = """
def test_right(gradguard):
    report = gradguard.check_gradients(ScaledLinear(4, 3, 1.0), torch.ones(2, 4))
    assert report.ok and report.checks
"""


def test_a_failure_shows_the_evidence_and_no_line_of_ours(run: Run) -> None:
    result = run(WRONG_CALL + RIGHT_CALL)
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "GG101 gradient-mismatch  weight" in text
    assert "E         where      block weight (3, 4)" in text
    assert "E         repeat     pytest 'test_models.py::test_wrong'" in text
    failure = text[text.index("FAILURES") : text.index("short test summary")]
    assert "pytest_fixture.py" not in failure
    assert "checking.py" not in failure


def test_the_repeat_line_repeats_it(run: Run, pytester: pytest.Pytester) -> None:
    run(WRONG_CALL)
    again = pytester.runpytest_inprocess("-p", "no:randomly", "test_models.py::test_wrong")
    again.assert_outcomes(failed=1)


def test_in_given_in_classes_with_subtests_and_async(run: Run) -> None:
    result = run(
        """
from hypothesis import given, settings, strategies as st

@settings(max_examples=5, deadline=None, database=None)
@given(size=st.integers(1, 3))
def test_given(gradguard, size):
    gradguard.check_gradients(ScaledLinear(size, 3, 1.0), torch.ones(2, size))

@settings(max_examples=5, deadline=None, database=None, derandomize=True)
@given(size=st.integers(1, 3))
def test_given_wrong(gradguard, size):
    gradguard.check_gradients(ScaledLinear(size, 3, 1.01 if size > 1 else 1.0), torch.ones(2, size))

class TestClass:
    def test_method(self, gradguard):
        gradguard.check_gradients(ScaledLinear(2, 3, 1.0), torch.ones(2, 2))

    def test_method_wrong(self, gradguard):
        gradguard.check_gradients(ScaledLinear(2, 3, 1.01), torch.ones(2, 2))

def test_subtests(gradguard, subtests):
    for factor in (1.0, 1.01):
        with subtests.test(factor=factor):
            gradguard.check_gradients(ScaledLinear(2, 3, factor), torch.ones(2, 2))

def test_async(gradguard):
    import asyncio
    async def check():
        await asyncio.sleep(0)
        return gradguard.check_gradients(ScaledLinear(2, 3, 1.0), torch.ones(2, 2))
    assert asyncio.run(check()).ok
""",
    )
    text = result.stdout.str()
    assert result.ret == 1
    for name in ("test_given_wrong", "TestClass::test_method_wrong", "test_subtests"):
        assert f"test_models.py::{name}" in text
    assert "size=2," in text  # shrunk: 3 fails as well
    assert "FailedHealthCheck" not in text
    for name in ("test_given ", "test_async", "TestClass::test_method "):
        assert f"FAILED test_models.py::{name}" not in text


def test_async_tests_of_a_plugin(run: Run) -> None:
    pytest.importorskip("anyio")
    result = run(
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_right(gradguard):
    assert gradguard.check_gradients(ScaledLinear(2, 3, 1.0), torch.ones(2, 2)).ok

@pytest.mark.anyio
async def test_wrong(gradguard):
    gradguard.check_gradients(ScaledLinear(2, 3, 1.01), torch.ones(2, 2))
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["error   GG101 gradient-mismatch  test_models.py::test_wrong  weight"])


def test_the_marker_and_the_call_decide_before_the_options(run: Run) -> None:
    result = run(
        """
@pytest.mark.gradguard(select=["GG102"], seed=7)
def test_marker(gradguard):
    report = gradguard.check_gradients(ScaledLinear(4, 3, 1.01), torch.ones(2, 4))
    assert [check.code for check in report.checks] == ["GG102"]
    assert report.rows["runs"][0]["seed"] == 7

@pytest.mark.gradguard(select="GG102", seed=7)
def test_call(gradguard):
    report = gradguard.check_gradients(ScaledLinear(4, 3, 1.01), torch.ones(2, 4), select="GG104", seed=8)
    assert [check.code for check in report.checks] == ["GG104"]
    assert report.rows["runs"][0]["seed"] == 8

@pytest.mark.gradguard(ignore="GG101:weight=known")
def test_ignore(gradguard):
    report = gradguard.check_gradients(ScaledLinear(4, 3, 1.01), torch.ones(2, 4))
    assert report.findings == ()

def test_option(gradguard):
    assert gradguard.check_gradients(ScaledLinear(4, 3, 1.0), torch.ones(2, 4)).rows["runs"][0]["seed"] == 6
""",
        "--gradguard-seed=6",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@pytest.mark.gradguard(selct='GG1')\ndef test_a(gradguard):\n    CALL", "*@pytest.mark.gradguard does not take selct*"),
        ("@pytest.mark.gradguard('GG1')\ndef test_a(gradguard):\n    CALL", "*@pytest.mark.gradguard does not take 'GG1'*"),
        ("@pytest.mark.gradguard(select='GG999')\ndef test_a(gradguard):\n    CALL", "*marker: select: there is no rule 'GG999'*"),
        ("@pytest.mark.gradguard(ignore='GG101')\ndef test_a(gradguard):\n    CALL", "*cannot read the ignore 'GG101'*"),
        ("def test_a(gradguard):\n    CALL\n", "*the selection leaves no check: GG4*"),
    ],
)
def test_wrong_settings_fail_that_test_alone(run: Run, text: str, message: str) -> None:
    call = "gradguard.check_gradients(ScaledLinear(4, 3, 1.0), torch.ones(2, 4))"
    options = ["--gradguard-select=GG4"] if "GG4*" in message else []
    if options:
        from gradguard.rules.registry import RULES

        if not any(code.startswith("GG4") for code in RULES):
            pytest.skip("no rule GG4xx is built yet")
    result = run(text.replace("CALL", call) + "\ndef test_other():\n    pass\n", *options)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([message])


def test_a_broken_table_fails_only_what_uses_it(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("[tool.gradguard]\nseeed = 3\n")
    result = run(RIGHT_CALL + "\ndef test_other():\n    pass\n")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*pyproject.toml has the unknown key 'seeed'. Did you mean 'seed'?*"])


def test_an_ignore_of_the_call_that_accepted_nothing_is_said(run: Run) -> None:
    result = run(
        """
def test_ignore(gradguard):
    report = gradguard.check_gradients(
        ScaledLinear(4, 3, 1.01), torch.ones(2, 4), ignore=(gg.Ignore("GG101", block="weight", reason="known"), "GG104:x=old")
    )
    assert [f.code for f in report.findings] == ["GG901"]
"""
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["warning GG901 unused-ignore  test_models.py::test_ignore  x"])


def test_audit_raises_too(run: Run) -> None:
    result = run("def test_audit(gradguard):\n    gradguard.audit(build(1.0, 1.01), select='GG101')\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GG101 gradient-mismatch  2.weight*"])


def test_watch_is_judged_at_the_end_and_never_over_an_exception_of_the_user(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        """
import contextlib, gradguard, pytest
from gradguard.finding import Check, Finding
from gradguard.report import Report

class Watch:
    def report(self):
        found = Finding(code="GG402", rule="diverging-loss", severity="error", message="the loss blew up")
        return Report((found,), (Check(scenario="", code="GG402", rule="diverging-loss", status="failed"),))

@contextlib.contextmanager
def watch(model, optimizer=None, **options):
    yield Watch()

@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    from gradguard.integrations import pytest_fixture
    monkeypatch.setattr(gradguard, "watch", watch, raising=False)
    monkeypatch.setattr(pytest_fixture, "_selected", lambda report, config: report)
"""
    )
    result = run(
        """
def test_watch(gradguard):
    with gradguard.watch(nn.Linear(1, 1), optimizer=None) as watch:
        assert watch.report().findings

def test_own_error(gradguard):
    with gradguard.watch(nn.Linear(1, 1)):
        raise ZeroDivisionError("mine")
"""
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E *GG402 diverging-loss  the loss blew up", "E *ZeroDivisionError: mine"])


def test_a_real_loop_is_watched(run: Run) -> None:
    result = run(
        """
def test_loop(gradguard):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = torch.randn(64, 4), torch.randint(3, (64,))
    with gradguard.watch(model, optimizer=optimizer) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            watch.record(loss=loss)
    assert watch.report().checks
"""
    )
    result.assert_outcomes(passed=1)
    assert "on 1 scenario" in result.stdout.str()


def test_limits_of_the_table_reach_every_check(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("[tool.gradguard.limits.GG101]\nz = 1e300\nz_single = 1e300\n")
    run(WRONG_CALL, "--gradguard-select=GG101").assert_outcomes(passed=1)


def test_markers_select_what_uses_the_fixture(run: Run) -> None:
    result = run(RIGHT_CALL + "\ndef test_other():\n    pass\n", "-m", "gradguard", "--strict-markers")
    result.assert_outcomes(passed=1, deselected=1)
