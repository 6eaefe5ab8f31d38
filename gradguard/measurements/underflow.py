"""Gradients that a low-precision backward flushes to zero: what comes back when the loss is scaled up first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Observable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.passes import Passes

__all__ = ["Underflow", "measure"]


@dataclass(frozen=True, kw_only=True)
class Underflow(Measurement):
    """Per block the share of entries that are exactly 0 and are not when the loss is scaled first."""

    name: ClassVar[str] = "underflow"
    lost: Mapping[str, float]


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Two backward passes, only where something in the pass is float16 or bfloat16."""
    passes = the(evidence, Passes)
    if passes is None or not isinstance(problem, Observable):
        return Unavailable(wanted="underflow", reason="no pass was looked at")
    if not passes.start.low_precision:
        return Unavailable(wanted="underflow", reason="nothing in the pass is float16 or bfloat16")
    return Underflow(lost=problem.underflow(seed=settings.seed))
