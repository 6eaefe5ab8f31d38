"""Predictions before training and after the run at the user's rate, where they and the labels are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradguard.adapters.base import Settings
from gradguard.adapters.observing_base import Observable, OutputFacts
from gradguard.adapters.rates_base import RateProblem

__all__ = ["Predictions", "predictions_of"]

LOOKED = 8
"""Predictions are looked at on this many batches."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The loss of a few batches' predictions alone, before and after a run, and that of guessing the labels' distribution.

    ``kind`` is which loss that is; ``""`` and NaN where predictions or labels are not known.
    """

    kind: str = ""
    before: float = math.nan
    after: float = math.nan
    prior: float = math.nan


def predictions_of(problem: RateProblem, settings: Settings) -> Predictions:
    """Those of the first batches; the run that was kept for this under the name ``rate`` is let go."""
    if "rate" not in problem.training.sessions:
        return Predictions()
    try:
        if not isinstance(problem.training, Observable) or problem.objective != "supervised":
            return Predictions()
        looks = [problem.training.look(state, seed=settings.seed, batches=LOOKED) for state in ("start", "rate")]
        start, end = (look.outputs or OutputFacts() for look in looks)
    finally:
        problem.training.sessions.pop("rate")
    return Predictions(kind=start.kind, before=start.data_loss, after=end.data_loss, prior=start.prior)
