"""The learning rate of a NumPy scenario: runs with its schedule, and curvature by differences of its own gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Settings
from gradguard.adapters.numpy_curvature import NumpyCurvature
from gradguard.adapters.numpy_training import NumpySession, NumpyTraining, preserved_rng
from gradguard.adapters.rates_base import Plan, SplitLoss, called_schedule
from gradguard.adapters.training_base import Trace
from gradguard.errors import UsageError
from gradguard.scenarios import Scenario

__all__ = ["NumpyRates"]


class NumpyRates:
    """See :class:`gradguard.adapters.rates_base.RateProblem`."""

    def __init__(self, scenario: Scenario, settings: Settings, *, schedule: Any = None, clip: float | None = None) -> None:
        if clip is not None:
            raise UsageError("clip is for torch models", where="clip", todo="clip inside grad(model, batch)")
        if schedule is not None and not callable(schedule):
            raise UsageError(f"schedule takes a function step -> factor, got {type(schedule).__name__}", where="schedule")
        self.training = NumpyTraining(scenario, settings)
        self.objective = scenario.objective
        self.blocks, self.counts, self.path = self.training.blocks, self.training.counts, self.training.path
        factors = called_schedule(schedule) if schedule is not None else ()
        self.plan = Plan(factors=factors, source=getattr(schedule, "__name__", "a function") if factors else "")
        self.notes = self.training.notes

    def run(
        self,
        steps: int,
        *,
        rate_scale: float = 1.0,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        compare: int = 0,
        keep: str = "",
    ) -> Trace:
        """A run with the plan's schedule."""
        base = self.training.scenario.optimizer.lr * rate_scale

        def drive(step: int, session: NumpySession) -> None:
            session.lr = base * self.plan.factor(step)

        return self.training.run(
            steps, rate_scale=rate_scale, seed=seed, batches=batches, same_batch=same_batch, compare=compare,
            observers=[drive] if self.plan.factors else [], keep=keep,
        )

    def point(self, *, batch: int = 0, warm_steps: int = 0, rate_scale: float = 1.0, seed: int = 0) -> NumpyCurvature:
        """Curvature on a copy."""
        if warm_steps:
            self.run(warm_steps, rate_scale=rate_scale, seed=seed, keep="curvature")
            session = self.training.sessions.pop("curvature")
        else:
            session = self.training.fresh()

        def gradient() -> list[NDArray[np.floating[Any]] | None]:
            with preserved_rng(seed):
                return session.gradient(self.training.batches[batch], batch)

        optimizer = self.training.scenario.optimizer
        return NumpyCurvature(gradient, session.params, session.velocity, optimizer)

    def adaptive(self) -> bool:
        """``gg.SGD`` is not."""
        return False

    def null_losses(self, batches: Sequence[int], *, seed: int = 0) -> tuple[float, ...]:
        """Losses with every parameter at zero."""
        session = self.training.fresh()
        for parameter in session.params:
            parameter[...] = 0
        try:
            with preserved_rng(seed):
                return tuple(session.loss(self.training.batches[i], i) for i in batches)
        except UsageError:
            return ()

    def split_loss(self, batch: int, *, seed: int = 0) -> SplitLoss | None:
        """The batch's loss and that of its halves, cut along the first axis that all of its arrays share."""
        whole = self.training.batches[batch]
        found: list[NDArray[Any]] = []
        _arrays(whole, found)
        sized = {a.shape[0] for a in found if a.ndim}
        if len(sized) != 1 or min(sized) < 2:
            return None
        samples = sized.pop()
        half = samples // 2
        session = self.training.fresh()
        losses = []
        for part in (whole, _cut(whole, 0, half), _cut(whole, half, 2 * half)):
            try:
                with preserved_rng(seed):
                    losses.append(session.loss(part, batch))
            except UsageError:
                return None
        return SplitLoss(whole=losses[0], halves=(losses[1], losses[2]), samples=samples)


def _arrays(part: Any, found: list[NDArray[Any]]) -> None:
    if isinstance(part, np.ndarray):
        found.append(part)
    elif isinstance(part, dict):
        for value in part.values():
            _arrays(value, found)
    elif isinstance(part, list | tuple):
        for value in part:
            _arrays(value, found)


def _cut(part: Any, start: int, stop: int) -> Any:
    if isinstance(part, np.ndarray):
        return part[start:stop] if part.ndim else part
    if isinstance(part, dict):
        return {key: _cut(value, start, stop) for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_cut(value, start, stop) for value in part))
    if isinstance(part, list | tuple):
        return type(part)(_cut(value, start, stop) for value in part)
    return part
