"""GG406 on runs typed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.observing_base import Look
from gradguard.adapters.training_base import ParameterFacts
from gradguard.measurements.long_run import LongRun
from gradguard.rules.no_better_than_prior import NoBetterThanPrior
from tests.rules.health_evidence import FAILS, WORKS, evidence, longer, outputs, passes, run

SHORT = (run(FAILS, 20), passes(loss=2.3))


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        ((*SHORT, longer()), "failed"),
        ((run(WORKS), passes()), "passed"),
        ((*SHORT, longer((2.3, 0.3), 0.3)), "passed"),  # the longer run learns
        ((*SHORT, longer((2.6, 2.3), 2.3)), "passed"),  # not yet, but still falling
        ((*SHORT, longer(movement=np.full(3, 1e-4))), "passed"),  # training has not begun
        (
            (
                run(FAILS, 20),
                passes({"outputs": outputs(prior=float("nan"), kind="")}, {"outputs": outputs(prior=float("nan"), kind="")}),
            ),
            "skipped",
        ),
    ],
)
def test_rows(measured: Any, status: str) -> None:
    assert NoBetterThanPrior().check(evidence(*measured)).status == status


@pytest.mark.parametrize(
    ("losses", "after", "columns", "status"),
    [
        (FAILS, 2.3, {}, "failed"),
        (FAILS, 2.26, {}, "passed"),  # a weak signal, of which something was learnt
        (FAILS, 2.4, {}, "failed"),
        ((2.31, 2.3), 2.4, {}, "passed"),  # slowly on its way to the guess
        ((2.31, 2.3), 2.31, {}, "failed"),
        (FAILS, 2.3, {"steps": 150}, "passed"),  # too early for a verdict
        (FAILS, 2.3, {"movement": np.full(3, 1e-4)}, "passed"),  # nothing moved: GG403
        (FAILS, 2.3, {"movement": None}, "passed"),
        ((2.6, 2.3), 2.3, {}, "passed"),  # still falling
    ],
)
def test_a_watched_loop_is_judged_by_what_it_recorded(
    losses: tuple[float, float], after: float, columns: dict[str, Any], status: str
) -> None:
    made = run(losses, source="watch", loss_middle=(), **columns)
    made = replace(made, trace=replace(made.trace, loss_start=(), loss_end=()))
    outcome = NoBetterThanPrior().check(evidence(made, passes(loss=after)))
    assert (outcome.status, outcome.requests) == (status, ())


def test_a_longer_run_is_asked_for_first() -> None:
    outcome = NoBetterThanPrior().check(evidence(*SHORT))
    assert outcome.status == "passed"
    assert [r.measurement for r in outcome.requests] == ["long_run"]


def test_a_loss_that_falls_while_predictions_get_worse_has_the_wrong_sign() -> None:
    outcome = NoBetterThanPrior().check(evidence(run((-2.3, -50.0), 50), passes(loss=50.0)))
    assert outcome.findings[0].pattern == "ascent"


def test_predictions_that_got_worse_before_the_loss_was_not_finite_have_the_wrong_sign() -> None:
    stopped = replace(run((-2.3, -50.0), 50).trace, stopped="the loss is not finite at step 50")
    for after, found in ((50.0, ["ascent"]), (2.4, [])):
        ran = replace(longer((-2.3, -50.0), after), trace=stopped)
        outcome = NoBetterThanPrior().check(evidence(run((-2.31, -2.32), 20), passes(loss=2.3), ran))
        assert [f.pattern for f in outcome.findings] == found


@pytest.mark.parametrize(
    ("after", "columns", "found"),
    [
        (2.31, {}, ["ascent"]),
        (2.31, {"objective": "adversarial"}, []),
        (2.0, {}, []),  # an optimizer of the user's that climbs
        (2.31, {"source": "watch"}, []),
    ],
)
def test_the_negative_of_the_loss_alone(after: float, columns: dict[str, Any], found: list[str]) -> None:
    looks = passes({"outputs": outputs(2.3, negated=True)}, {"outputs": outputs(after, negated=True)})
    outcome = NoBetterThanPrior().check(evidence(run((-2.3, -2.31), 20, **columns), looks))
    assert [f.pattern for f in outcome.findings] == found


def test_the_negative_of_the_loss_where_something_is_held_fixed() -> None:
    looks = passes({"outputs": outputs(negated=True)}, {"outputs": outputs(negated=True)})
    made = run((-2.3, -2.31), 20)
    fixed = replace(made, parameters=(replace(made.parameters[0], trainable=False, group=None), *made.parameters[1:]))
    assert NoBetterThanPrior().check(evidence(fixed, looks)).status == "passed"


@pytest.mark.parametrize(
    ("columns", "objective", "status"),
    [
        ({"constant_label": 2.0}, "supervised", "failed"),
        ({"constant_label": 2.0, "samples": 16}, "supervised", "passed"),  # one small batch says little
        ({"constant_label": 1.0, "kind": "bce", "width": 1}, "supervised", "failed"),
        ({"constant_label": 0.0, "kind": "bce", "width": 1}, "supervised", "passed"),  # the other class may be rare
        ({"constant_label": 0.0, "kind": "bce", "width": 1, "samples": 640}, "supervised", "failed"),
        ({"constant_label": 1.0, "kind": "bce", "width": 1}, "adversarial", "skipped"),
        ({"constant_label": None}, "supervised", "passed"),
    ],
)
def test_labels_that_are_all_the_same(columns: dict[str, Any], objective: str, status: str) -> None:
    looks = passes({"outputs": outputs(**columns)}, {"outputs": outputs(**columns)})
    assert NoBetterThanPrior().check(evidence(run(WORKS, objective=objective), looks)).status == status


@pytest.mark.parametrize(
    ("middle", "end", "status"),
    [
        (2.3, 2.3, "failed"),
        (2.6, 2.3, "passed"),
        (2.409, 2.4, "passed"),  # a tenth of the way to the guess: slow, and on its way
        (2.401, 2.4, "failed"),
    ],
)
def test_a_penalty_that_falls_is_no_progress_of_the_predictions(middle: float, end: float, status: str) -> None:
    ran = longer((30.0, 5.0), end)
    ran = replace(ran, middle=Look(step=150, outputs=outputs(middle)))
    assert NoBetterThanPrior().check(evidence(*SHORT, ran)).status == status


@pytest.mark.parametrize(
    ("start", "end", "asked"),
    [(2.26, 2.26, ["long_run"]), (3.0, 2.26, []), (3.0, 2.29, ["long_run"])],  # the last came down to the guess, and no further
)
def test_a_loss_that_falls_without_its_predictions_is_run_for_longer(start: float, end: float, asked: list[str]) -> None:
    looks = passes({"outputs": outputs(start)}, {"outputs": outputs(end)})
    outcome = NoBetterThanPrior().check(evidence(run((30.0, 20.0), 20), looks))
    assert [r.measurement for r in outcome.requests] == asked


@pytest.mark.parametrize(("steps", "asked"), [(50, []), (300, ["long_run"])])
def test_a_run_that_was_long_is_not_early(steps: int, asked: list[str]) -> None:
    falling = evidence(run((2.6, 2.26), steps), passes(start={"outputs": outputs(2.6)}, loss=2.26))
    assert [r.measurement for r in NoBetterThanPrior().check(falling).requests] == asked


def test_inputs_that_are_all_the_same_explain_a_guess_that_still_comes_nearer() -> None:
    seen = evidence(*SHORT, longer((2.6, 2.3), 2.3))
    assert NoBetterThanPrior().check(seen).status == "passed"
    longest = seen["long_run"]
    assert isinstance(longest, LongRun)
    assert longest.look is not None
    one = replace(longest, look=replace(longest.look, same_inputs=1))  # a batch of one sample is the same as itself
    assert "are the same" not in NoBetterThanPrior().check({**seen, "long_run": one}).reason
    same = replace(longest, look=replace(longest.look, same_inputs=512))
    (finding,) = NoBetterThanPrior().check({**seen, "long_run": same}).findings
    assert (finding.severity, finding.pattern) == ("error", "same input")
    assert "all 512 samples that the model is given are the same" in finding.evidence


@pytest.mark.parametrize(
    ("loss", "told", "untold", "status"),
    [
        (2.3, 0.0, True, "failed"),  # it moves, and says nothing, nor at ten times the rate
        (2.3, 0.0, False, "passed"),  # at ten times the rate it learns: a matter of time
        (2.31, 0.001, True, "failed"),
    ],
)
def test_predictions_that_say_nothing_of_their_labels(loss: float, told: float, untold: bool, status: str) -> None:
    long = longer((2.6, loss), loss)
    assert long.look is not None
    long = replace(long, untold=untold, look=replace(long.look, outputs=outputs(loss, told=told)))
    assert NoBetterThanPrior().check(evidence(*SHORT, long)).status == status


@pytest.mark.parametrize(
    ("loss", "told", "within", "status"),
    [
        (2.24, 0.1, 0.3, "passed"),
        (2.24, 0.001, 0.3, "failed"),
        (2.299, 0.1, 0.3, "failed"),
        (2.24, 0.1, 1e-7, "failed"),  # what is the same for a batch tells of the batch, not of its samples
    ],
)
def test_a_weak_signal_that_was_found_is_no_guess(loss: float, told: float, within: float, status: str) -> None:
    long = longer((loss + 1e-4, loss), loss)
    assert long.look is not None
    long = replace(long, look=replace(long.look, outputs=outputs(loss, told=told, within=within)))
    assert NoBetterThanPrior().check(evidence(*SHORT, long)).status == status


@pytest.mark.parametrize(
    ("size", "spread", "loss", "same", "status"),
    [
        (10, 0.0, 2.305, 0, "passed"),
        (12, 0.0, 2.305, 0, "failed"),  # a layer whose input was lost
        (10, 0.3, 2.305, 0, "failed"),  # outputs differ: labels that do not belong to their inputs
        (10, 0.0, 2.5, 0, "failed"),  # not the best constant
        (10, 0.0, 2.305, 128, "failed"),  # a blank input
    ],
)
def test_a_model_that_can_only_be_a_constant(size: int, spread: float, loss: float, same: int, status: str) -> None:
    weights = (ParameterFacts(name="bias", shape=(size,), dtype="float32", group=0),)
    ran = replace(longer(), look=Look(step=300, outputs=outputs(loss, spread=spread), same_inputs=same))
    assert NoBetterThanPrior().check(evidence(run(FAILS, 20, parameters=weights), passes(loss=2.3), ran)).status == status


class Intercept(nn.Module):
    """So many outputs of its own weights alone, or a layer that is given zeros."""

    def __init__(self, outputs: int, lost: bool) -> None:
        super().__init__()
        self.weights, self.layer = nn.Parameter(torch.zeros(outputs)), nn.Linear(4, outputs) if lost else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(0 * x) if self.layer is not None else self.weights.expand(len(x), -1)


@pytest.mark.parametrize("kind", ["mse", "cross_entropy", "bce"])
@pytest.mark.parametrize("lost", [False, True])
def test_an_intercept_alone(kind: str, lost: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, few = torch.randn(256, 4, generator=generator), torch.rand(256, 3, generator=generator)
    labels = {"mse": few, "cross_entropy": (few[:, 0] > 0.7).long() + (few[:, 1] > 0.5).long(), "bce": (few > 0.7).float()}[kind]
    loss = {
        "mse": functional.mse_loss,
        "cross_entropy": functional.cross_entropy,
        "bce": functional.binary_cross_entropy_with_logits,
    }[kind]
    model = Intercept(3, lost)
    report = gg.check_training(
        model,
        [(x[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)],
        loss=lambda m, b: loss(m(b[0]), b[1]),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.05),
        select=("GG204", "GG406"),
    )
    assert {f.code for f in report.findings} == ({"GG204", "GG406"} if lost else set())


@pytest.mark.parametrize(
    ("act", "optimizer", "rate"),
    [(nn.ELU, torch.optim.RMSprop, 5e-4), (nn.Tanh, torch.optim.SGD, 0.01), (nn.GELU, torch.optim.AdamW, 1e-3)],
)
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("random", [False, True])
def test_predictions_that_first_come_down_to_the_guess(act: Any, optimizer: Any, rate: float, kind: str, random: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 16, generator=generator)
    scores = x @ torch.randn(16, 5, generator=generator)
    labels = scores.argmax(1) if kind == "cross_entropy" else (scores[:, :1] - scores[:, :1].mean()) / scores[:, :1].std()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 5 if kind == "cross_entropy" else 1))
    nn.init.normal_(model[-1].weight)  # far above the guess at first

    def loss(m: Any, b: Any) -> torch.Tensor:
        y = b[1][torch.randperm(len(b[1]))] if random else b[1]
        return functional.cross_entropy(m(b[0]), y) if kind == "cross_entropy" else functional.mse_loss(m(b[0]), y)

    report = gg.check_training(
        model,
        [(x[i : i + 64], labels[i : i + 64]) for i in range(0, 1024, 64)],
        loss=loss,
        optimizer=optimizer(model.parameters(), lr=rate),
        select="GG406",
    )
    assert [f.code for f in report.errors] == (["GG406"] if random else [])
