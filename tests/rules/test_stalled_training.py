"""GG403 on runs typed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import gradguard as gg
from gradguard.measurements.loop_plan import LoopPlan
from gradguard.measurements.overfit import OneBatch, Overfit
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_predictions import Predictions
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


def predictions(after: float, before: float = 0.7, prior: float = 0.69, kind: str = "cross_entropy") -> Predictions:
    return Predictions(kind=kind, before=before, after=after, prior=prior)


GUESSING = observed(
    run(1.0, 0.68, start=0.7), run(10.0, 0.6, start=0.7), run(100.0, 0.2, start=0.7), low=100.0, predictions=predictions(0.69)
)


def test_still_guessing_where_a_hundredfold_rate_is_far_better() -> None:
    rule = StalledTraining()
    assert rule.check({"rate_observation": GUESSING}).status == "inconclusive"
    longer = LongerRun(run=run(1.0, 0.67, start=0.7), predictions=predictions(0.67))
    outcome = rule.check({"rate_observation": GUESSING, "rate_longer": longer})
    assert outcome.status == "failed"
    assert "100 times that rate holds and gains 0.44" in outcome.findings[0].message
    better = LongerRun(run=run(1.0, 0.6, start=0.7), predictions=predictions(0.6))
    assert rule.check({"rate_observation": GUESSING, "rate_longer": better}).status == "passed"


@pytest.mark.parametrize(
    ("losses", "after", "status"),
    [
        ((0.4, 0.25), 0.25, "passed"),  # rare positives: far above the guess, and on the way to it
        ((0.65, 0.62), 0.62, "passed"),
        ((0.68, 0.679), 0.679, "failed"),  # it does not come nearer
        ((0.3, 0.06), 0.06, "failed"),  # it has come to the guess
        ((0.7, 0.699), 0.699, "failed"),
        ((0.06, 0.0601), 0.0601, "failed"),
    ],
)
def test_predictions_on_their_way_to_the_guess_do_not_stand_still(losses: tuple[float, ...], after: float, status: str) -> None:
    runs = (run(1.0, 0.69, start=0.7), run(10.0, 0.5, start=0.7), run(100.0, 0.03, 0.03, start=0.7))
    rare = Predictions(kind="bce", before=0.7, after=0.69, prior=0.06)
    measured = observed(*runs, low=100.0, worth=0.06, predictions=rare)
    longer = LongerRun(run=run(1.0, *losses, start=0.7), predictions=replace(rare, after=after))
    outcome = StalledTraining().check({"rate_observation": measured, "rate_longer": longer})
    assert outcome.status == status, outcome


def test_ten_times_the_rate_is_a_matter_of_taste() -> None:
    measured = replace(GUESSING, runs=(run(1.0, 0.68, start=0.7), run(10.0, 0.2, start=0.7)))
    assert StalledTraining().check({"rate_observation": measured}).status == "passed"


def test_steps_of_the_rates_own_size_that_change_the_weights_are_no_stall() -> None:
    measured = replace(FIRES["at once"], normalised=True)
    outcome = StalledTraining().check({"rate_observation": measured})
    assert [f.severity for f in outcome.findings] == ["info"]
    own = run(1.0, 2.3, update_ratio=1e-6)
    tiny = replace(measured, runs=(own, run(10.0, 0.1)))
    longer = LongerRun(run=own)
    assert StalledTraining().check({"rate_observation": tiny, "rate_longer": longer}).status == "failed"


def one_batch(own: float, larger: float, prior: float = 0.5, before: float = 0.5) -> Overfit:
    facts = {"before": before, "midway": 0.5, "steps": 200, "prior": prior}
    return Overfit(
        runs=(
            OneBatch(factor=1000.0, lr=100.0, after=larger, data_loss=larger, **facts),
            OneBatch(factor=1.0, lr=0.1, after=own, data_loss=own, **facts),
        )
    )


def test_one_batch_decides_where_no_short_run_learns() -> None:
    measured = observed(run(1.0, 0.5, start=0.5), run(10.0, 0.5, start=0.5), run(100.0, 0.49, start=0.5), low=100.0)
    rule = StalledTraining()
    outcome = rule.check({"rate_observation": measured, "overfit": one_batch(0.4999, 0.25)})
    assert outcome.findings[0].message == (
        "at lr 0.1 one batch is not learnt in 200 steps: loss 0.5 -> 0.4999; 1e+03 times that rate reaches 0.25"
    )
    assert rule.check({"rate_observation": measured, "overfit": one_batch(0.4, 0.25)}).status == "passed"
    assert rule.check({"rate_observation": measured, "overfit": one_batch(0.4999, 0.49)}).status == "passed"
    assert rule.check({"rate_observation": measured, "overfit": one_batch(0.4999, 0.1, math.nan)}).status == "failed"
    assert rule.check({"rate_observation": measured, "overfit": one_batch(0.3, 0.1, math.nan)}).status == "passed"
    for own, status in ((0.79, "failed"), (0.5, "passed")):  # from 0.8 to the guess: on its way
        assert rule.check({"rate_observation": measured, "overfit": one_batch(own, 0.25, before=0.8)}).status == status


def test_a_schedule_that_is_0_at_every_step_is_the_cause() -> None:
    still = observed(run(1.0, 2.3, movement=0.0), peak=(0.0, 0), schedule="LambdaLR")
    (finding,) = StalledTraining().check({"rate_observation": still}).findings
    assert finding.severity == "error"
    assert finding.message == "the schedule (LambdaLR) holds the learning rate at 0 at every step that was looked at"


def test_a_schedule_that_ends_before_anything_is_learnt_is_the_cause() -> None:
    ended = observed(run(1.0, 2.29), run(10.0, 2.28), peak=(1.0, 0), schedule="StepLR")
    plan = LoopPlan(source="StepLR", end=3, flat=run(1.0, 0.5))
    rule = StalledTraining()
    (finding,) = rule.check({"rate_observation": ended, "loop_plan": plan}).findings
    assert finding.severity == "error"
    assert finding.message.startswith("the schedule (StepLR) holds the learning rate at nothing from step 3 on: ")
    learnt = replace(ended, runs=(run(1.0, 2.0), run(10.0, 2.0)))
    nothing = replace(plan, flat=run(1.0, 2.29))
    little = replace(ended, runs=(run(1.0, 2.2), run(10.0, 2.2)))
    assert [f.severity for f in rule.check({"rate_observation": little, "loop_plan": plan}).findings] == ["warning"]
    for measured, other in ((learnt, plan), (ended, nothing), (replace(ended, objective="reinforcement"), plan)):
        assert not rule.check({"rate_observation": measured, "loop_plan": other}).findings


@pytest.mark.parametrize(("clip", "likely"), [(1e-6, "a gradient of norm 0.5 is clipped to 1e-06"), (0.4, "the learning rate is")])
def test_clipping_far_below_the_gradient_is_named(clip: float, likely: str) -> None:
    own = run(1.0, 2.2999, gradient_first=0.5)
    measured = observed(own, run(1e6, 0.1), low=1e6)
    evidence: dict[str, Any] = {"rate_observation": measured, "rate_longer": LongerRun(run=own), "loop_plan": LoopPlan(clip=clip)}
    (finding,) = StalledTraining().check(evidence).findings
    assert finding.severity == "error"
    assert finding.likely.startswith(likely)


def test_a_warm_up_that_never_comes_to_its_end_is_named() -> None:
    rising = observed(run(1.0, 2.2999), run(100.0, 0.1), low=100.0, peak=(1e4, 9999), schedule="LambdaLR")
    (finding,) = judge(rising).findings
    assert finding.severity == "error"
    assert finding.likely == "a warm-up that is far too long: the schedule (LambdaLR) still rises at step 9999"
    (finding,) = judge(replace(rising, peak=(2.0, 10))).findings
    assert finding.likely.startswith("the learning rate is far below")


def test_gains_are_compared_after_as_many_steps() -> None:
    long = run(100.0, 1.2, 0.1)
    long = replace(long, losses=(*long.losses, *(0.1,) * 200), before=(2.3,) * (len(long.losses) + 200))
    assert not judge(observed(run(1.0, 2.0), long, low=100.0)).findings  # 0.19 of 1.9, all that the longer run gains 2.2
    (finding,) = judge(observed(run(1.0, 2.25), long, low=100.0)).findings
    assert finding.severity == "info"
    assert finding.message.endswith("gains 1.9 in 40")


def test_a_rate_so_low_that_no_rate_tried_moves_a_weight() -> None:
    still = {"movement": 1e-12, "update_ratio": 1e-14, "gradient_first": 0.5}
    measured = observed(run(1.0, 0.7, start=0.7, **still), run(1e8, 0.7, start=0.7, **still), low=1e8, predictions=predictions(0.7))
    rule = StalledTraining()
    (finding,) = rule.check({"rate_observation": measured}).findings
    assert finding.severity == "error"
    assert finding.message == "at lr 0.1 no weight moves, nor at 1e+08 times that rate"
    fitted = replace(measured, predictions=predictions(1e-6, 1e-6))
    unknown = replace(measured, predictions=Predictions())
    moved = replace(measured, runs=(measured.runs[0], replace(measured.runs[1], movement=1e-3)))
    no_gradient = replace(measured, runs=tuple(replace(one, gradient_first=0.0) for one in measured.runs))
    one_block = replace(measured, runs=(measured.runs[0], replace(measured.runs[1], farthest=1e-3)))
    for other in (fitted, unknown, moved, no_gradient, one_block):
        assert not rule.check({"rate_observation": other}).findings
