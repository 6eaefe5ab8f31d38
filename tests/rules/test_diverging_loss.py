"""GG402 on loss curves made by hand, with noise."""

from __future__ import annotations

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


def judge(losses: Any, rates: Any = None, objective: Any = "supervised") -> Any:
    rates = np.full(T, 0.1) if rates is None else rates
    steps = tuple(StepFacts(step=i, batch=0, loss=float(x), lr=(float(rates[min(i, T - 1)]),)) for i, x in enumerate(losses))
    empty = np.zeros((len(steps), 0))
    trace = Trace(steps=steps, blocks=(), gradient=empty, weight=empty, update=empty)
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
