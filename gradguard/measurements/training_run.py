"""A short run of training on a copy, or what was watched of the user's own loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.idle_base import IdleOptimizer
from gradguard.adapters.training_base import OptimizerFacts, ParameterFacts, StepFacts, Trace, Trainable
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable

__all__ = ["COMPARED", "NeverStepped", "TrainingRun", "curve", "measure", "nonfinite_step", "overflowed"]

COMPARED = 8
"""Batches whose loss is taken before the first and after the last step."""
OVERFLOW = 1e3
"""A loss that grew by this factor before a gradient was not finite was diverging already."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Measurement):
    """What each step did. ``stale`` is the share of steps whose gradient held that of the step before; None: not watched.

    ``asked`` is the number of steps that were asked for, ``source`` is ``copy`` or ``watch``.
    """

    name: ClassVar[str] = "training_run"
    trace: Trace
    parameters: tuple[ParameterFacts, ...]
    optimizer: OptimizerFacts
    objective: str = "supervised"
    asked: int = 0
    source: str = "copy"
    stale: float | None = None
    cut: tuple[str, ...] = ()
    """Modules whose output the loop detached before the next module used it."""
    idle: tuple[IdleOptimizer, ...] = ()
    """Optimizers of the loop that never stepped while others did."""
    notes: tuple[str, ...] = ()

    def tables(self) -> dict[str, Table]:
        """The table ``curve``."""
        return {"curve": curve(self.trace)}


@dataclass(frozen=True, kw_only=True)
class NeverStepped(Unavailable):
    """A watched loop in which no optimizer stepped; ``losses`` with a graph were recorded."""

    losses: int = 0


def nonfinite_step(run: TrainingRun) -> tuple[StepFacts, list[str]] | None:
    """The first step with a gradient that is not finite although its loss is, and the blocks concerned; None without one."""
    wrong = run.trace.gradient == math.inf
    index = next((i for i, row in enumerate(wrong) if row.any()), None)
    if index is None or not math.isfinite(run.trace.steps[index].loss):
        return None
    return run.trace.steps[index], [name for name, bad in zip(run.trace.blocks, wrong[index], strict=True) if bad]


def overflowed(run: TrainingRun, step: StepFacts) -> bool:
    """The loss of that step is out of all proportion to that of the first ones: the run diverged before."""
    first = [abs(loss) for loss in run.trace.losses[:4] if math.isfinite(loss)]
    return step.step > 0 and bool(first) and abs(step.loss) > OVERFLOW * max(min(first), 1e-12)


def curve(trace: Trace) -> Table:
    """The rows of the table ``curve``."""
    return [
        {
            "step": s.step,
            "lr": s.lr[0] if s.lr else None,
            "loss": s.loss,
            "grad_norm": s.grad_norm,
            "sharpness": None,
            "nonfinite": s.nonfinite,
        }
        for s in trace.steps
    ]


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Train a copy for ``settings.steps`` steps."""
    if not isinstance(problem, Trainable):
        return Unavailable(wanted="training_run", reason=f"{type(problem).__name__} cannot be trained")
    if not problem.optimizer.name:
        return Unavailable(wanted="training_run", reason="no optimizer: only the checks at the point")
    trace = problem.run(
        settings.steps, seed=settings.seed, same_batch=True, compare=min(COMPARED, problem.batch_count), keep="end"
    )
    return TrainingRun(
        trace=trace,
        parameters=problem.parameters,
        optimizer=problem.optimizer,
        objective=problem.objective,
        asked=settings.steps,
        path=problem.path,
        notes=problem.notes,
    )
