"""Dead, saturated, dormant: every layer's units, before and after the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import LayerUnits, Look
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.passes import Passes

__all__ = ["DORMANT", "GATED", "SATURATING", "LayerState", "UnitStates", "measure"]

SATURATING = ("tanh", "sigmoid", "hardtanh", "hardsigmoid", "logsigmoid")
"""Activations that are held at limits; the others are dead where no gradient passes."""
GATED = 1e-3
"""|phi'| below this on all samples: no gradient passes (0 exactly for ReLU and its kind)."""
DORMANT = 0.1
"""The tau of the dormant score of Sokar et al. 2023, a column and never a verdict."""


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """One layer in one state: how many of its units (without pruned ones) are dead, held at a limit, or dormant."""

    layer: str
    kind: str
    block: str
    module: str
    depth: int
    step: int
    units: int
    samples: int
    dead: int
    born_dead: int
    saturated: int
    dormant: int
    zero_fraction: float
    rms: float
    indices: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The place in words: the weight that feeds the activation, and the activation."""
        where = f"{self.module or 'the model'} -> {self.layer}" if self.layer != self.module else self.layer
        return f"{where} ({self.kind})"


@dataclass(frozen=True, kw_only=True)
class UnitStates(Measurement):
    """Layers at the start, and after the run."""

    name: ClassVar[str] = "units"
    start: tuple[LayerState, ...]
    end: tuple[LayerState, ...] = ()

    @property
    def last(self) -> tuple[LayerState, ...]:
        """The latest states."""
        return self.end or self.start

    def tables(self) -> dict[str, Table]:
        """The table ``units``."""
        return {
            "units": [
                {
                    "step": s.step,
                    "layer": s.layer,
                    "kind": s.kind,
                    "units": s.units,
                    "samples": s.samples,
                    "dead": s.dead / max(1, s.units),
                    "dormant": s.dormant / max(1, s.units),
                    "saturated": s.saturated / max(1, s.units),
                    "zero_fraction": s.zero_fraction,
                    "rms": s.rms,
                }
                for s in (*self.start, *self.end)
            ]
        }


def dead_units(units: LayerUnits) -> NDArray[np.bool_]:
    """Units through which no gradient passes for any sample seen, pruned ones left out."""
    if units.kind in SATURATING:
        return np.zeros(len(units.slope), dtype=bool)
    limit = 0.0 if units.kind in ("relu", "relu6", "threshold") else GATED
    return (units.slope <= limit) & ~units.pruned


def states(look: Look, first: Look, step: int) -> tuple[LayerState, ...]:
    """Every layer of a look, compared with the first one."""
    before = {(u.layer, u.kind, u.block): u for u in first.units}
    result = []
    for u in look.units:
        dead = dead_units(u)
        old = before.get((u.layer, u.kind, u.block))
        born = dead & dead_units(old) if old is not None and len(old.slope) == len(u.slope) else dead
        alive = ~u.pruned
        mean = float(u.size[alive].mean()) if alive.any() else 0.0
        result.append(
            LayerState(
                layer=u.layer,
                kind=u.kind,
                block=u.block,
                module=u.module,
                depth=u.depth,
                step=step,
                units=int(alive.sum()),
                samples=u.samples,
                dead=int(dead.sum()),
                born_dead=int(born.sum()),
                saturated=int((u.flat[alive] >= 0.95).sum()) if u.kind in SATURATING else 0,
                dormant=int((u.size[alive] <= DORMANT * mean).sum()),
                zero_fraction=float(u.zeros.mean()),
                rms=float(np.sqrt(np.mean(u.rms**2))),
                indices=tuple(int(i) for i in np.flatnonzero(dead)[:8]),
            )
        )
    return tuple(result)


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """From the looks at the start and after the run."""
    passes = the(evidence, Passes)
    if passes is None:
        return Unavailable(wanted="units", reason="no pass was looked at")
    end = states(passes.end, passes.start, settings.steps) if passes.end is not None else ()
    return UnitStates(start=states(passes.start, passes.start, 0), end=end)
