"""The measurement ``gradients``: at the point, and where that is a kink, at a point nearby."""

from __future__ import annotations

from dataclasses import replace

from gradguard.adapters.base import Differentiable, Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.block_results import Gradients
from gradguard.measurements.comparison import compare
from gradguard.measurements.determinism import Determinism
from gradguard.measurements.entrywise import measure_entrywise
from gradguard.measurements.shots import Shooter

__all__ = ["NUDGE", "measure", "nudged"]

NUDGES = 3
NUDGE = 2.0**-9
"""Size of the nudge off a kink, relative to each block's scale."""


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``gradients``, or why it could not be made."""
    if not isinstance(problem, Differentiable):
        return Unavailable(wanted="gradients", reason="the problem has no gradient to compare")
    determinism = the(evidence, Determinism)
    if determinism is not None and not determinism.usable:
        return Unavailable(
            wanted="gradients", reason="the value changes from call to call, so its differences mean nothing (GG104)"
        )
    if settings.method == "entrywise":
        return measure_entrywise(problem, settings)
    found = compare(problem, settings)
    hidden = any(r.kink and r.verdict == "inconclusive" for r in found.results)
    if found.at_point and (found.wrong or hidden):
        nearby = nudged(problem, found, settings)
        if nearby is not None:
            return replace(nearby, at_point=False)
    return found


def nudged(problem: Differentiable, found: Gradients, settings: Settings) -> Gradients | None:
    """The comparison at a point nearby, where every block that differs here is right; None where one is wrong there too."""
    shooter = Shooter(problem, settings.seed + 31)
    moved = [i for i, r in enumerate(found.results) if r.verdict in ("pass", "fail", "zero", "inconclusive")]
    wrong = [i for i, r in enumerate(found.results) if r.verdict == "fail"]
    for _ in range(NUDGES):
        nearby = compare(problem.at(shooter.tangent(moved), NUDGE), settings, quick=True)
        if not nearby.wrong:
            undecided = any(nearby.results[i].verdict == "inconclusive" for i in wrong)
            return None if undecided else nearby
        if not any(result.kink for result in nearby.wrong):
            return None
    return None  # ties that moved together would have come apart by now
