"""At a point where the gradient differs from the slopes although it is right nearby: is it a valid one for a kink?

An entry is accepted when it lies between the gradients of points nearby (an outer bound of Clarke's subdifferential), or
between its own one-sided slopes. What lies outside of both, and stays outside as the points come closer, is wrong here.

F. H. Clarke, Optimization and Nonsmooth Analysis (1983), section 2.5; W. Lee et al., "On correctness of automatic
differentiation for non-differentiable functions", NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Differentiable, Problem, Settings
from gradguard.blocks import Block, Entries, Tangent, entry_name
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.block_results import Gradients
from gradguard.measurements.shots import Shooter

__all__ = ["KinkEntry", "Kinks", "measure"]

NEAR, NEARER = 2.0**-12, 2.0**-18
NUDGES = 8
MORE_NUDGES = 120
WORST = 32
PERSISTENT = 0.3
"""A distance that shrinks with the nudge is curvature; one that keeps this share of itself is not."""
SMALLEST = 1e-5
"""Distances below this share of the block's largest entry are not looked at."""


@dataclass(frozen=True, kw_only=True)
class KinkEntry:
    """One entry at the point: its analytical value, its one-sided slopes, and whether it lies outside them."""

    block: Block
    index: int
    analytical: float
    left: float
    right: float
    error_bar: float
    kink: bool
    outside: bool

    @property
    def name(self) -> str:
        """``fc1.bias[3]``."""
        return entry_name(self.block.name, self.block.shape, self.index)


@dataclass(frozen=True, kw_only=True)
class Kinks(Measurement):
    """The entries that were looked at, and how many of all lay outside the gradients of points nearby."""

    name: ClassVar[str] = "kinks"
    entries: tuple[KinkEntry, ...] = ()
    suspects: int = 0
    blocks: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[KinkEntry, ...]:
        """The entries outside of both bounds."""
        return tuple(e for e in self.entries if e.outside)

    def tables(self) -> dict[str, Table]:
        """The wrong entries in the table ``entries``."""
        rows: Table = [
            {
                "block": e.block.name,
                "index": str(list(np.unravel_index(e.index, e.block.shape or (1,)))),
                "analytical": e.analytical,
                "numerical": (e.left + e.right) / 2,
                "error_bar": e.error_bar,
            }
            for e in self.wrong
        ]
        return {"entries": rows}


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``kinks``."""
    gradients = the(evidence, Gradients)
    if not isinstance(problem, Differentiable) or gradients is None:
        return Unavailable(wanted="kinks", reason="no gradient was compared")
    shooter = Shooter(problem, settings.seed + 57)
    moved = [i for i, f in enumerate(shooter.facts) if not f.nonfinite and problem.blocks[i].size]
    nudges = [shooter.tangent(moved) for _ in range(NUDGES)]
    nudges += [Tangent(seed=n.seed, scales={i: -s for i, s in n.scales.items()}) for n in nudges[:2]]
    near = {(o.block, o.index): o for o in problem.outside(nudges, NEAR, WORST, SMALLEST)}
    nearer = problem.outside(nudges, NEARER, WORST, SMALLEST)
    if nearer:  # perhaps the span of so few points is too narrow
        nudges += [shooter.tangent(moved) for _ in range(MORE_NUDGES)]
        nearer = problem.outside(nudges, NEARER, WORST, SMALLEST)
    kept = [o for o in nearer if (o.block, o.index) not in near or o.distance >= PERSISTENT * near[(o.block, o.index)].distance]
    entries = []
    for outside in kept[:WORST]:
        scale = shooter.natural[outside.block]
        chosen = Entries(block=outside.block, indices=(outside.index,), values=(scale,))
        shot = shooter.shoot(Tangent(entries=(chosen,)), fresh_noise=True)
        left, right = sorted((shot.slope.left / scale, shot.slope.right / scale))
        bar = shooter.limit * shot.error_bar / scale
        wrong = np.isfinite(left) and not left - bar <= outside.value <= right + bar
        entries.append(
            KinkEntry(
                block=problem.blocks[outside.block],
                index=outside.index,
                analytical=outside.value,
                left=left,
                right=right,
                error_bar=shot.error_bar / scale,
                kink=shot.slope.kink,
                outside=bool(wrong),
            )
        )
    names = tuple(r.block.name for r in gradients.results if r.kink)
    return Kinks(entries=tuple(entries), suspects=len(kept), blocks=names, path=problem.path)
