"""In which mode the model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.modes_base import ModeFacts, ModeObservable
from gradguard.adapters.training_base import Trainable
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Modes", "measure"]


@dataclass(frozen=True, kw_only=True)
class Modes(Measurement):
    """Steps in train and in eval mode."""

    name: ClassVar[str] = "modes"
    facts: ModeFacts


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Two calls of the loss on a copy, and one in the other mode."""
    if not isinstance(problem, ModeObservable):
        return Unavailable(wanted="modes", reason="only torch models have a mode")
    if isinstance(problem, Trainable) and not problem.optimizer.name:
        return Unavailable(wanted="modes", reason="no optimizer: only the checks at the point")
    return Modes(facts=problem.modes(seed=settings.seed))
