"""The gradient of the gradient: double backward against differences of the analytical gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import TwiceDifferentiable
from gradguard.adapters.base import Cuttable, Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, Unavailable
from gradguard.measurements.block_results import BlockResult
from gradguard.measurements.comparison import compare
from gradguard.measurements.gradients import nudged

__all__ = ["SecondOrder", "measure"]


@dataclass(frozen=True, kw_only=True)
class SecondOrder(Measurement):
    """One result per block: <H w, u> by double backward and by differences of <w, gradient> along u.

    ``limit`` is the z above which a difference counts. Where the point itself is special and a point nearby is right,
    the results are those nearby.
    """

    name: ClassVar[str] = "second_order"
    results: tuple[BlockResult, ...] = ()
    limit: float = 20.0


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``second_order``, where it was asked for."""
    if settings.order < 2:
        return Unavailable(wanted="second_order", reason="the second order is checked with order=2")
    if not isinstance(problem, TwiceDifferentiable):
        return Unavailable(wanted="second_order", reason="a hand-written gradient has no gradient of its own")
    second = problem.second_order()
    if isinstance(second, str):
        return SecondOrder(reason=second)
    found = compare(second, settings)
    if found.wrong:
        found = nudged(second, found, settings) or found
    explained = _explained(problem, settings) & {r.block.name for r in found.wrong} if found.wrong else set()
    reason = f"right once detached values are held fixed: {', '.join(sorted(explained))}" if explained else ""
    results = tuple(r for r in found.results if r.block.name not in explained)
    return SecondOrder(results=results, limit=found.limit, path=problem.path, reason=reason)


def _explained(problem: TwiceDifferentiable, settings: Settings) -> set[str]:
    """The blocks that are right once the values that leave the graph (spectral norms, statistics) are held fixed."""
    if not isinstance(problem, Cuttable) or not problem.cuts():
        return set()
    with problem.held() as fixed:
        second = fixed.second_order() if isinstance(fixed, TwiceDifferentiable) else ""
        if isinstance(second, str):
            return set()
        return {r.block.name for r in compare(second, settings).results if r.verdict in ("pass", "zero")}
