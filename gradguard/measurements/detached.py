"""Does the gradient agree once the detached values are held fixed? Then it was cut, not wrong; and where was it cut?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Cut, Cuttable, Differentiable, Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.block_results import Gradients
from gradguard.measurements.comparison import compare

__all__ = ["Detached", "measure"]


@dataclass(frozen=True, kw_only=True)
class Detached(Measurement):
    """The places where values leave the graph, and the blocks whose gradient is right once those values are fixed."""

    name: ClassVar[str] = "detached"
    cuts: tuple[Cut, ...] = ()
    explained: tuple[str, ...] = ()


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``detached``, about the blocks that differ."""
    gradients = the(evidence, Gradients)
    if gradients is None or not isinstance(problem, Cuttable) or not isinstance(problem, Differentiable):
        return Unavailable(wanted="detached", reason="values cannot be detached in this framework")
    cuts = problem.cuts()
    if not cuts:
        return Detached(reason="nothing is detached")
    with problem.held() as fixed:
        again = compare(fixed, settings)
    right = {r.block.name for r in again.results if r.verdict in ("pass", "zero")}
    explained = tuple(r.block.name for r in gradients.wrong if r.block.name in right)
    return Detached(cuts=cuts, explained=explained, path=problem.path)
