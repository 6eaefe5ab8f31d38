"""GG403 of a watched loop, judged on rates, losses and weights typed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.stalled_training import StalledTraining
from tests.rules.health_evidence import evidence, outputs, passes, run, severities

NOTHING, SEVERAL = (2.3, 2.3), np.array([3e-4, 4e-4, 5e-4])


def watched(losses: tuple[float, float] = NOTHING, steps: int = 300, rates: Any = None, **columns: Any) -> TrainingRun:
    """A loop: no losses of the same batches are known, and ``rates`` (T,) are those of its one group."""
    made = run(losses, steps=steps, source="watch", loss_middle=(), **columns)
    facts = made.trace.steps
    if rates is not None:
        facts = tuple(replace(s, lr=(float(rate),)) for s, rate in zip(facts, rates, strict=True))
    return replace(made, trace=replace(made.trace, steps=facts, loss_start=(), loss_end=()))


def judged(made: TrainingRun, after: float = 2.31) -> list[str]:
    """The severities, where the predictions' loss is ``after`` at the end and guessing gives 2.3."""
    return severities(StalledTraining().check(evidence(made, passes(loss=after))))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.1 * 0.1**i for i in range(40)], ["error"]),
        ([0.0] * 40, ["error"]),
        ([0.0], []),  # the first step of a warm-up
        ([0.1 * (1 + np.cos(np.pi * i / 39)) for i in range(40)], []),
        ([0.1 * i / 39 for i in range(40)], []),
        ([0.1] * 25 + [0.0] * 15, []),
    ],
)
def test_rates_that_ran_out(rates: list[float], expected: list[str]) -> None:
    assert judged(watched(steps=len(rates), rates=rates)) == expected


@pytest.mark.parametrize(
    ("movement", "after", "columns", "expected"),
    [
        (SEVERAL, 2.31, {}, ["error"]),
        (10 * SEVERAL, 2.31, {}, []),  # they moved: GG406
        (SEVERAL, 2.0, {}, []),  # a converged model
        (SEVERAL, 2.26, {}, []),  # of a weak signal
        (SEVERAL, 2.31, {"steps": 150}, []),
        (SEVERAL, 2.31, {"losses": (2.5, 2.3)}, []),  # still falling
        (SEVERAL, 2.31, {"rates": np.linspace(0, 0.1, 300)}, []),  # a warm-up
        (SEVERAL, 2.31, {"objective": "adversarial"}, []),
        (SEVERAL, 2.31, {"stopped": "not finite at step 299"}, []),
        (np.full(3, np.nan), 2.31, {}, []),
        (None, 2.31, {}, []),
    ],
)
def test_weights_that_hardly_move_and_learn_nothing(
    movement: Any, after: float, columns: dict[str, Any], expected: list[str]
) -> None:
    assert judged(watched(movement=movement, **columns), after) == expected


def test_a_copy_is_not_judged_by_its_weights() -> None:
    outcome = StalledTraining().check(evidence(run(NOTHING, movement=SEVERAL), passes(loss=2.31)))
    assert (outcome.status, outcome.findings) == ("skipped", ())


@pytest.mark.parametrize(
    ("movement", "steps", "columns", "expected"),
    [
        (np.zeros(3), 150, {}, ["error"]),
        (np.full(3, 5e-6), 150, {}, ["error"]),
        (np.array([0.0, 0.0, 1e-3]), 150, {}, []),  # one block moves
        (np.zeros(3), 60, {}, []),
        (np.zeros(3), 150, {"gradient": np.zeros((150, 3))}, []),  # there was nothing to step by
    ],
)
@pytest.mark.parametrize("labels", [True, False])
def test_weights_that_are_where_they_were(
    movement: Any, steps: int, columns: dict[str, Any], expected: list[str], labels: bool
) -> None:
    made = watched(steps=steps, movement=movement, **columns)
    known = outputs(2.31) if labels else outputs(float("nan"), kind="", prior=float("nan"))
    end = {"outputs": known}
    assert severities(StalledTraining().check(evidence(made, passes(end, end)))) == expected


def test_without_labels_a_flat_loss_is_a_converged_model() -> None:
    made = watched(steps=150, movement=np.zeros(3))
    flat = tuple(replace(s, grad_norm=1e-4) for s in made.trace.steps)
    nothing = outputs(float("nan"), kind="", prior=float("nan"))
    made = replace(made, trace=replace(made.trace, steps=flat))
    assert severities(StalledTraining().check(evidence(made, passes({"outputs": nothing}, {"outputs": nothing})))) == []


@pytest.mark.parametrize(
    ("rates", "ratio", "after", "expected"),
    [
        ([0.1] + [1e-4] * 299, 1e-6, 2.31, ["error"]),  # 150 steps of a millionth each
        ([0.1] + [1e-4] * 299, 1e-3, 2.31, []),  # they still go a long way
        ([0.1] + [1e-2] * 299, 1e-6, 2.31, []),
        ([0.1] + [1e-4] * 299, 1e-6, 1.0, []),  # learnt before it fell
    ],
)
def test_a_rate_that_fell_before_anything_was_learnt(
    rates: list[float], ratio: float, after: float, expected: list[str]
) -> None:
    made = watched(rates=rates)  # every block moved by its own size
    steps = tuple(replace(s, update_ratio=ratio) for s in made.trace.steps)
    assert judged(replace(made, trace=replace(made.trace, steps=steps)), after) == expected
