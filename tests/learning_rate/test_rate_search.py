"""The search for the training limit on problems whose limit is known: losses by formula, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import Plan, Until
from gradguard.adapters.training_base import StepFacts, Trace
from gradguard.measurements import rate_search
from gradguard.measurements.rate_predictions import Predictions
from gradguard.measurements.rate_runs import shuffled, thrown_away
from gradguard.measurements.rate_search import LONGER, RUNS, RateSearch

STEPS = 20
Path = Callable[[float, int], float]


class Formula:
    """Losses ``path(factor, step)``, 1 before training, 1 without weights; ``moved``: what runs change the weights by."""

    def __init__(self, path: Path, plan: Plan | None = None, start: float = 1.0, moved: float = math.nan) -> None:
        self.path, self.plan, self.start, self.moved = path, plan or Plan(), start, moved
        self.objective = "supervised"
        self.training = SimpleNamespace(batch_count=2, sessions={}, optimizer=SimpleNamespace(lrs=(0.1,)))
        self.asked: list[tuple[float, int]] = []

    def run(self, steps: int, **options: Any) -> Trace:
        """Only the losses before training are asked for."""
        assert steps == 0
        nothing = np.zeros((0, 1))
        return Trace(steps=(), blocks=("w",), gradient=nothing, weight=nothing, update=nothing, loss_start=(self.start,) * 2)

    def attempt(self, steps: int, *, factor: float, batches: Sequence[int], until: Until | None = None, **options: Any) -> Trace:
        """A run by formula, ended as a real one is."""
        self.asked.append((factor, steps))
        facts = []
        stopped = ""
        for step in range(steps):
            loss, index = self.path(factor, step), batches[step % len(batches)]
            stopped = "the loss is not finite" if not math.isfinite(loss) else until(step, index, loss) if until else ""
            facts.append(StepFacts(step=step, batch=index, loss=loss))
            if stopped:
                break
        nothing = np.zeros((0, 1))
        return Trace(
            steps=tuple(facts), blocks=("w",), gradient=nothing, weight=nothing, update=nothing, stopped=stopped,
            movement=np.array([self.moved]),
        )

    def null_losses(self, batches: Sequence[int], **options: Any) -> tuple[float, ...]:
        """Worth nothing."""
        return tuple(1.0 for _ in batches)


def search(path: Path, **options: Any) -> tuple[RateSearch, Formula]:
    problem = Formula(path, **options)
    found = RateSearch(problem, Settings(steps=STEPS))  # type: ignore[arg-type]  # it has what a search uses
    found.explore()
    return found, problem


def limited(limit: float) -> Path:
    """Learns in time 10 / factor, and grows without bound above the limit."""
    return lambda factor, step: math.exp(-0.1 * factor * step) if factor <= limit else 1.0 + 0.5 * step


@pytest.mark.parametrize("limit", [0.003, 0.02, 0.15, 0.7, 1.5, 4.0, 30.0, 200.0, 5e3])
def test_the_bracket_holds_the_limit_and_is_narrow(limit: float) -> None:
    found, problem = search(limited(limit))
    assert found.low <= limit < found.high
    assert found.high / found.low <= 2.0
    assert len(problem.asked) <= RUNS
    assert {steps for _, steps in problem.asked} == {STEPS, LONGER * STEPS}


def test_both_ends_are_seen_in_longer_runs() -> None:
    found, _ = search(limited(4.0))
    assert {found.low, found.high} <= {run.factor for run in found.long}


def test_without_refinement_decades_are_enough() -> None:
    found, problem = search(limited(4.0), plan=Plan(refine=False))
    assert (found.low, found.high) == (1.0, 10.0)
    assert {steps for _, steps in problem.asked} == {STEPS}


def test_what_comes_back_late_holds() -> None:
    def path(factor: float, step: int) -> float:
        if factor > 40.0:
            return 1.0 + 0.5 * step
        late = 2.0 if factor > 8.0 and 2 < step < 60 else 0.0
        return late + math.exp(-0.1 * factor * step)

    found, _ = search(path)
    assert found.low <= 40.0 < found.high
    assert found.low > 8.0


def test_what_diverges_late_does_not_hold() -> None:
    def path(factor: float, step: int) -> float:
        late = 3.0 if factor > 2.0 and step > 60 else 0.0
        return late + (math.exp(-0.1 * factor * step) if factor < 50.0 else 1.0 + step)

    found, _ = search(path)
    assert found.low <= 2.0 < found.high <= 4.0


def test_every_rate_holds() -> None:
    found, problem = search(lambda factor, step: math.exp(-0.01 * factor * step))
    assert found.high == math.inf
    assert len(problem.asked) <= RUNS


def test_no_rate_holds() -> None:
    found, problem = search(lambda factor, step: 1.0 + step)
    assert (found.low, found.high) == (0.0, pytest.approx(1e-4))
    assert len(problem.asked) <= RUNS


@pytest.mark.parametrize("limit", [0.003, 0.03])
def test_rates_that_all_learn_no_more_than_to_guess_are_not_taken_for_ones_that_hold(limit: float) -> None:
    def path(factor: float, step: int) -> float:
        if factor <= limit:
            return math.exp(-200.0 * factor * step)
        return 50.0 if step < 4 else 0.75 + 0.001 * factor

    found, problem = search(path, moved=1.0)
    assert found.low <= limit < found.high
    assert len(problem.asked) <= RUNS


def test_what_a_lower_rate_gains_is_not_looked_for_where_the_rate_gains_most_there_is() -> None:
    _, problem = search(limited(4.0), moved=1.0)
    assert min(factor for factor, _ in problem.asked) == pytest.approx(0.1)


@pytest.mark.parametrize("limit", [0.4, 1.5, 4.0])
def test_where_short_runs_fade_longer_ones_say_how_far_rates_last(limit: float) -> None:
    def path(factor: float, step: int) -> float:
        if factor <= limit:
            return math.exp(-0.3 * factor * step)
        return 0.85 if step < STEPS else 1.0 + 0.5 * step  # gains a little for as long as a short run takes

    found, problem = search(path)
    assert found.low <= limit < found.high
    assert found.high / found.low <= 3.0
    assert max(factor for factor, _ in problem.asked) <= 1000.0


def test_where_short_runs_fade_and_longer_ones_hold_there_is_no_limit() -> None:
    found, problem = search(lambda factor, step: math.exp(-0.3 * factor * step) if factor <= 1.5 else 0.85 if step < STEPS else 0.1)
    assert found.limit == math.inf
    assert found.low == max(factor for factor, _ in problem.asked) >= 100.0


def test_a_plateau_that_rates_of_less_than_a_decade_leave() -> None:
    def path(factor: float, step: int) -> float:
        if factor > 0.5:
            return 1.0 + 0.5 * step
        return math.exp(-step / 30) if 0.02 < factor < 0.06 and step > STEPS else 1.0

    found, problem = search(path, moved=1.0)
    assert (pytest.approx(0.1 / 10**0.5), LONGER * STEPS) in problem.asked
    assert found.limit < 0.2


@pytest.mark.parametrize(("prior", "lowest"), [(math.nan, 0.1), (4.0, 0.1), (2.3, 1e-4)])
def test_coming_down_to_the_guess_is_no_measure_of_what_there_is_to_gain(
    monkeypatch: pytest.MonkeyPatch, prior: float, lowest: float
) -> None:
    def path(factor: float, step: int) -> float:
        return 2.3 if step and factor > 0.005 else 80.0 * math.exp(-200.0 * factor * step)

    predictions = Predictions(kind="cross_entropy", before=80.0, after=2.3, prior=prior)
    monkeypatch.setattr(rate_search, "predictions_of", lambda problem, settings: predictions)
    _, problem = search(path, start=80.0, moved=1.0)
    assert min(factor for factor, _ in problem.asked) == pytest.approx(lowest)


@pytest.mark.parametrize(("count", "steps"), [(1, 5), (3, 9), (7, 20), (64, 50)])
def test_every_pass_has_every_batch(count: int, steps: int) -> None:
    order = shuffled(count, steps, np.random.default_rng(0))
    assert len(order) == steps
    for begin in range(0, steps - count + 1, count):
        assert sorted(order[begin : begin + count]) == list(range(count))
    if count == 7:
        assert order[:7] != order[7:14]


def test_a_loss_that_is_not_finite_before_training_is_no_rates_fault() -> None:
    found, problem = search(limited(4.0), start=math.nan)
    assert found.broken == "the loss of batch 0 is not finite before training"
    assert len(problem.asked) == 1


def test_a_long_run_that_is_lost_ends_early() -> None:
    ends = thrown_away({0: 1.0}, scale=0.5, patience=16)
    steps = [step for step in range(200) if ends(step, 0, 1e9)]
    assert steps[0] == 16
    calm = thrown_away({0: 1.0}, scale=0.5, patience=16)
    assert not any(calm(step, 0, 1e9 if step < 10 else 2.0) for step in range(200))


def test_without_refinement_decades_go_on_where_runs_fade() -> None:
    def path(factor: float, step: int) -> float:
        if factor <= 1.5:
            return math.exp(-0.3 * factor * step)
        return 0.85 if factor < 500 else 1.0 + 0.5 * step

    found, _ = search(path, plan=Plan(refine=False))
    assert (found.low, found.high) == (pytest.approx(100.0), pytest.approx(1000.0))
