"""The same call twice, from the same random state: the same value, the same gradient?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Differentiable, Identity, Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Determinism", "measure"]


@dataclass(frozen=True, kw_only=True)
class Determinism(Measurement):
    """The largest differences between two calls, relative to the largest magnitude, and rounding's unit there."""

    name: ClassVar[str] = "determinism"
    identity: Identity
    epsilon: float

    @property
    def usable(self) -> bool:
        """Whether differences of values mean anything at all."""
        return self.identity.value_difference <= 1e4 * self.epsilon


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``determinism``."""
    if not isinstance(problem, Differentiable):
        return Unavailable(wanted="determinism", reason="the problem has no gradient to repeat")
    double = not problem.path.startswith("native") or "float64" in problem.path
    return Determinism(identity=problem.identity(), epsilon=2.0**-52 if double else 2.0**-23, path=problem.path)
