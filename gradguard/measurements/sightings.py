"""What the tangents have shown of each block so far, and what that makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gradguard.blocks import Block
from gradguard.measurements.block_results import BlockResult
from gradguard.measurements.shots import Shooter, Shot

__all__ = ["TINY_SHARE", "Sightings", "constants_only"]

RESOLVED = 2.5e-5
"""A block counts as compared from this resolution on (float64): an error of 20 times as much is seen."""
RESOLVED_SINGLE = 2e-2
"""The same where only float32 can run."""
FLOAT_CONSTANT = 2e-7
"""Relative difference of a block's slope below which a constant that is rounded to float32 explains it."""
VAGUE = 100.0
"""A mismatch is not withdrawn by a second measurement whose bar is so many times as wide."""
TINY_SHARE = 1e-12
"""Share of the largest block below which a gradient may be nothing but rounding."""


@dataclass
class Sightings:
    """The shots so far, sorted by what came of them; ``alone``: the blocks about which all is said.

    Blocks go by their index. ``active`` are those with a gradient to compare, ``silent`` those whose gradient is exactly 0.
    """

    shooter: Shooter
    blocks: tuple[Block, ...]
    active: list[int]
    silent: list[int]
    passed: list[Shot] = field(default_factory=list)
    failed: list[Shot] = field(default_factory=list)
    unclear: list[Shot] = field(default_factory=list)
    alone: dict[int, BlockResult] = field(default_factory=dict)

    def differs(self, shot: Shot) -> bool:
        """Whether the numerical slope is another one, by more than its bar allows; not so where there is none (z is NaN)."""
        return shot.z > self.shooter.limit

    def add(self, shot: Shot) -> bool:
        """Sort a shot in, confirming a mismatch first; tells whether it failed."""
        if self.differs(shot):
            first, shot = shot, self.shooter.confirm(shot)
            if not self.differs(shot) and shot.error_bar > VAGUE * first.error_bar:
                self.unclear.append(shot)
                return False
        if not np.isfinite(shot.z):
            self.unclear.append(shot)
            return False
        (self.failed if self.differs(shot) else self.passed).append(shot)
        return self.differs(shot)

    @property
    def enough(self) -> float:
        """The resolution from which on a block counts as compared."""
        return RESOLVED if self.shooter.double else RESOLVED_SINGLE

    def goal(self, double: float) -> float:
        """The resolution that more tangents are spent for: ``double`` in float64, what is enough below it."""
        return double if self.shooter.double else RESOLVED_SINGLE

    def resolution(self, i: int) -> float:
        """The best resolution that a passing shot has of a block."""
        return min((s.resolution(i) for s in self.passed if i in s.tangent.blocks), default=float("inf"))

    def best(self, i: int) -> Shot | None:
        """That shot."""
        able = [s for s in self.passed if i in s.tangent.blocks]
        return min(able, key=lambda s: s.resolution(i), default=None)

    def unresolved(self, goal: float) -> list[int]:
        """The active blocks that no passing shot resolves so well."""
        return [i for i in self.active if self.resolution(i) > goal]

    def sizes(self) -> dict[int, float]:
        """The size of each active block's share at its natural scale."""
        facts = self.shooter.facts
        return {i: facts[i].gradient_norm * self.shooter.natural[i] for i in self.active}

    def good(self, shot: Shot, i: int) -> bool:
        """Whether a shot resolves a block well enough."""
        return shot.resolution(i) <= self.enough

    def judge(self, i: int, path: str) -> BlockResult:
        """A block that was only looked at together with others."""
        shot = self.best(i)
        if i in self.silent:
            together = [s for s in self.passed if i in s.tangent.blocks]
            if together:
                return self.result(i, together[-1], "zero", "", 0.0)
        elif shot is not None and self.good(shot, i):
            others = len(shot.tangent.blocks) - 1
            return self.result(i, shot, "pass", f"{path}, together with {others} more" if others else path, 0.0)
        elif shot is not None and float(shot.norms[i]) <= TINY_SHARE * max(self.sizes().values()):
            return self.result(i, shot, "zero", path, 0.0, "its gradient is nothing but rounding")
        last = shot or (self.unclear[-1] if self.unclear else None)
        if last is None:
            return BlockResult(block=self.blocks[i], verdict="inconclusive", reason="no step could be evaluated")
        reason = last.slope.reason or f"the smallest error that can be seen is {last.resolution(i):.1e} of the block"
        return self.result(i, last, "inconclusive", path, 0.0, reason)

    def result(self, i: int, shot: Shot, verdict: str, path: str, forwards: float, reason: str = "") -> BlockResult:
        """A row for a block from one shot, on which the whole difference is put."""
        share = float(shot.shares[i])
        if verdict == "pass" and shot.tangent.relative == 0.0:
            reason = reason or "entries of 0 held still: next to them the value is not finite, or has no slope"
        return BlockResult(
            block=self.blocks[i],
            verdict=verdict,
            analytical=share,
            numerical=share - shot.difference,
            error_bar=shot.error_bar,
            z=shot.z,
            resolution=shot.resolution(i) if share else float("nan"),
            order=shot.slope.order(shot.analytical),
            kink=shot.slope.kink,
            forwards=forwards,
            path=path,
            reason=reason,
            missing=self.shooter.facts[i].missing,
        )


def constants_only(shot: Shot) -> bool:
    """A difference this small is rounding of a constant inside a float64 kernel (torch's hardsigmoid has 1/6 as a float)."""
    return abs(shot.difference) <= FLOAT_CONSTANT * float(shot.norms.sum())
