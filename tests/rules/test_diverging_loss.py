"""GG402 on loss curves made by hand, with noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.training_base import OptimizerFacts, StepFacts, Trace
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.diverging_loss import DivergingLoss

T = 200
TIME = np.arange(T)
NOISE = np.random.default_rng(0).standard_normal(T)
FALL = 0.3 + 2.0 * np.exp(-TIME / 40)


def judge(losses: Any, rates: Any = None, objective: Any = "supervised", *, length: float = math.nan, moved: float = 0.1) -> Any:
    """``length`` of the first step where it was measured, with gradients of norm 1; ``moved``: relative to the start."""
    rates = np.full(T, 0.1) if rates is None else rates
    steps = tuple(
        StepFacts(step=i, batch=0, loss=float(x), lr=(float(rates[min(i, T - 1)]),), grad_norm=1.0) for i, x in enumerate(losses)
    )
    empty = np.full((len(steps), 1), math.nan)
    update = empty.copy()
    update[0] = length
    trace = Trace(steps=steps, blocks=("w",), gradient=empty, weight=empty, update=update, movement=np.array([moved]))
    run = TrainingRun(
        trace=trace, parameters=(), optimizer=OptimizerFacts(name="SGD", lrs=(0.1,)), source="watch", objective=objective
    )
    return DivergingLoss().check({"training_run": run})


def spike(at: int, height: float, length: float) -> Any:
    return np.where(at <= TIME, height * np.exp(-(TIME - at) / length), 0.0)


FIRES = {
    "grows": 2.3 + 0.05 * TIME + 0.1 * NOISE,
    "grows from a negative loss": -5.0 + 0.1 * TIME,
    "falls, then grows": FALL + np.where(TIME > 100, 0.1 * (TIME - 100), 0.0),
    "a step up that stays": FALL + np.where(TIME > 120, 1.9, 0.0) + 0.05 * NOISE,
    "not finite at the end": np.r_[FALL[:150], np.full(50, np.nan)],
    "infinite": np.r_[FALL[:197], np.inf, np.inf, np.inf],
    "a leap in the first step": np.where(TIME < 1, 2.3, 3000.0 + 600.0 * NOISE),
    "a leap after three steps": np.where(TIME < 3, 2.3, 3000.0 + 600.0 * NOISE),
    "twenty steps": (2.3 * 1.3**TIME)[:20],
    "back to the start after a descent": FALL + np.where(TIME >= 100, 2.0, 0.0) + spike(100, 15.0, 8.0) + 0.05 * NOISE,
    "grows wildly": 1.0 + 1.05**TIME * NOISE**2,
}
SILENT = {
    "falls": FALL + 0.05 * NOISE,
    "falls in much noise": FALL + 0.5 * NOISE,
    "flat and noisy": 2.3 + 0.3 * NOISE,
    "negative": FALL - 5.0,
    "a spike that comes back": FALL + spike(100, 20.0, 5.0),
    "catapult": FALL + spike(1, 30.0, 3.0),
    "converged": 1e-13 * np.exp(-TIME / 50) + 1e-15 * NOISE,
    "converged, then a fresh optimizer": 0.01 + spike(1, 0.2, 20.0) + 0.003 * NOISE,
    "a leap that is falling": np.where(TIME < 1, 2.3, 300.0 + 3000.0 * np.exp(-TIME / 60)),
    "one easy batch first": np.where(TIME < 1, 0.1, 2.3 + 0.3 * NOISE),
    "a spike that goes down by a power law": FALL + np.where(TIME >= 60, 20.0 / (1.0 + np.abs(TIME - 60) / 3.0), 0.0),
    "slow spike": FALL + spike(80, 3.0, 25.0),
    "skipped step of loss scaling": np.where(TIME == 50, np.nan, FALL),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    assert judge(FIRES[name]).status == "failed"


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    outcome = judge(SILENT[name])
    assert outcome.status == "passed"
    assert all(f.severity == "warning" for f in outcome.findings)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_never_fires(seed: int) -> None:
    generator = np.random.default_rng(seed)
    assert not judge(2.3 + generator.standard_normal(T)).findings
    assert not judge(2.3 + generator.standard_t(3, T)[:25]).findings


def test_a_restart_explains_a_rise() -> None:
    rates = np.where(TIME < 150, 0.1 * np.cos(TIME / 150 * np.pi / 2) + 1e-3, 0.1)
    losses = FALL + np.where(TIME >= 150, 1.6, 0.0)
    assert judge(losses, rates).status == "passed"
    assert judge(losses).status == "failed"


@pytest.mark.parametrize(("rate", "lost", "status"), [(100.0, 2.0, "failed"), (100.0, 1.4, "passed"), (0.14, 2.0, "passed")])
def test_a_rate_above_all_before_may_not_lose_the_whole_descent(rate: float, lost: float, status: str) -> None:
    rates = np.where(TIME < 150, 0.1, rate)
    rates[120:150] = 0.05
    outcome = judge(FALL + np.where(TIME >= 150, lost, 0.0) + 0.02 * NOISE, rates)
    assert outcome.status == status
    if status == "failed":
        assert outcome.findings[0].likely == "the learning rate, which rose to 1e+03 times the largest before"


@pytest.mark.parametrize("before", [1, 2, 3, 5, 10, 20])
def test_a_step_that_explains_the_rise_may_not_raise_the_loss_for_good(before: int) -> None:
    losses = np.where(before <= TIME, 17.0, 4.0) + 0.3 * NOISE
    outcome = judge(losses, length=20.0)
    assert outcome.status == "failed"
    assert f" at step {before - 1} to " in outcome.findings[0].message
    if before < 5:
        assert judge(losses, length=5.0).status == "passed"  # too short for the rise: the first batches were easy
        assert judge(losses).status == "passed"


def test_the_length_of_a_step_goes_with_its_rate() -> None:
    losses = np.where(TIME < 3, 4.0, 17.0) + 0.3 * NOISE
    rates = np.where(TIME == 2, 4.0, 0.1)
    assert judge(losses, rates, length=0.5).status == "failed"
    assert judge(losses, np.where(TIME == 1, 4.0, 0.1), length=0.5).status == "passed"


THROWN = {"length": 1000.0, "moved": 5.0}
LEAPS = spike(1, 300.0, 4.0)


def test_a_leap_that_comes_back_to_the_guess_with_other_weights() -> None:
    outcome = judge(2.3 + LEAPS + 0.05 * NOISE, **THROWN)
    assert outcome.status == "failed"
    assert outcome.findings[0].evidence.endswith("it gains nothing, and the weights are other ones")
    assert judge(2.3 + LEAPS + 0.05 * NOISE, length=1000.0, moved=0.5).status == "passed"  # as of a converged net
    assert judge((2.3 + LEAPS + 0.05 * NOISE)[:60], **THROWN).findings[0].severity == "warning"
    assert not judge(2.0 * np.exp(-TIME / 60) + 0.3 + LEAPS + 0.05 * NOISE, **THROWN).findings  # a catapult


@pytest.mark.parametrize("end", [0.0, -1.0])
def test_a_leap_whose_end_is_exactly_flat(end: float) -> None:
    assert judge(np.where(TIME < 1, 1.0, np.where(TIME < 20, 1e6, end)), **THROWN).status == "passed"
    assert judge(np.where(TIME < 1, end, np.where(TIME < 20, 1e6, end)), **THROWN).status in ("passed", "failed")


def test_in_few_steps_what_falls_from_a_leap_is_coming_back() -> None:
    losses = np.r_[1.0, 4e4, 1e4, 9e3, 6e3, 8e3, 5e3, 7e3, 4e3, 3e3, 2500, 2e3, 1900, 1500, 1200, 1100, 1e3, 960, 990, 940, 930, 920, 900, 870, 850]
    assert judge(losses).status == "passed"


def test_a_leap_above_the_start_is_a_warning_while_it_falls() -> None:
    outcome = judge(3.0 + spike(1, 300.0, 60.0) * (TIME > 0) + 0.05 * NOISE - 0.5 * (TIME < 1), **THROWN)
    assert [f.severity for f in outcome.findings] == ["warning"]
    assert "falls still" in outcome.findings[0].evidence


@pytest.mark.parametrize("seed", range(20))
def test_a_low_first_loss_of_noisy_batches_is_no_start(seed: int) -> None:
    losses = np.random.default_rng(seed).chisquare(1, T)  # batches of one
    losses[0] = 0.04
    losses[1:4] += 50.0
    assert judge(losses, **THROWN).status == "passed"


@pytest.mark.parametrize("objective", ["adversarial", "reinforcement", "metric"])
def test_objectives_that_do_not_fall(objective: str) -> None:
    assert judge(FIRES["grows"], objective=objective).status == "passed"
    assert judge(FIRES["infinite"], objective=objective).status == "failed"


def test_messages() -> None:
    assert judge(FIRES["not finite at the end"]).findings[0].message == "the loss is not finite at step 150, and in 49 more steps"
    assert "above 2.5" in judge(FIRES["grows"]).findings[0].message
    assert "and stays at" in judge(FIRES["a step up that stays"]).findings[0].message


def test_without_losses_it_is_skipped() -> None:
    outcome = judge(np.full(20, np.nan))
    assert outcome.status == "skipped"
    assert outcome.reason == "no loss was recorded: watch.record(loss=...)"


def test_options() -> None:
    with pytest.raises(gg.UsageError, match="GG402 takes descent > 0"):
        DivergingLoss(descent=0)
