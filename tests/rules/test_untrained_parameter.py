"""GG303 on runs typed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradguard.adapters.idle_base import IdleOptimizer
from gradguard.adapters.training_base import OptimizerFacts
from gradguard.measurements.dependence import Dependence
from gradguard.measurements.training_run import NeverStepped
from gradguard.rules.untrained_parameter import UntrainedParameter
from tests.rules.health_evidence import BLOCKS, FAILS, evidence, parameters, passes, run, severities


def gradient(first: float, steps: int = 300) -> Any:
    table = np.ones((steps, 3))
    table[:, 0] = first
    return table


NONE = gradient(np.nan)
DEPENDS, INDEPENDENT = Dependence(changes={"fc1.weight": 0.1}), Dependence(changes={"fc1.weight": 0.0})


@pytest.mark.parametrize(
    ("columns", "tried", "expected"),
    [
        ({"gradient": NONE}, DEPENDS, ["error"]),  # a cut
        ({"gradient": gradient(0.0)}, DEPENDS, ["error"]),  # an operation without derivative
        ({"gradient": NONE}, INDEPENDENT, ["warning"]),  # an output that this loss does not use
        (
            {"gradient": NONE, "parameters": (*parameters(BLOCKS[:1], group=None), *parameters(BLOCKS[1:]))},
            DEPENDS,
            ["warning"],
        ),  # a target network
        ({"gradient": NONE, "objective": "adversarial"}, DEPENDS, ["warning"]),  # fc2 has the same shapes: an average, a target
        (
            {
                "gradient": NONE,
                "objective": "reinforcement",
                "parameters": (*parameters(BLOCKS[:1], shape=(8, 4)), *parameters(BLOCKS[1:])),
            },
            DEPENDS,
            ["error"],
        ),  # no other module has these shapes: it is no copy of one that is trained
        (
            {"gradient": NONE, "parameters": (*parameters(BLOCKS[:1], shape=(8,)), *parameters(BLOCKS[1:]))},
            DEPENDS,
            [],
        ),  # a bias alone
        ({"gradient": gradient(0.0, 5), "steps": 5}, DEPENDS, []),  # exact zeros of the first steps are normal
        ({}, None, []),
    ],
)
def test_modules(columns: dict[str, Any], tried: Any, expected: list[str]) -> None:
    measured = evidence(run(**columns), passes(), *([tried] if tried is not None else []))
    assert severities(UntrainedParameter().check(measured)) == expected


@pytest.mark.parametrize(
    ("columns", "expected", "text"),
    [
        (
            {"optimizer": OptimizerFacts(name="SGD", foreign=3), "parameters": parameters(group=None)},
            ["error"],
            "none of this one",
        ),
        (
            {
                "optimizer": OptimizerFacts(name="SGD", foreign=1, owned=2),
                "parameters": (*parameters(BLOCKS[:2]), *parameters(BLOCKS[2:], group=None)),
            },
            ["error"],
            "missing",
        ),
        ({"optimizer": OptimizerFacts(name="SGD", foreign=1, owned=3)}, [], ""),  # a loss with parameters of its own
        ({"parameters": parameters(trainable=False)}, ["error"], "frozen"),
        (
            {
                "optimizer": OptimizerFacts(name="Adam, Adam", owned=4, same=1),
                "parameters": (*parameters(BLOCKS[:2]), *parameters(BLOCKS[2:], group=None)),
            },
            ["error"],
            "two optimizers hold the same",
        ),
        ({"optimizer": OptimizerFacts(name="Adam, Adam", owned=6, same=1)}, [], ""),
        ({"optimizer": OptimizerFacts(name="Adam", foreign=1, replaced=("fc3.weight",))}, ["error"], "of the same shapes as fc3.weight"),
        (
            {"parameters": (*parameters(BLOCKS[:2]), *parameters(BLOCKS[2:], group=None))},
            ["warning"],
            "in no optimizer",
        ),
        ({"gradient": np.full((300, 3), np.nan)}, ["error"], "no graph"),
    ],
)
def test_optimizers(columns: dict[str, Any], expected: list[str], text: str) -> None:
    outcome = UntrainedParameter().check(evidence(run(**columns), passes(), Dependence(changes={})))
    found = [f for f in outcome.findings if f.pattern in ("optimizer", "not in the optimizer")]
    assert [f.severity for f in found] == expected
    assert all(text in f.message for f in found)


@pytest.mark.parametrize(
    ("table", "losses", "expected"),
    [
        (np.zeros((300, 3)), FAILS, ["error"]),  # zero_grad between backward and step
        (np.zeros((300, 3)), (0.0, 0.0), []),  # a hinge loss that is satisfied
        (np.zeros((5, 3)), FAILS, []),
        (gradient(0.0), FAILS, []),
    ],
)
def test_gradients_that_are_all_zero(table: Any, losses: tuple[float, float], expected: list[str]) -> None:
    outcome = UntrainedParameter().check(evidence(run(losses, steps=len(table), gradient=table, source="watch"), passes()))
    assert severities(outcome) == expected


@pytest.mark.parametrize(("losses", "status"), [(80, "failed"), (10, "skipped"), (0, "skipped")])
def test_a_loop_that_never_steps(losses: int, status: str) -> None:
    never = NeverStepped(wanted="training_run", reason="no optimizer step was seen", losses=losses)
    assert UntrainedParameter().check({"training_run": never, "passes": passes()}).status == status


def test_tensors_that_are_no_parameters() -> None:
    watched = run()
    watched = replace(watched, trace=replace(watched.trace, stray=("layers[0].weight",)))
    outcome = UntrainedParameter().check(evidence(watched, passes()))
    assert severities(outcome) == ["error"]
    assert "layers[0].weight" in outcome.findings[0].message


def test_left_out_of_the_optimizer_is_an_error_where_training_fails() -> None:
    columns = {"parameters": (*parameters(BLOCKS[:2]), *parameters(BLOCKS[2:], group=None))}
    assert severities(UntrainedParameter().check(evidence(run(FAILS, **columns), passes(loss=2.3)))) == ["error"]


def test_what_the_loss_depends_on_is_asked_for() -> None:
    outcome = UntrainedParameter().check(evidence(run(gradient=NONE), passes()))
    assert [(r.measurement, r.about) for r in outcome.requests] == [("dependence", ("fc1.weight",))]


def test_a_bias_before_a_normalisation_is_named_and_is_no_finding() -> None:
    blocks = ("conv.weight", "conv.bias", "fc.weight")
    table = np.ones((300, 3))
    table[:, 1] = 1e-8
    facts = (*parameters(blocks[:1]), *parameters(blocks[1:2], shape=(8,)), *parameters(blocks[2:]))
    outcome = UntrainedParameter().check(evidence(run(gradient=table, blocks=blocks, parameters=facts)))
    assert outcome.findings == ()
    assert outcome.reason.endswith("makes it: conv.bias")


def idle(arrived: int = 30) -> IdleOptimizer:
    """The first of two optimizers, which holds the first two blocks."""
    return IdleOptimizer(kind="Adam", place=1, total=2, blocks=BLOCKS[:2], looks=30, arrived=arrived)


@pytest.mark.parametrize(
    ("steps", "after", "objective", "arrived", "expected"),
    [
        (150, 2.3, "supervised", 30, ["error"]),  # half of the model stands still, and nothing was learnt
        (150, 0.3, "supervised", 30, ["warning"]),  # the others learn: its stage may come later
        (60, 2.3, "supervised", 30, ["warning"]),
        (10, 2.3, "supervised", 30, []),
        (150, 2.3, "adversarial", 30, ["warning"]),  # the other side of a game may be trained first
    ],
)
def test_an_optimizer_that_never_steps(steps: int, after: float, objective: str, arrived: int, expected: list[str]) -> None:
    table = np.ones((steps, 3))
    table[:, :2] = np.nan  # of the steps of the other optimizer
    measured = run((2.3, after), steps=steps, gradient=table, source="watch", objective=objective, idle=(idle(arrived),))
    outcome = UntrainedParameter().check(evidence(measured, passes(loss=after)))
    assert severities(outcome) == expected
    assert all("optimizer 1 of 2 (Adam) never stepped" in f.message for f in outcome.findings)


def test_an_optimizer_without_gradients_has_nothing_to_step_by() -> None:
    table = np.ones((150, 3))
    table[:, :2] = np.nan
    measured = run(steps=150, gradient=table, source="watch", idle=(idle(arrived=0),))
    outcome = UntrainedParameter().check(evidence(measured, passes(loss=0.3)))
    assert [f.message for f in outcome.findings] == [f"fc{i}: called, but the loss does not depend on it" for i in (1, 2)]
