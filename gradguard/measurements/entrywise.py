"""Every entry of every block: central differences at a calibrated step, batched, and a ladder for those that stand out.

The step is the one that served a joint tangent. How far a central difference is off by curvature at that step is
measured on a sample of entries, at two steps. An entry whose difference exceeds noise and curvature is measured again on
the whole ladder before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Differentiable, Entrywise, Settings
from gradguard.blocks import Entries, Tangent
from gradguard.finding import Table
from gradguard.measurements.block_results import BlockResult, Gradients, without_measuring
from gradguard.measurements.shots import Shooter

__all__ = ["measure_entrywise"]

SAMPLE = 16
CONFIRMED = 64
"""Entries of a block that are measured again on the ladder, the worst first."""
SHOWN = 20
"""Rows of the table ``entries`` for one block."""
CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class EntrywiseGradients(Gradients):
    """The comparison of every entry; ``worst`` are the rows of the table ``entries``."""

    worst: tuple[dict[str, object], ...] = field(default=())

    def tables(self) -> dict[str, Table]:
        """The tables ``gradients`` and ``entries``."""
        return {**super().tables(), "entries": [dict(row) for row in self.worst]}


def measure_entrywise(problem: Differentiable, settings: Settings) -> Gradients:
    """Compare every entry of every block."""
    shooter = Shooter(problem, settings.seed)
    usable = [i for i, f in enumerate(shooter.facts) if without_measuring(problem.blocks[i], f) is None]
    joint = shooter.shoot(shooter.tangent(usable)) if usable else None
    step = joint.slope.step if joint is not None and np.isfinite(joint.slope.step) else float(shooter.ladder.steps[2])
    total, done = sum(problem.blocks[i].size for i in usable), 0
    results: list[BlockResult] = []
    worst: list[dict[str, object]] = []
    for i, (block, facts) in enumerate(zip(problem.blocks, shooter.facts, strict=True)):
        early = without_measuring(block, facts)
        if early is not None:
            results.append(early)
            continue
        if not isinstance(problem, Entrywise):
            results.append(BlockResult(block=block, verdict="inconclusive", reason="entries cannot be moved one by one"))
            continue
        sigma = joint.slope.sigma if joint is not None else 0.0
        result, rows = _Block(shooter, problem, i, step, sigma, settings).compare(done, total)
        results.append(result)
        worst += rows
        done += block.size
    return EntrywiseGradients(
        results=tuple(results),
        limit=shooter.limit,
        lifted=shooter.double,
        notes=problem.notes,
        path=problem.path,
        seed=settings.seed,
        worst=tuple(worst),
    )


class _Block:
    """The entries of one block."""

    def __init__(self, shooter: Shooter, problem: Entrywise, index: int, step: float, sigma: float, settings: Settings) -> None:
        self.shooter = shooter
        self.problem = problem
        self.index = index
        self.block = shooter.problem.blocks[index]
        self.scale = shooter.natural[index]
        self.step = step * self.scale
        self.sigma = sigma
        self.settings = settings

    def compare(self, done: int, total: int) -> tuple[BlockResult, list[dict[str, object]]]:
        counts = self.shooter.problem.counts
        before = counts.forwards
        analytical = self.shooter.problem.entries(self.index, range(self.block.size))
        numerical = np.empty(self.block.size)
        path = reason = ""
        for start in range(0, self.block.size, CHUNK):
            part = range(start, min(start + CHUNK, self.block.size))
            values, path, reason = self._differences(part, self.step)
            numerical[start : part.stop] = (values[:, 0] - values[:, 1]) / (2 * self.step)
            if self.settings.progress is not None:
                self.settings.progress(done + part.stop, total, self.block.name)
        bar = self._bar(numerical)
        z = np.abs(analytical - numerical) / bar
        suspects = np.flatnonzero(~(z <= self.shooter.limit))
        suspects = suspects[np.argsort(-np.nan_to_num(z[suspects], nan=np.inf))]
        wrong: list[tuple[int, float, float, float]] = []
        unclear = 0
        for k in suspects[:CONFIRMED]:
            value, error = self._ladder(int(k))
            numerical[k], bar[k] = value, error
            if not np.isfinite(value):
                unclear += 1
            elif abs(analytical[k] - value) > self.shooter.limit * error:
                wrong.append((int(k), float(analytical[k]), value, error))
        rest = len(suspects) - CONFIRMED
        count = len(wrong) + (rest if rest > 0 and len(wrong) == CONFIRMED else 0)
        rows = [
            {
                "block": self.block.name,
                "index": str([int(n) for n in np.unravel_index(k, self.block.shape or (1,))]),
                "analytical": a,
                "numerical": n,
                "error_bar": e,
            }
            for k, a, n, e in wrong[:SHOWN]
        ]
        return self._result(analytical, numerical, bar, wrong, count, unclear, path, reason, counts.forwards - before), rows

    def _differences(self, part: range, step: float) -> tuple[NDArray[np.float64], str, str]:
        return self.problem.differences(self.index, part, step, self.settings.memory_budget)

    def _bar(self, numerical: NDArray[np.float64]) -> NDArray[np.float64]:
        """Noise, and the curvature that a sample of entries shows between one step and two."""
        n = self.block.size
        sample = np.unique(np.linspace(0, n - 1, min(SAMPLE, n)).astype(int))
        values, _, _ = self.problem.differences(
            self.index, [int(k) for k in sample], 2 * self.step, self.settings.memory_budget
        )
        twice = (values[:, 0] - values[:, 1]) / (4 * self.step)
        curvature = float(np.nanmax(np.abs(twice - numerical[sample]))) / 3 if len(sample) else 0.0
        noise = self.sigma / (np.sqrt(2) * self.step)
        rounding = 16 * self.shooter.ladder.epsilon * np.abs(numerical)
        floor = np.full(n, float(np.hypot(noise, curvature)) + np.finfo(np.float64).tiny)
        return np.hypot(floor, np.nan_to_num(rounding))

    def _ladder(self, k: int) -> tuple[float, float]:
        chosen = Entries(block=self.index, indices=(k,), values=(self.scale,))
        shot = self.shooter.shoot(Tangent(entries=(chosen,)))
        if np.isfinite(shot.z) and shot.z > self.shooter.limit:
            shot = self.shooter.confirm(shot)
        return shot.slope.value / self.scale, shot.error_bar / self.scale

    def _result(
        self,
        a: NDArray[np.float64],
        n: NDArray[np.float64],
        bar: NDArray[np.float64],
        wrong: list[tuple[int, float, float, float]],
        count: int,
        unclear: int,
        path: str,
        reason: str,
        forwards: float,
    ) -> BlockResult:
        facts = self.shooter.facts[self.index]
        norm = float(np.linalg.norm(a))
        error = float(np.linalg.norm(bar))
        if wrong:
            k, analytical, numerical, one = wrong[0]
            return BlockResult(
                block=self.block,
                verdict="fail",
                analytical=analytical,
                numerical=numerical,
                error_bar=one,
                z=abs(analytical - numerical) / one,
                resolution=error / norm if norm else float("nan"),
                forwards=forwards,
                path=path,
                reason=f"{count} of {self.block.size} entries differ" + (f"; {reason}" if reason else ""),
                missing=facts.missing,
                worst=k,
                count=count,
            )
        worst = int(np.nanargmax(np.abs(a - n) / bar)) if np.isfinite(n).any() else 0
        if unclear:
            verdict, reason = "inconclusive", f"{unclear} entries could not be evaluated"
        else:
            verdict = "zero" if norm == 0 else "pass"
        return BlockResult(
            block=self.block,
            verdict=verdict,
            analytical=float(a[worst]),
            numerical=float(n[worst]),
            error_bar=float(bar[worst]),
            z=float(abs(a[worst] - n[worst]) / bar[worst]),
            resolution=error / norm if norm else float("nan"),
            forwards=forwards,
            path=path,
            reason=reason,
            missing=facts.missing,
        )
