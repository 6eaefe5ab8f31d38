"""Gradient flow: ||g|| ||w|| of every weight matrix along depth, and the growth factor per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Problem, Settings
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun

__all__ = ["Flow", "LayerFlow", "fitted_growth", "measure", "sparkline"]


@dataclass(frozen=True, kw_only=True)
class LayerFlow:
    """One weight matrix: ``start`` and ``late`` are ||g|| ||w|| at the first step and as the mean of the last half."""

    block: str
    module: str
    depth: int
    start: float
    late: float
    size: int
    grad_start: float
    grad_late: float
    weight: float
    update_ratio: float
    shrunk: float = 1.0
    """||w|| in the last half of the run, relative to the first step."""


@dataclass(frozen=True, kw_only=True)
class Flow(Measurement):
    """Weight matrices in the order in which the pass uses them; ``growth`` is per layer towards the output, late."""

    name: ClassVar[str] = "flow"
    layers: tuple[LayerFlow, ...]
    growth: float = math.nan
    growth_start: float = math.nan
    steps: int = 0

    def tables(self) -> dict[str, Table]:
        """The table ``flow``: the first step, and the mean of the last half of the run."""
        return {
            "flow": [
                {
                    "step": step,
                    "block": f.block,
                    "layer": f.module,
                    "depth": f.depth,
                    "grad_rms": grad / math.sqrt(f.size),
                    "weight_rms": f.weight / math.sqrt(f.size),
                    "update_ratio": f.update_ratio,
                    "growth": growth,
                }
                for f in self.layers
                for step, grad, growth in ((0, f.grad_start, self.growth_start), (self.steps, f.grad_late, self.growth))
            ]
        }


def fitted_growth(values: NDArray[np.float64]) -> float:
    """exp(slope) of the logarithm of values (L,) on depth, by least squares over the positive ones; NaN below three."""
    depth = np.arange(len(values), dtype=np.float64)
    good = np.isfinite(values) & (values > 0)
    if good.sum() < 3:
        return math.nan
    return float(np.exp(np.polyfit(depth[good], np.log(values[good]), 1)[0]))


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """From the training run's norms; rows of embeddings are usage, not depth, and are left out."""
    run, passes = the(evidence, TrainingRun), the(evidence, Passes)
    if run is None or not len(run.trace.steps):
        return Unavailable(wanted="flow", reason="no training run")
    trace, facts = run.trace, {p.name: p for p in run.parameters}
    order = {name: i for i, name in enumerate(passes.start.matrices)} if passes is not None else {}
    chosen = [
        (order.get(name, len(order) + i), i, name)
        for i, name in enumerate(trace.blocks)
        if name in facts
        and len(facts[name].shape) >= 2
        and "Embedding" not in facts[name].owner
        and (not order or name in order)
    ]
    product = trace.gradient * trace.weight
    half = len(trace.steps) // 2
    layers = []
    for depth, (_, i, name) in enumerate(sorted(chosen)):
        weight = trace.weight[:, i]
        with np.errstate(all="ignore"):
            ratio = trace.update[:, i] / np.where(weight > 0, weight, math.nan)
        layers.append(
            LayerFlow(
                block=name,
                module=facts[name].module,
                depth=depth,
                start=first(product[:, i]),
                late=mean(product[half:, i]),
                size=facts[name].size,
                grad_start=first(trace.gradient[:, i]),
                grad_late=mean(trace.gradient[half:, i]),
                weight=mean(weight),
                shrunk=mean(weight[half:]) / weight[0] if weight[0] > 0 else 1.0,
                update_ratio=float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else math.nan,
            )
        )
    return Flow(
        layers=tuple(layers),
        steps=len(trace.steps),
        growth=fitted_growth(np.array([f.late for f in layers])),
        growth_start=fitted_growth(np.array([f.start for f in layers])),
    )


def mean(values: NDArray[np.float64]) -> float:
    """The mean of the finite values; NaN without one."""
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else math.nan


def first(values: NDArray[np.float64]) -> float:
    """The first finite value; NaN without one."""
    good = values[np.isfinite(values)]
    return float(good[0]) if good.size else math.nan


def sparkline(values: Sequence[float]) -> str:
    """A character for each value on a logarithmic scale, input (left) to output; a dot for what is not positive."""
    logs = [math.log(v) if v > 0 and math.isfinite(v) else math.nan for v in values]
    known = [v for v in logs if not math.isnan(v)]
    if not known:
        return "." * len(logs)
    low, width = min(known), max(known) - min(known)
    marks = "▁▂▃▄▅▆▇█"
    return "".join("." if math.isnan(v) else marks[round(7 * (v - low) / width) if width else 7] for v in logs)
