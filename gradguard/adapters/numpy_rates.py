"""The learning rate of a NumPy scenario: runs with its schedule, and curvature by differences of its own gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Settings
from gradguard.adapters.numpy_curvature import NumpyCurvature
from gradguard.adapters.numpy_training import NumpySession, NumpyTraining, norms, preserved_rng
from gradguard.adapters.rates_base import ALONG, Plan, SplitLoss, Until, called_schedule
from gradguard.adapters.training_base import StepFacts, Trace
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
        factors = called_schedule(schedule, settings.steps) if schedule is not None else ()
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

    def attempt(
        self,
        steps: int,
        *,
        factor: float,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        until: Until | None = None,
        keep: str = "",
    ) -> Trace:
        """A run at ``factor`` times the rate with the plan's schedule, without norms of single steps."""
        order = list(batches) if batches is not None else list(range(self.training.batch_count))
        with preserved_rng(seed):
            session = self.training.fresh(factor)
            trace = self._train(session, steps, order, session.lr, same_batch, until)
        if keep:
            self.training.sessions[keep] = session
        return trace

    def _train(
        self, session: NumpySession, steps: int, order: Sequence[int], base: float, same_batch: bool, until: Until | None
    ) -> Trace:
        first = [p.copy() for p in session.params]
        start = norms(first)
        facts: list[StepFacts] = []
        stopped = ""
        for step in range(steps):
            index = order[step % len(order)]
            batch = self.training.batches[index]
            value = session.loss(batch, index)
            gradient = session.gradient(batch, index)
            sizes = norms(gradient)
            nonfinite = int(np.isinf(sizes).sum()) + (not math.isfinite(value))
            after, ratio = None, math.nan
            if nonfinite:
                stopped = f"{'the loss' if not math.isfinite(value) else 'a gradient'} is not finite at step {step}"
            else:
                session.lr = base * self.plan.factor(step)
                before = [p.copy() for p in session.params]
                session.step(gradient)
                ratio = _median_ratio(norms([p - b for p, b in zip(session.params, before, strict=True)]), norms(before))
                after = session.loss(batch, index) if same_batch else None
                stopped = until(step, index, value) if until is not None else ""
            facts.append(
                StepFacts(
                    step=step, batch=index, loss=value, loss_after=after, grad_norm=float(np.sqrt(np.nansum(sizes**2))),
                    update_ratio=ratio, nonfinite=nonfinite,
                )
            )
            if stopped:
                break
        moved = norms([p - f for p, f in zip(session.params, first, strict=True)])
        with np.errstate(divide="ignore", invalid="ignore"):
            movement = np.where(start > 0, moved / start, math.nan)
        nothing = np.zeros((0, len(session.params)))
        return Trace(
            steps=tuple(facts), blocks=tuple(n for n, _ in session.named), gradient=nothing, weight=nothing, update=nothing,
            stopped=stopped, movement=movement,
        )

    def follow(
        self, steps: int, *, factor: float, batch: int, seed: int = 0, until: Callable[[Sequence[float]], bool]
    ) -> tuple[float, ...]:
        """See :meth:`gradguard.adapters.rates_base.RateProblem.follow`."""
        data, losses = self.training.batches[batch], list[float]()
        session = self.training.fresh(factor)
        for step in range(steps + 1):
            with preserved_rng(seed):
                losses.append(session.loss(data, batch))
                if step == steps or until(losses):
                    break
                session.step(session.gradient(data, batch))
        return tuple(losses)

    def normalised(self, *, seed: int = 0) -> bool:
        """``gg.SGD`` is not."""
        return False

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

    def along(self, state: str, multiples: Sequence[float], *, seed: int = 0) -> tuple[float, ...]:
        """On a fresh copy; NaN where the loss cannot be had."""
        batches = range(min(ALONG, self.training.batch_count))
        start, kept = self.training.fresh(), self.training.sessions[state]
        way = [(p, p.copy(), w - p) for p, w in zip(start.params, kept.params, strict=True)]
        found = []
        for s in multiples:
            with np.errstate(all="ignore"), preserved_rng(seed):
                for parameter, origin, step in way:
                    parameter[...] = origin + s * step
                try:
                    found.append(sum(start.loss(self.training.batches[i], i) for i in batches) / len(batches))
                except UsageError:
                    found.append(math.nan)
        return tuple(found)

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


def _median_ratio(update: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    known = (weight > 0) & np.isfinite(update)
    return float(np.median(update[known] / weight[known])) if known.any() else math.nan


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
