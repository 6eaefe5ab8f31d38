"""GG403 on runs typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

import gradguard as gg
from gradguard.measurements.rate_observation import LongerRun, RateObservation
from gradguard.rules.stalled_training import StalledTraining
from tests.rules.rates import observed, run

FIRES = {
    "a hundred times the rate learns": observed(run(1.0, 2.299), run(10.0, 2.29), run(100.0, 0.5), low=100.0),
    "at once": observed(run(1.0, 2.3), run(10.0, 0.1), low=10.0),
}
SILENT = {
    "learns": observed(run(1.0, 0.5), run(10.0, 0.3), low=10.0),
    "slowly": observed(run(1.0, 2.0), run(10.0, 0.3), low=10.0),
    "converged": observed(
        run(1.0, 2e-13, start=2e-13, movement=1e-8), run(10.0, 1e-16, start=2e-13, movement=1e-7), low=10.0, worth=4.0
    ),
    "the larger rate diverges": observed(run(1.0, 2.299), run(10.0, 9.0, stopped="the loss is not finite at step 3"), low=1.0),
    "no rate learns": observed(run(1.0, 2.3), run(10.0, 2.3), run(100.0, 2.3), low=100.0),
    "it diverges itself": observed(run(0.1, 0.5), run(1.0, 9.0), low=0.1),
}


def judge(measured: RateObservation) -> Any:
    evidence: dict[str, Any] = {"rate_observation": measured}
    outcome = StalledTraining().check(evidence)
    if outcome.requests:
        own = measured.own
        assert own is not None
        outcome = StalledTraining().check({**evidence, "rate_longer": LongerRun(run=own)})
    return outcome


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    outcome = judge(FIRES[name])
    assert outcome.status == "failed"
    assert "times that rate holds and gains" in outcome.findings[0].message


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    outcome = judge(SILENT[name])
    assert outcome.status == "passed"
    assert not outcome.findings


def test_between_is_an_info() -> None:
    outcome = judge(observed(run(1.0, 2.25), run(10.0, 0.5), low=10.0))
    assert outcome.status == "passed"
    assert [f.severity for f in outcome.findings] == ["info"]


def test_a_longer_run_that_moves_is_an_info() -> None:
    measured = FIRES["at once"]
    outcome = StalledTraining().check({"rate_observation": measured, "rate_longer": LongerRun(run=run(1.0, 1.0))})
    assert [f.severity for f in outcome.findings] == ["info"]


def test_rate_of_zero() -> None:
    outcome = judge(observed(rates=(0.0, 0.0), unit=0.0, low=0.0))
    assert outcome.status == "failed"
    assert outcome.findings[0].message == "the learning rate of SGD is 0 in every group: nothing moves"


def test_rate_of_zero_in_one_group_is_a_warning() -> None:
    outcome = judge(observed(run(1.0, 0.5), rates=(0.1, 0.0)))
    assert [f.severity for f in outcome.findings] == ["warning"]
    assert outcome.findings[0].message == "the learning rate of parameter group 1 is 0, of the others not"


def test_options() -> None:
    with pytest.raises(gg.UsageError, match="GG403 takes stalled between 0 and 1, got 2"):
        StalledTraining(stalled=2)
