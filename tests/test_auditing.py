from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradguard.auditing import accepted, audit_scenario, command_repeat, located, renamed
from gradguard.config import Config
from gradguard.errors import UsageError
from gradguard.finding import Finding
from gradguard.report import Report
from gradguard.scenarios import Ignore, Scenario
from tests.handmade import CAUSED, CHECKS, SCALED, failed_report

ROOT = Path(__file__).parent.parent


class Inner:
    """Looks like a module to whoever walks a model by its table of children."""

    def __init__(self, **children: Any) -> None:
        self._modules = children


class Outer(Inner):
    pass


def line(kind: type) -> str:
    return f"tests/test_auditing.py:{inspect.getsourcelines(kind)[1]}"


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (replace(SCALED, location="", module="layers.0"), line(Inner)),
        (replace(SCALED, location="here", module="", block="layers.0.weight"), f"here; {line(Inner)}"),
        (replace(SCALED, location="", module="no.such.module"), line(Outer)),
        (replace(SCALED, location="", module="", block="weight"), line(Outer)),
        (replace(SCALED, location="net.py:3", module="layers.0"), "net.py:3"),
        (replace(SCALED, location=f"in {ROOT}/net.py:3"), "in net.py:3"),
    ],
)
def test_a_finding_is_located_at_the_class_of_its_module(finding: Finding, expected: str) -> None:
    model = Outer(layers=Inner(**{"0": Inner()}))
    (found,) = located(Report((finding,)), model, ROOT).findings
    assert found.location == expected


def test_what_has_no_source_of_the_users_is_left_alone() -> None:
    bare = replace(SCALED, location="", module="")
    for model in (None, {}, 3, Path("x")):
        assert located(Report((bare,)), model, ROOT).findings == (bare,)


def test_a_report_under_another_name_keeps_its_causes() -> None:
    report = renamed(Report((SCALED, CAUSED), CHECKS, failed_report().rows), "other.py:net")
    root, caused = report.findings
    assert caused.caused_by == root.fingerprint != SCALED.fingerprint
    assert {check.scenario for check in report.checks} == {"other.py:net"}
    assert {row["scenario"] for row in report.rows["gradients"]} == {"other.py:net"}


def test_the_command_that_repeats_a_finding_is_quoted_for_the_shell() -> None:
    repeat = command_repeat("my models.py:net", Config(seed=4))
    assert repeat(replace(SCALED, block="weights[0]")) == (
        "gradguard report 'my models.py:net' --select GG101 --block 'weights[0]' --seed 4"
    )
    assert repeat(replace(SCALED, code="GG401", block="group 0")) == "gradguard report 'my models.py:net' --select GG401 --seed 4"


def test_ignores_of_the_settings_accept_and_say_which_did() -> None:
    config = Config(ignore=(Ignore("GG101", block="fc1.*", reason="known"), Ignore("GG102", reason="unmet")), strict=True)
    report, used = accepted(failed_report(), repeat=lambda f: "again", config=config, baseline=[])
    assert used == [config.ignore[0]]
    assert [f.code for f in report.errors] == ["GG301"]
    assert report.strict
    assert {f.repeat for f in report.findings} == {"again"}


def test_what_the_users_code_raises_is_told_as_theirs_and_what_ours_raises_is_not() -> None:
    def loss(model: Any, batch: Any) -> float:
        raise ZeroDivisionError("in the loss")

    scenario = Scenario({"w": [1.0]}, [1.0], loss, grad=lambda model, batch: model)
    with pytest.raises(UsageError, match=r"ZeroDivisionError: in the loss"):
        audit_scenario(scenario, address="a.py:b", repeat=str, config=Config(select=("GG101",)))  # type: ignore[arg-type]


def test_an_error_of_ours_is_not_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradguard.auditing as auditing

    def broken(*arguments: Any, **options: Any) -> Report:
        return failed_report().findings[7]  # type: ignore[return-value]

    monkeypatch.setattr(auditing, "audit", broken)
    monkeypatch.setattr(auditing, "HERE", str(Path(__file__).parent))
    with pytest.raises(IndexError):
        audit_scenario(Scenario({}, [1], lambda m, b: 0.0), address="a", repeat=str, config=Config())  # type: ignore[arg-type]
