"""muP's coordinate check as numbers: how outputs, and what training adds to them, grow with width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.widths_base import ModuleSize, WidthProblem
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["Exponent", "WidthScale", "exponent", "measure"]


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """The power of width that a size grows with, fitted on logarithms, and two standard errors of it."""

    value: float
    error_bar: float


@dataclass(frozen=True, kw_only=True)
class WidthScale(Measurement):
    """Sizes per module, width and seed; ``steps`` of training lie between before and after."""

    name: ClassVar[str] = "width_scale"
    sizes: tuple[ModuleSize, ...]
    steps: int

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules, in the order in which they are called."""
        return tuple(dict.fromkeys(size.module for size in self.sizes))

    def exponent(self, module: str, what: str) -> Exponent:
        """The exponent of ``before``, ``after`` or ``change`` of one module."""
        rows = [size for size in self.sizes if size.module == module]
        return exponent([row.width for row in rows], [getattr(row, what) for row in rows])

    def tables(self) -> dict[str, Table]:
        """In the table ``units``: the size of each module's output per width, before and after."""
        return {
            "units": [
                {"step": step, "layer": size.module, "kind": "mean magnitude", "units": size.width, "rms": value}
                for size in self.sizes for step, value in ((0, size.before), (self.steps, size.after))
            ]
        }


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Build and train a little at every width, with several seeds."""
    if not isinstance(problem, WidthProblem):
        return Unavailable(wanted=WidthScale.name, reason="one width only: check_width_scaling builds several")
    sizes = [
        size for seed in range(settings.seed, settings.seed + problem.seeds) for width in problem.widths
        for size in problem.sizes(width, seed, settings.steps)
    ]
    return WidthScale(sizes=tuple(sizes), steps=settings.steps, path=problem.path)


def exponent(widths: Sequence[int], sizes: Sequence[float]) -> Exponent:
    """Least squares of log size on log width; NaN where a size is 0 or not finite, or there are too few widths."""
    x, y = np.log(np.asarray(widths, dtype=np.float64)), np.asarray(sizes, dtype=np.float64)
    if len(set(widths)) < 2 or not np.all(np.isfinite(y)) or np.any(y <= 0):
        return Exponent(value=math.nan, error_bar=math.nan)
    y = np.log(y)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    freedom = max(1, len(x) - 2)
    return Exponent(value=slope, error_bar=2.0 * float(np.sqrt(rest @ rest / freedom / (centred @ centred))))
