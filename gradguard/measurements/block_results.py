"""What was found out about each block's gradient: the measurement ``gradients``, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import BlockFacts
from gradguard.blocks import Block
from gradguard.finding import Table
from gradguard.measurements.base import Measurement

__all__ = ["BlockResult", "Gradients", "without_measuring"]


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """One row of the table ``gradients``.

    ``verdict``: pass, fail, inconclusive, zero (no gradient, and the slope is 0 within its bar), empty, nonfinite,
    shape, raised (backward does), excluded (its gradient is declared not to be the derivative). ``analytical`` and
    ``numerical`` are the slopes along the best tangent; where several blocks moved together, the whole difference is put
    on this one.
    """

    block: Block
    verdict: str
    analytical: float = float("nan")
    numerical: float = float("nan")
    error_bar: float = float("nan")
    z: float = float("nan")
    resolution: float = float("nan")
    order: float = float("nan")
    kink: bool = False
    forwards: float = 0.0
    path: str = ""
    reason: str = ""
    missing: bool = False
    nonfinite: int = 0
    first_nonfinite: int | None = None
    worst: int | None = None
    """Flat index of the worst entry, where every entry was looked at; ``count`` how many are wrong."""
    count: int | None = None

    @property
    def ratio(self) -> float:
        """analytical / numerical."""
        return self.analytical / self.numerical if self.numerical else float("nan")

    @property
    def relative_error(self) -> float:
        """|analytical - numerical| / the larger of the two."""
        size = max(abs(self.analytical), abs(self.numerical))
        return abs(self.analytical - self.numerical) / size if size > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Gradients(Measurement):
    """All blocks, and what was said on the way.

    ``at_point`` is False where the point itself is a kink (or special): then the verdicts are those of a point nearby,
    and the measurement ``kinks`` judges the point. ``limit`` is the z above which a difference counts.
    """

    name: ClassVar[str] = "gradients"
    results: tuple[BlockResult, ...] = ()
    limit: float = 20.0
    at_point: bool = True
    lifted: bool = True
    notes: tuple[str, ...] = ()
    seed: int = 0

    @property
    def compared(self) -> tuple[BlockResult, ...]:
        """The blocks about which something was found out."""
        return tuple(r for r in self.results if r.verdict in ("pass", "fail", "zero", "nonfinite", "shape", "raised"))

    @property
    def wrong(self) -> tuple[BlockResult, ...]:
        """The blocks whose analytical and numerical slope differ."""
        return tuple(r for r in self.results if r.verdict == "fail")

    def tables(self) -> dict[str, Table]:
        """The table ``gradients``."""
        rows: Table = []
        for r in self.results:
            rows.append(
                {
                    "block": r.block.name,
                    "shape": str(r.block.shape),
                    "dtype": r.block.dtype,
                    "analytical": r.analytical,
                    "numerical": r.numerical,
                    "error_bar": r.error_bar,
                    "z": r.z,
                    "relative_error": r.relative_error,
                    "resolution": r.resolution,
                    "ratio": r.ratio,
                    "order_observed": r.order,
                    "kink": r.kink,
                    "verdict": r.verdict,
                    "forwards": r.forwards,
                    "path": r.path,
                    "reason": r.reason,
                }
            )
        return {"gradients": rows}


def without_measuring(block: Block, facts: BlockFacts) -> BlockResult | None:
    """The result of a block whose facts say enough: empty, declared to be no derivative, misshapen or not finite."""
    if block.size == 0:
        return BlockResult(block=block, verdict="empty", reason="no entries")
    if block.excluded:
        return BlockResult(block=block, verdict="excluded", reason=block.excluded)
    if facts.failed:
        return BlockResult(block=block, verdict="raised", reason=f"backward raises {facts.failed}")
    if facts.wrong_shape:
        return BlockResult(block=block, verdict="shape", reason=f"its gradient has shape {facts.wrong_shape}")
    if facts.nonfinite:
        return BlockResult(
            block=block,
            verdict="nonfinite",
            nonfinite=facts.nonfinite,
            first_nonfinite=facts.first_nonfinite,
            reason=f"{facts.nonfinite} entries of its gradient are not finite",
        )
    return None
