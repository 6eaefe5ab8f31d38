"""GG401 on runs typed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import gradguard as gg
from gradguard.measurements.curvature import Curvature, GroupCurvature
from gradguard.measurements.overshoot import Overshoot
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_predictions import Predictions
from gradguard.rules.diverging_learning_rate import DivergingLearningRate, interval
from tests.rules.rates import observed, run

LOWER = run(0.1, 0.5)

FIRES = {
    "not finite": observed(LOWER, run(1.0, 9.0, stopped="the loss is not finite at step 7"), low=0.1, high=1.0),
    "ends above the start": observed(LOWER, run(1.0, 5.0), low=0.1, high=1.0),
    "grows without bound": observed(LOWER, run(1.0, 1e3, 1e30), low=0.1, high=1.0),
    "blow-up without recovery": observed(LOWER, run(1.0, 9.0, 2.0, 2.0, 2.0, 2.0), low=0.1, high=1.0),
    "stuck where a lower rate learns": observed(LOWER, run(1.0, 2.29), low=0.1, high=1.0),
    "most steps overshoot": observed(LOWER, run(1.0, 1.0, after=(9.0,) * 40), low=0.1, high=1.0),
    "negative losses": observed(run(0.1, -9.0, start=-5.0), run(1.0, -2.0, start=-5.0), low=0.1, high=1.0),
    "a trained model is lost": observed(run(0.1, 0.009, start=0.01), run(1.0, 2.3, start=0.01), low=0.1, high=1.0, worth=2.3),
}
SILENT = {
    "learns": observed(LOWER, run(1.0, 0.3)),
    "catapult": observed(LOWER, run(1.0, 9.0, 1.0, 0.4, 0.3)),
    "thrown far away, and back": observed(LOWER, run(1.0, 1e6, 1.0, 0.4, 0.4, 0.4, 0.4)),
    "faster and noisier": observed(LOWER, run(1.0, 0.6)),
    "converged": observed(run(0.1, 1e-13, start=2e-13), run(1.0, 3e-13, start=2e-13), worth=4.0),
    "converged, first steps of a fresh optimizer": observed(
        run(0.1, 0.01, start=0.01), run(1.0, 0.08, 0.05, start=0.01), worth=2.3
    ),
    "negative losses": observed(run(0.1, -5.5, start=-5.0), run(1.0, -9.0, start=-5.0)),
    "no gain at any rate": observed(run(0.1, 2.3), run(1.0, 2.3)),
}


def judge(measured: RateObservation, **more: Any) -> Any:
    evidence: dict[str, Any] = {"rate_observation": measured, **more}
    rule = DivergingLearningRate()
    outcome = rule.check(evidence)
    if outcome.requests:
        assert [request.measurement for request in outcome.requests] == ["rate_longer"]
        assert outcome.status == "inconclusive"
        own = measured.own
        assert own is not None
        outcome = rule.check({**evidence, "rate_longer": LongerRun(run=own)})
    return outcome


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    outcome = judge(FIRES[name])
    assert outcome.status == "failed"
    (finding,) = outcome.findings
    assert finding.message.startswith("SGD at lr 0.1 diverges: ")
    assert finding.message.endswith("; lr 0.01 holds")
    assert finding.evidence.endswith("the training limit is between 0.01 and 0.1")
    assert outcome.margin == pytest.approx(10**0.5)


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    outcome = judge(SILENT[name])
    assert outcome.status == "passed"
    assert not outcome.findings


def test_a_longer_run_that_recovers_passes() -> None:
    measured = FIRES["blow-up without recovery"]
    outcome = DivergingLearningRate().check(
        {"rate_observation": measured, "rate_longer": LongerRun(run=run(1.0, 9.0, 0.4, 0.4, 0.4, 0.4))}
    )
    assert outcome.status == "passed"
    assert outcome.reason.startswith("recovers within 40 steps: ")


def test_a_limit_below_the_rate_that_longer_runs_showed_is_looked_into() -> None:
    measured = observed(run(0.1, 0.5), run(1.0, 0.4), low=0.1, high=0.5)
    rule = DivergingLearningRate()
    outcome = rule.check({"rate_observation": measured})
    assert outcome.status == "inconclusive"
    assert outcome.reason == "longer runs at lower rates diverge"
    lasts = LongerRun(run=run(1.0, 0.4), reference=run(0.1, 0.2))
    assert rule.check({"rate_observation": measured, "rate_longer": lasts}).status == "passed"
    lost = LongerRun(run=run(1.0, 0.4, 5.0, 2.0, 2.0), reference=run(0.1, 0.2))
    assert rule.check({"rate_observation": measured, "rate_longer": lost}).status == "failed"


def test_a_longer_run_is_judged_by_one_of_its_length() -> None:
    measured = observed(run(0.1, 1.9), run(1.0, 9.0, 2.2, 2.2, 2.2), low=0.1, high=1.0)
    longer = run(1.0, 9.0, 2.0, 1.9, 1.9, 1.9)
    rule = DivergingLearningRate()
    evidence: dict[str, Any] = {"rate_observation": measured}
    assert rule.check({**evidence, "rate_longer": LongerRun(run=longer)}).status == "passed"
    assert rule.check({**evidence, "rate_longer": LongerRun(run=longer, reference=run(0.1, 0.1))}).status == "failed"


def test_ascent_of_predictions() -> None:
    seen = Predictions(kind="cross_entropy", before=2.3, after=90.0, prior=2.3)
    outcome = judge(observed(run(0.1, -9.0), run(1.0, -80.0), predictions=seen))
    assert outcome.status == "failed"
    assert outcome.findings[0].message == (
        "SGD at lr 0.1 lowers the loss while the predictions get worse: cross-entropy 2.3 -> 90, guessing gives 2.3"
    )
    for healthy in (replace(seen, after=2.5), replace(seen, kind="mse"), replace(seen, kind="", after=math.nan)):
        assert judge(observed(run(0.1, 0.5), run(1.0, 0.3), predictions=healthy)).status == "passed"


@pytest.mark.parametrize(
    ("bracket", "text"),
    [
        ({"low": 1.0, "limit": 2.0, "high": 3.0}, "the training limit is between 0.1 and 0.3"),
        ({"low": 0.0, "limit": 0.0, "high": 0.1}, "the training limit is below 0.01"),
        ({"low": 1.0, "limit": math.inf, "high": math.inf}, "every rate up to 0.1 holds"),
        ({"low": 1.0, "limit": 2.0, "high": math.inf}, "the training limit is near 0.2: 0.1 holds, and no rate above 0.2 was lost"),
    ],
)
def test_the_interval_as_a_text(bracket: dict[str, float], text: str) -> None:
    assert interval(observed(LOWER, run(1.0, 0.3), **bracket)) == text


def test_the_rate_named_lies_well_below_the_limit() -> None:
    """What held just below the limit may not hold again; what gains the most further down does."""
    runs = (run(0.01, 2.0), run(0.1, 0.5), run(0.3, 0.4, long=True), run(0.5, 0.35, long=True), run(1.0, 5.0))
    (finding,) = judge(observed(*runs, low=0.5, high=0.7, limit=0.62)).findings
    assert finding.message.endswith("; lr 0.03 holds")
    assert finding.hint.startswith("lr=0.03, ")
    only = observed(run(0.5, 0.35), run(1.0, 5.0), low=0.5, high=1.0)
    assert judge(only).findings[0].message.endswith("; lr 0.05 holds")


def test_all_groups_are_named_and_the_schedules_peak() -> None:
    runs = {"low": 0.1, "high": 1.0}
    two = observed(*FIRES["ends above the start"].runs, **runs, rates=(0.1, 0.0, 30.0, 0.1))
    message = judge(two).findings[0].message
    assert message.startswith("SGD at lr 0.1 / 30 diverges: ")
    assert message.endswith("; lr 0.01 / 3 holds")
    many = observed(*two.runs, **runs, rates=(0.1, 0.2, 0.3, 0.4))
    assert judge(many).findings[0].message.startswith("SGD at lr 0.1 to 0.4 diverges: ")
    warm = observed(*two.runs, **runs, peak=(20.0, 10))
    message = judge(warm).findings[0].message
    assert message.startswith("SGD at lr 0.1 (2 at the schedule's peak) diverges: ")
    assert message.endswith("; lr 0.01 (0.2 at the schedule's peak) holds")
    late = observed(*two.runs, **runs, peak=(20.0, 1000))
    assert judge(late).findings[0].message.startswith("SGD at lr 0.1 diverges: ")


def test_what_curvature_allows_below_all_rates_that_were_tried_is_named() -> None:
    lost = observed(run(0.1, 3.0), run(1.0, 5.0), low=0.0, high=0.1)
    far = Overshoot(predicted=1e-6, limit=1e-6, low=1e-6, high=2e-6, ratio=1e6, gradients=40)
    (finding,) = judge(lost, overshoot=far).findings
    assert finding.message.endswith("; so it does down to 0.01, and first steps overshoot above 1e-07")
    assert "sign" not in finding.likely
    near = replace(far, limit=0.5)
    assert judge(lost, overshoot=near).findings[0].message.endswith("; no rate down to 0.01 helps")


def test_no_overshoot_at_all_is_told() -> None:
    never = Overshoot(predicted=0.4, limit=math.inf, low=math.inf, high=math.inf, ratio=0.0, gradients=400)
    (finding,) = judge(FIRES["ends above the start"], curvature=curvature(2.5), overshoot=never).findings
    assert "lambda_1 = 50 +- 0.1: first steps do not overshoot at any rate that was tried; " in finding.evidence


def test_no_rate_helps() -> None:
    outcome = judge(observed(run(0.1, 3.0), run(1.0, 5.0), low=0.0, high=0.1))
    assert outcome.findings[0].message.endswith("; no rate down to 0.01 helps")
    assert outcome.findings[0].likely.startswith("not the rate: the sign")
    rising = observed(run(0.1, 3.0), run(1.0, 5.0), low=0.0, high=0.1, schedule="grow", peak=(1e9, 900))
    assert judge(rising).findings[0].likely.startswith("the schedule (grow), whose factor rises to 1e+09; or not the rate: ")


def test_a_loss_that_falls_without_bound_is_looked_at_for_longer() -> None:
    falls = {"rate_observation": observed(run(1.0, -1.7, -2.0, -2.5, -260.0, start=-1.6), run(0.1, -1.7, start=-1.6))}
    rule = DivergingLearningRate()
    assert rule.check(falls).reason == "the loss falls by 258, many times what it was"
    lasts = LongerRun(run=run(1.0, -260.0, -270.0, start=-1.6, long=True))
    assert rule.check({**falls, "rate_longer": lasts}).status == "passed"
    lost = LongerRun(run=run(1.0, -260.0, start=-1.6, stopped="the loss is not finite at step 70", long=True))
    (finding,) = rule.check({**falls, "rate_longer": lost}).findings
    assert finding.message == (
        "SGD at lr 0.1 diverges: the loss is not finite at step 70; before that the loss fell to -260, many times its size, "
        "as one without a lower bound does"
    )
    assert "sign" in finding.likely
    assert "holds" not in finding.message + finding.hint + finding.evidence


def test_a_loss_that_is_far_below_where_a_rate_is_right_holds() -> None:
    density = observed(run(0.1, -3.0, start=1.2), run(1.0, -5.0, start=1.2))
    assert judge(density).status == "passed"
    assert judge(density).reason == ""


@pytest.mark.parametrize(
    ("orders", "status"),
    [("h", "passed"), ("d", "failed"), ("hh", "passed"), ("hdh", "passed"), ("hdd", "failed"), ("dd", "failed"), ("dhh", "passed")],
)
def test_most_orders_of_the_batches_decide(orders: str, status: str) -> None:
    suspect = observed(run(1.0, 2.3, 4.0, 4.0, 4.0), run(0.1, 1.0))
    ends = {"h": run(1.0, 0.4, long=True), "d": run(1.0, 9.0, 9.0, 9.0, long=True)}
    first, *others = (ends[order] for order in orders)
    longer = LongerRun(run=first, reference=run(0.1, 0.4, long=True), again=tuple(others))
    assert DivergingLearningRate().check({"rate_observation": suspect, "rate_longer": longer}).status == status


def curvature(ratio: float) -> Curvature:
    group = GroupCurvature(
        index=0, lr=0.1, optimizer="SGD", lambda_max=20.0 * ratio, lambda_min=0.0, error_bar=0.1, limit=0.1 / ratio
    )
    return Curvature(groups=(group,), ratio=ratio, evaluations=40, products=20, converged=True, vectors=24)


def test_above_the_first_step_limit_alone_is_an_info() -> None:
    outcome = judge(SILENT["learns"], curvature=curvature(2.5))
    assert outcome.status == "passed"
    assert [f.severity for f in outcome.findings] == ["info"]
    assert outcome.findings[0].message == "lr 0.1 is 2.5 times the first-step limit, and training holds"
    assert not judge(SILENT["learns"], curvature=curvature(0.9)).findings


def test_curvature_explains() -> None:
    outcome = judge(FIRES["ends above the start"], curvature=curvature(2.5))
    assert "lambda_1 = 50 +- 0.1: first steps overshoot above lr 0.04 (lr is 2.5 times that)" in outcome.findings[0].evidence


def test_options() -> None:
    measured = FIRES["ends above the start"]
    assert not DivergingLearningRate(worse=5.0, reached=1e-9, rise=9.0).check({"rate_observation": measured}).findings
    with pytest.raises(gg.UsageError, match="GG401 takes worse > 0, got 0"):
        DivergingLearningRate(worse=0)


def test_skipped_without_a_run() -> None:
    assert DivergingLearningRate().check({}).status == "skipped"
    assert judge(observed(low=0.0)).reason == "every learning rate is 0"
    assert judge(observed(run(1.0, 2.0), broken="the loss of batch 3 is not finite before training")).status == "skipped"
