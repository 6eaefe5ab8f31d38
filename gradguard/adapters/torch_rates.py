"""The learning rate of a torch scenario: runs with its schedule and clipping, and curvature, on copies."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import ALONG, HORIZON, Plan, SplitLoss, Until, called_schedule
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_curvature import TorchCurvature
from gradguard.adapters.torch_rate_runs import losses_of_one_batch, losses_of_run, scaled_update
from gradguard.adapters.torch_rate_training import RateTraining
from gradguard.adapters.torch_step_rules import is_adaptive
from gradguard.adapters.torch_untouched import preserved_rng, untouched
from gradguard.adapters.training_base import Trace
from gradguard.errors import UsageError
from gradguard.scenarios import Scenario

__all__ = ["TorchRates"]


class TorchRates:
    """See :class:`gradguard.adapters.rates_base.RateProblem`."""

    def __init__(self, scenario: Scenario, settings: Settings, *, schedule: Any = None, clip: float | None = None) -> None:
        self.training = RateTraining(scenario, settings)
        self.objective = scenario.objective
        self.blocks, self.counts, self.path = self.training.blocks, self.training.counts, self.training.path
        factors, source = _factors(schedule, scenario.optimizer, settings.steps)
        self.plan = Plan(factors=factors, source=source, clip=clip)
        self.notes = (*self.training.notes, *([f"schedule: {source}"] if source else []))

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
        """A run with the plan's schedule and clipping."""
        observers = [self._drive] if self.plan.factors or self.plan.clip is not None else []
        return self.training.run(
            steps, rate_scale=rate_scale, seed=seed, batches=batches, same_batch=same_batch, compare=compare,
            observers=observers, keep=keep,
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
        """A run at ``factor`` times the rates with the plan's schedule and clipping, without norms."""
        order = list(batches) if batches is not None else list(range(self.training.batch_count))
        drive = self._drive if self.plan.factors or self.plan.clip is not None else None
        return losses_of_run(
            self.training, steps, factor=factor, seed=seed, order=order, drive=drive, until=until, same_batch=same_batch,
            keep=keep,
        )

    def follow(
        self, steps: int, *, factor: float, batch: int, seed: int = 0, until: Callable[[Sequence[float]], bool]
    ) -> tuple[float, ...]:
        """See :meth:`gradguard.adapters.rates_base.RateProblem.follow`."""
        return losses_of_one_batch(
            self.training, steps, factor=factor, batch=batch, seed=seed, clip=self.plan.clip, until=until
        )

    def normalised(self, *, seed: int = 0) -> bool:
        """Tried on a copy: the same gradient, and a hundred times as much."""
        return scaled_update(self.training, 100.0, seed) < 10.0 * scaled_update(self.training, 1.0, seed)

    def _drive(self, step: int, session: Session) -> None:
        """Before the optimizer's step: the schedule's rate, then the clipped gradient."""
        if self.plan.factors:
            for group in session.groups:
                base = group.setdefault("gradguard_base", group["lr"])
                group["lr"] = base * self.plan.factor(step)
        if self.plan.clip is not None:
            torch.nn.utils.clip_grad_norm_(session.params, self.plan.clip)

    def point(self, *, batch: int = 0, warm_steps: int = 0, rate_scale: float = 1.0, seed: int = 0) -> TorchCurvature:
        """Curvature on a copy; the rates are those of the user, whatever the warm start was made with."""
        if warm_steps:
            self.run(warm_steps, rate_scale=rate_scale, seed=seed, keep="curvature")
            session = self.training.sessions.pop("curvature")
            for group, lr in zip(session.groups, self.training.optimizer.lrs, strict=True):
                group["lr"] = lr
        else:
            with preserved_rng(seed):
                session = self.training.fresh()
        with preserved_rng(seed):
            return BorrowedCurvature(self, session, batch)

    def adaptive(self) -> bool:
        """Whether the optimizer is adaptive and its state is empty."""
        with preserved_rng():
            session = self.training.fresh()
        return is_adaptive(session.optimizer) and not any(map(_has_seen, session.optimizer.state.values()))

    def null_losses(self, batches: Sequence[int], *, seed: int = 0) -> tuple[float, ...]:
        """Losses with every trainable parameter at zero."""
        with untouched(self.training.scenario.model), preserved_rng(seed), torch.no_grad():
            session = self.training.fresh()
            for parameter in session.params:
                parameter.zero_()
            try:
                return self.training.evaluate(session, batches, seed)
            except UsageError:
                return ()

    def along(self, state: str, multiples: Sequence[float], *, seed: int = 0) -> tuple[float, ...]:
        """On copies; NaN where the loss cannot be had."""
        batches = range(min(ALONG, self.training.batch_count))
        found = []
        with untouched(self.training.scenario.model), preserved_rng(seed):
            kept, start = self.training.sessions[state], self.training.fresh()
            way = [(p, w.detach().clone(), p.detach() - w.detach()) for p, w in zip(kept.params, start.params, strict=True)]
            for s in multiples:
                with torch.no_grad():
                    for parameter, origin, step in way:
                        parameter.copy_(origin + s * step)
                try:
                    found.append(sum(self.training.evaluate(kept, batches, seed)) / len(batches))
                except UsageError:
                    found.append(math.nan)
            with torch.no_grad():
                for parameter, origin, step in way:
                    parameter.copy_(origin + step)
        return tuple(found)

    def split_loss(self, batch: int, *, seed: int = 0) -> SplitLoss | None:
        """The batch's loss and that of its halves, cut along the first axis that all of its tensors share."""
        whole = self.training.batches[batch]
        found: list[torch.Tensor] = []
        _tensors(whole, found)
        sized = {t.shape[0] for t in found if t.ndim}
        sparse = any(t.layout != torch.strided for t in found)  # which cannot be cut
        if sparse or len(sized) != 1 or min(sized) < 2:
            return None
        samples = sized.pop()
        half = samples // 2
        parts = [whole, _cut(whole, 0, half), _cut(whole, half, 2 * half)]
        with untouched(self.training.scenario.model), torch.no_grad():
            losses = []
            for part in parts:
                with preserved_rng(seed):
                    session = self.training.fresh()
                    try:
                        losses.append(float(session.loss(part, batch)))
                    except UsageError:
                        return None
        return SplitLoss(whole=losses[0], halves=(losses[1], losses[2]), samples=samples)


class BorrowedCurvature(TorchCurvature):
    """Curvature of one batch's loss that leaves the random state and the user's model as they are, on every call."""

    def __init__(self, problem: TorchRates, session: Session, batch: int) -> None:
        self.problem = problem
        self.session = session
        super().__init__(lambda: session.loss(problem.training.batches[batch], batch), session.optimizer)

    def _evaluate(self, *, create_graph: bool) -> Sequence[torch.Tensor | None]:
        self.problem.counts.backwards += 1
        with untouched(self.problem.training.scenario.model), preserved_rng():
            return super()._evaluate(create_graph=create_graph)


def _has_seen(state: dict[str, Any]) -> bool:
    """Whether a parameter's state holds anything of a gradient; Adagrad's is made with the optimizer, at step 0."""
    if "step" in state:
        return float(state["step"]) > 0
    return any(bool(value.any()) for value in state.values() if isinstance(value, torch.Tensor))


def _factors(schedule: Any, optimizer: Any, steps: int) -> tuple[tuple[float, ...], str]:
    """A schedule as factors on the rates that the training copy starts from, and where they come from."""
    if schedule is None:
        return _assumed(optimizer, steps)
    if hasattr(schedule, "optimizer") and hasattr(schedule, "step"):
        return _scheduler_factors(schedule), type(schedule).__name__
    if callable(schedule):
        return called_schedule(schedule, steps), getattr(schedule, "__name__", "a function")
    raise UsageError(
        f"schedule takes a function step -> factor or a torch scheduler, got {type(schedule).__name__}", where="schedule"
    )


def _assumed(optimizer: Any, steps: int) -> tuple[tuple[float, ...], str]:
    """A scheduler that holds the rate at 0 for now is a warm-up: a linear one, over half of the run."""
    groups = getattr(optimizer, "param_groups", [])
    if not groups or not all(group["lr"] == 0 and group.get("initial_lr", 0) > 0 for group in groups):
        return (), ""
    ramp = max(1, steps // 2)
    source = f"a scheduler starts at 0: taken as linear warm-up over {ramp} steps"
    return tuple((step + 1) / ramp for step in range(ramp)), source


def _scheduler_factors(schedule: Any) -> tuple[float, ...]:
    """What a copy of a torch scheduler does with the rate of each group, the largest factor over groups per step."""
    optimizer = schedule.optimizer
    memo: dict[int, Any] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            memo[id(parameter)] = torch.nn.Parameter(torch.zeros(1))
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                memo[id(value)] = torch.zeros(1)
    mine = copy.deepcopy(schedule, memo)
    start = [float(g["lr"]) or float(g.get("initial_lr", 0.0)) for g in mine.optimizer.param_groups]
    mine.optimizer.zero_grad()
    factors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scheduler finds fault with the order of steps on a copy, where none was taken
        for _ in range(HORIZON):
            rates = [float(g["lr"]) for g in mine.optimizer.param_groups]
            factors.append(max((r / s for r, s in zip(rates, start, strict=True) if s > 0), default=1.0))
            try:
                mine.optimizer.step()
                mine.step()
            except Exception:  # a cycle that has come to its end, or one that waits for a metric
                break
    return tuple(factors)


def _tensors(part: Any, found: list[torch.Tensor]) -> None:
    if isinstance(part, torch.Tensor):
        found.append(part)
    elif isinstance(part, dict):
        for value in part.values():
            _tensors(value, found)
    elif isinstance(part, list | tuple):
        for value in part:
            _tensors(value, found)


def _cut(part: Any, start: int, stop: int) -> Any:
    if isinstance(part, torch.Tensor):
        return part[start:stop] if part.ndim else part
    if isinstance(part, dict) or hasattr(part, "items"):
        return {key: _cut(value, start, stop) for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_cut(value, start, stop) for value in part))
    if isinstance(part, list | tuple):
        return type(part)(_cut(value, start, stop) for value in part)
    return part
