"""GG403 in a watched loop, where no other rate can be tried: what its rates and its weights did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import progress
from gradguard.measurements.training_run import TrainingRun

__all__ = ["HARDLY", "Standstill", "standstill"]

STEPS = 20
"""Steps after which a rate of 0 is no warm-up that begins with it."""
RAN_OUT, FELL = 1e-6, 1e-2
"""Rates below the first part of the largest one are 0 for all that can be told; below the second they are far below it."""
HARDLY = 2e-3
"""The median over blocks of the relative distance from the start, from which on the weights moved: that is GG406."""
ROUNDING, LEAST = 1e-5, 100
"""A relative distance that is no more than rounding makes in so many steps, and how many steps there must be."""
STEEP = 1e-2
"""The gradient's norm times the weights' over the loss: a gradient that is less belongs to a model that has converged."""


@dataclass(frozen=True)
class Standstill:
    """What stands still, in words: the message, its evidence, and what is likely behind it."""

    message: str
    evidence: str
    likely: str
    hint: str


def standstill(evidence: Evidence) -> Standstill | None:
    """Why nothing moves in a watched loop; None where something does, or where that is not known."""
    run = the(evidence, TrainingRun)
    if run is None or run.source != "watch":
        return None
    count = len(run.trace.steps)
    out = ran_out(run)
    if count >= STEPS and out > 0.5 * count:
        return Standstill(
            f"the learning rate is 0, or less than a millionth of what it was, on {out} of {count} steps",
            "",
            "a schedule stepped too often, or a rate of 0",
            "step the scheduler once per epoch or per step, as its horizon was counted",
        )
    if run.objective != "supervised" or run.trace.stopped or rising(run):
        return None
    return _unmoved(evidence, run) or _guessing(evidence, run)


def _unmoved(evidence: Evidence, run: TrainingRun) -> Standstill | None:
    """Every weight is where it was, although gradients came, and the loss says that there is something to learn."""
    farthest = moved(run, np.max)
    if len(run.trace.steps) < LEAST or not farthest <= ROUNDING or not _learnable(evidence, run):
        return None
    return Standstill(
        f"the weights are where they were {run.asked} steps before: the farthest moved by {farthest:.1g} of itself",
        progress(evidence).text,
        "a rate or a clip that is far too small, or weights that something puts back after each step",
        "look at what happens to the gradient and to the weights around optimizer.step()",
    )


def _learnable(evidence: Evidence, run: TrainingRun) -> bool:
    """The predictions are no better than guessing; or, where labels are not known, the loss is steep in the weights."""
    seen = progress(evidence)
    if math.isfinite(seen.prior):
        return seen.guesses
    weight = np.sqrt(np.nansum(run.trace.weight**2, axis=1))
    slopes = [
        step.grad_norm * size / abs(step.loss)
        for step, size in zip(run.trace.steps, weight, strict=True)
        if math.isfinite(step.grad_norm) and math.isfinite(step.loss) and step.loss
    ]
    return bool(slopes) and float(np.median(slopes)) > STEEP


def _guessing(evidence: Evidence, run: TrainingRun) -> Standstill | None:
    """No better than guessing, not getting better as far as can be seen, and weights that hardly move, or no longer do."""
    seen, passes = progress(evidence), the(evidence, Passes)
    if passes is None or not (seen.final and seen.guesses) or seen.visible:
        return None
    text = f"no better than guessing: loss {seen.data_loss:.4g}, guessing the labels' distribution gives {seen.prior:.4g}"
    distance, late = moved(run, np.median), late_path(run)
    if distance < HARDLY:
        return Standstill(
            f"in {run.asked} steps the weights moved by {distance:.1g} of themselves, and nothing was learnt",
            f"{text}; {seen.text}",
            "a learning rate or a clip that is far too small, or weights that are put back",
            "a larger rate: check_learning_rate names one; look at the norm to which the gradient is clipped",
        )
    fell = late_rate(run)
    if fell <= FELL and late < HARDLY:
        return Standstill(
            f"the learning rate fell to {fell:.1g} of what it was before anything was learnt; now the weights stand still",
            f"{text}; {seen.text}; in the second half they moved by {late:.1g} of themselves at most",
            "a schedule that falls too fast, or is stepped too often",
            "step the scheduler once per epoch or per step, as its horizon was counted",
        )
    return None


def rates(run: TrainingRun) -> NDArray[np.float64]:
    """The rates of the groups that every optimizer has, (T, G)."""
    width = min((len(s.lr) for s in run.trace.steps), default=0)
    return np.array([s.lr[:width] for s in run.trace.steps], dtype=np.float64)


def ran_out(run: TrainingRun) -> int:
    """Steps at which the rate of every group is 0, or a millionth of the largest that it had."""
    found = rates(run)
    return int((found <= RAN_OUT * found.max(axis=0)).all(axis=1).sum()) if found.size else 0


def rising(run: TrainingRun) -> bool:
    """Whether some rate is higher at the end than about the middle: a warm-up that is under way."""
    found = rates(run)
    tenth = max(1, len(found) // 10)
    middle = found[len(found) // 2 : len(found) // 2 + tenth]
    return bool(found.size) and bool((found[-tenth:].max(axis=0) > 1.01 * middle.max(axis=0)).any())


def late_rate(run: TrainingRun) -> float:
    """The largest rate of the second half over the largest of all, of the group where that is most."""
    found = rates(run)
    if not found.size:
        return math.nan
    largest = found.max(axis=0)
    late = found[len(found) // 2 :].max(axis=0)
    return float(np.max(np.where(largest > 0, late / np.where(largest > 0, largest, 1.0), 0.0)))


def moved(run: TrainingRun, of: Callable[[NDArray[np.float64]], Any]) -> float:
    """The median or the largest relative distance over blocks with a gradient; NaN where it was not measured."""
    movement, gradient = run.trace.movement, run.trace.gradient
    if movement is None or not len(gradient):
        return math.nan
    with_gradient = np.nansum(np.where(np.isfinite(gradient), gradient, 0.0), axis=0) > 0
    known = movement[with_gradient & np.isfinite(movement)]
    return float(of(known)) if known.size else math.nan


def late_path(run: TrainingRun) -> float:
    """The length of the way of the second half, relative to the weights: no distance is larger. NaN where it is not known."""
    steps = run.trace.steps
    half = steps[len(steps) // 2 :]
    seen = [s.update_ratio for s in half if math.isfinite(s.update_ratio)]
    return float(np.mean(seen)) * (half[-1].step - half[0].step + 1) if seen else math.nan
