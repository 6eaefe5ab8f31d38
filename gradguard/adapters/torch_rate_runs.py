"""A short run for the learning rate: the losses of a training copy, without the norms that other checks take on each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gradguard.adapters.rates_base import LOOK_EVERY, Until
from gradguard.adapters.torch_copies import Session, attempt
from gradguard.adapters.torch_training import TorchTraining, median_ratio, norms
from gradguard.adapters.torch_untouched import preserved_rng, untouched
from gradguard.adapters.training_base import StepFacts, Trace

__all__ = ["losses_of_one_batch", "losses_of_run", "scaled_update"]


def losses_of_run(
    training: TorchTraining,
    steps: int,
    *,
    factor: float,
    seed: int,
    order: Sequence[int],
    drive: Callable[[int, Session], None] | None,
    until: Until | None,
    same_batch: bool,
    keep: str,
) -> Trace:
    """See :meth:`gradguard.adapters.rates_base.RateProblem.attempt`; ``drive`` is called before each optimizer step."""
    with untouched(training.scenario.model), preserved_rng(seed), torch.enable_grad():
        session = training.fresh(factor)
        trace = _train(training, session, steps, order, drive, until, same_batch)
    if keep:
        session.zero_grad()
        training.sessions[keep] = session
    return trace


def _train(
    training: TorchTraining,
    session: Session,
    steps: int,
    order: Sequence[int],
    drive: Callable[[int, Session], None] | None,
    until: Until | None,
    same_batch: bool,
) -> Trace:
    first = [p.detach().clone() for p in session.params]
    facts: list[StepFacts] = []
    stopped = ""
    for step in range(steps):
        index = order[step % len(order)]
        batch = training.batches[index]
        session.zero_grad()
        state = torch.get_rng_state() if same_batch else None
        loss = session.loss(batch, index)
        session.backward(loss)
        value = float(loss.detach())
        gradient = norms([p.grad for p in session.params])
        nonfinite = int(np.isinf(gradient).sum()) + (not math.isfinite(value))
        ratio, after = math.nan, None
        if nonfinite:
            stopped = f"{'the loss' if not math.isfinite(value) else 'a gradient'} is not finite at step {step}"
        else:
            if drive is not None:
                drive(step, session)
            before = [p.detach().clone() for p in session.params] if step % LOOK_EVERY == 0 else []
            stopped = attempt(session, batch, index, step)
            if before:
                moved = norms([p.detach() - b for p, b in zip(session.params, before, strict=True)])
                ratio = median_ratio(moved, norms(before))
            if state is not None and not stopped:
                after = training._again(session, batch, index, state)
            if until is not None and not stopped:
                stopped = until(step, index, value)
        facts.append(
            StepFacts(
                step=step, batch=index, loss=value, loss_after=after, grad_norm=float(np.sqrt(np.nansum(gradient**2))),
                update_ratio=ratio, nonfinite=nonfinite,
            )
        )
        if stopped:
            break
    with np.errstate(divide="ignore", invalid="ignore"):
        start = norms(first)
        moved = norms([p.detach() - f for p, f in zip(session.params, first, strict=True)])
        movement = np.where(start > 0, moved / start, math.nan)
    nothing = np.zeros((0, len(session.params)))
    return Trace(
        steps=tuple(facts), blocks=tuple(n for n, _ in session.named), gradient=nothing, weight=nothing, update=nothing,
        stopped=stopped, movement=movement,
    )


def losses_of_one_batch(
    training: TorchTraining,
    steps: int,
    *,
    factor: float,
    batch: int,
    seed: int,
    clip: float | None,
    until: Callable[[Sequence[float]], bool],
) -> tuple[float, ...]:
    """See :meth:`gradguard.adapters.rates_base.RateProblem.follow`."""
    data, losses = training.batches[batch], list[float]()
    with untouched(training.scenario.model), torch.enable_grad():
        session = training.fresh(factor)
        _forget_momentum(session.optimizer)
        sign = -1.0 if session.maximised else 1.0
        for step in range(steps + 1):
            session.zero_grad()
            with preserved_rng(seed):
                loss = session.loss(data, batch)
                losses.append(sign * float(loss.detach()))
                if step == steps or until(losses):
                    break
                session.backward(loss)
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(session.params, clip)
                if attempt(session, data, batch, step):
                    losses.append(math.inf)
                    break
    return tuple(losses)


def _forget_momentum(optimizer: torch.optim.Optimizer) -> None:
    """What is left of other batches' gradients would push on at any rate."""
    for state in optimizer.state.values():
        for name in ("exp_avg", "momentum_buffer"):
            if isinstance(state.get(name), torch.Tensor):
                state[name].zero_()


def scaled_update(training: TorchTraining, scale: float, seed: int) -> float:
    """The norm of the first step on the first batch, with the gradient multiplied by ``scale``; NaN where there is none."""
    with untouched(training.scenario.model), preserved_rng(seed), torch.enable_grad():
        session = training.fresh()
        session.backward(session.loss(training.batches[0], 0))
        with torch.no_grad():
            for parameter in session.params:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        before = [p.detach().clone() for p in session.params]
        if isinstance(session.optimizer, torch.optim.LBFGS):  # it takes gradients itself
            return math.nan
        session.step(training.batches[0], 0)
        moved = norms([p.detach() - b for p, b in zip(session.params, before, strict=True)])
    return float(np.sqrt(np.nansum(moved**2)))
