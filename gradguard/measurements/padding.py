"""What padding does to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.padding_base import PaddingFacts, PaddingObservable
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["PaddingTrial", "measure"]


@dataclass(frozen=True, kw_only=True)
class PaddingTrial(Measurement):
    """How far the loss depends on padded positions."""

    name: ClassVar[str] = "padding"
    facts: PaddingFacts


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """One pass with its backward, and the loss of one sample with and without its padding."""
    if not isinstance(problem, PaddingObservable):
        return Unavailable(wanted="padding", reason="leaks are looked for in torch models only")
    facts = problem.padding(seed=settings.seed)
    if not facts.padded:
        return Unavailable(wanted="padding", reason=facts.reason)
    return PaddingTrial(facts=facts, reason=facts.reason)
