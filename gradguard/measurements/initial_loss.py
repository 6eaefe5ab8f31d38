"""The loss before training: against a uniform guess, against the model without its weights, and of a batch and its halves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Look, Observable
from gradguard.adapters.rates_base import RateProblem, SplitLoss
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["InitialLoss", "measure"]

BATCHES = 4
"""Batches whose mean is taken."""
OVER_CLASSES = ("cross_entropy", "nll")
BINARY = ("bce", "bce_logits")


@dataclass(frozen=True, kw_only=True)
class InitialLoss(Measurement):
    """``loss``: the mean over batches of the loss as the user defined it. ``split``: one batch's, and of its halves.

    ``data_loss`` is the mean per sample of the predictions' loss without regularisers, ``kind`` which and ``classes`` over
    how many; ``uniform`` is that of a uniform guess (NaN where the loss is none of the known ones, or
    several). ``null`` is the mean loss with every weight at zero. ``gradient`` is the largest norm of the gradient in a few
    steps, asked for where both losses are exactly 0.
    """

    name: ClassVar[str] = "initial_loss"
    loss: float
    null: float = math.nan
    gradient: float = math.nan
    kind: str = ""
    classes: int | None = None
    data_loss: float = math.nan
    uniform: float = math.nan
    split: SplitLoss | None = None


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Look at a few batches; no training."""
    if not isinstance(problem, RateProblem):
        return Unavailable(wanted=InitialLoss.name, reason="no training run: there is no optimizer")
    chosen = list(range(min(BATCHES, problem.training.batch_count)))
    losses = problem.run(0, seed=settings.seed, compare=len(chosen)).loss_start
    null = problem.null_losses(chosen, seed=settings.seed)
    gradient = math.nan
    if sum(losses) == 0.0 and null and sum(null) == 0.0:
        gradient = max(step.grad_norm for step in problem.run(len(chosen), seed=settings.seed).steps)
    look: Look | None = None
    if isinstance(problem.training, Observable):
        look = problem.training.look("start", seed=settings.seed, batches=len(chosen))
    kind, classes, data_loss, uniform = _guess(look)
    return InitialLoss(
        loss=sum(losses) / len(losses), null=sum(null) / len(null) if null else math.nan, gradient=gradient,
        kind=kind, classes=classes, data_loss=data_loss, uniform=uniform,
        split=problem.split_loss(0, seed=settings.seed), path=problem.path,
        reason="" if kind else "the loss is not one of cross-entropy or binary cross-entropy alone",
    )


def _guess(look: Look | None) -> tuple[str, int | None, float, float]:
    """Kind, classes, data loss and the loss of a uniform guess, where the loss is one known loss over known classes."""
    if look is None or look.outputs is None or len(look.losses) != 1:
        return "", None, math.nan, math.nan
    facts = look.losses[0]
    classes = facts.classes if facts.classes is not None else look.outputs.width
    if facts.kind in BINARY:
        return facts.kind, 2, look.outputs.data_loss, math.log(2.0)
    if facts.kind in OVER_CLASSES and classes >= 2:
        return facts.kind, classes, look.outputs.data_loss, math.log(classes)
    return "", None, math.nan, math.nan
