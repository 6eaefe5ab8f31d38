"""Single runs at some rate, as plain numbers, and what they are compared with: the losses before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.adapters.training_base import Trace
from gradguard.measurements.rate_verdict import RateRun

__all__ = ["THROWN", "losses_before", "observed", "thrown_away", "worth_of"]

DRAWS, LEAST = 64, 4
"""A loss that draws random numbers is taken so many times before training, over all batches and at least for each of them."""
APART = 100_003
"""Seeds that are so far apart share no batch's state."""
SAME = 1e-5
"""Two losses that differ by less than this part are of one that draws nothing."""
THROWN = 1e3
"""A long run whose batches are, for the median of 8 steps, this many scales worse off than before training is over."""


def observed(
    problem: RateProblem,
    factor: float,
    steps: int,
    seed: int,
    order: int,
    before: Mapping[int, float],
    *,
    until: Callable[[int, int, float], str] | None = None,
    keep: str = "",
) -> RateRun:
    """One run. ``order`` 0 takes the batches as they come, others shuffle them for each pass; ``before`` is by batch."""
    batches = list(range(problem.training.batch_count))
    if order:
        batches = shuffled(len(batches), steps, np.random.default_rng([seed, order]))
    trace = problem.attempt(
        steps, factor=factor, seed=seed + order, batches=batches, same_batch=factor == 1.0, until=until, keep=keep
    )
    unit = next(r for r in problem.training.optimizer.lrs if r > 0)
    return as_run(trace, factor, unit * factor, seed + order, before)


def shuffled(count: int, steps: int, rng: np.random.Generator) -> list[int]:
    """The batch of each step, all of them once in every pass, as a loader shuffles."""
    passes = [rng.permutation(count) for _ in range(math.ceil(steps / count))]
    return [int(i) for i in np.concatenate(passes)[:steps]]


def as_run(trace: Trace, factor: float, lr: float, seed: int, before: Mapping[int, float]) -> RateRun:
    """A trace as plain numbers."""
    steps = [step for step in trace.steps if math.isfinite(step.loss)]
    moved = trace.movement[np.isfinite(trace.movement)] if trace.movement is not None else np.zeros(0)
    ratios = [s.update_ratio for s in steps if math.isfinite(s.update_ratio)]
    return RateRun(
        factor=factor, lr=lr, seed=seed, losses=tuple(s.loss for s in steps),
        before=tuple(before[s.batch] for s in steps),
        after=tuple(s.loss_after for s in steps if s.loss_after is not None),
        stopped=trace.stopped, update_ratio=float(np.median(ratios)) if ratios else math.nan,
        movement=float(np.median(moved)) if moved.size else math.nan,
        farthest=float(np.max(moved)) if moved.size else math.nan,
        gradient_first=steps[0].grad_norm if steps else math.nan, gradient_last=steps[-1].grad_norm if steps else math.nan,
        batch=trace.steps[0].batch if trace.steps else 0,
    )


def thrown_away(before: Mapping[int, float], scale: float, patience: int) -> Callable[[int, int, float], str]:
    """What ends a long run early: from step ``patience`` on, a loss that has been thrown far above where it began."""
    recent: list[float] = []

    def until(step: int, batch: int, loss: float) -> str:
        recent.append(loss - before[batch])
        if step < patience or scale <= 0 or step % 8:
            return ""
        risen = float(np.median(recent[-8:]))
        if risen <= THROWN * scale:
            return ""
        return f"after {step} steps the same batches' loss is {risen:.3g} above where it began"

    return until


def losses_before(problem: RateProblem, settings: Settings) -> tuple[float, ...]:
    """Every batch's loss before training, shape (batches,); the mean of several draws where the loss draws random numbers.

    All gains of a run are measured from these: one draw's luck would count in each of them.
    """
    count = problem.training.batch_count
    seed = settings.seed
    first = problem.run(0, seed=seed, compare=count).loss_start
    again = problem.run(0, seed=seed + APART, compare=min(1, count)).loss_start
    if not first or not abs(again[0] - first[0]) > SAME * abs(first[0]):
        return first
    draws = max(LEAST, math.ceil(DRAWS / count))
    others = [problem.run(0, seed=seed + APART * k, compare=count).loss_start for k in range(1, draws)]
    return tuple(float(value) for value in np.mean([first, *others], axis=0))


def worth_of(problem: RateProblem, settings: Settings, before: Mapping[int, float]) -> float:
    """What the weights are worth: the loss of a few batches with all of them at zero, against the loss as it is."""
    chosen = list(range(min(4, problem.training.batch_count)))
    null = problem.null_losses(chosen, seed=settings.seed)
    return abs(float(np.mean([before[i] - n for i, n in zip(chosen, null, strict=True)]))) if null else math.nan
