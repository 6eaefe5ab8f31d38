"""Watches a torch loop that is the user's own: gradients where the optimizer reads them, units in looks now and then.

On a step: one fused norm over all gradients, kept on the device and transferred late. Nothing is written to the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradguard.adapters.base import Counts
from gradguard.adapters.nesting import flatten
from gradguard.adapters.observing_base import CodeFacts, LayerUnits, Look, Nonfinite
from gradguard.adapters.torch_compiled import compiling, is_compiled, is_scripted, left_alone
from gradguard.adapters.torch_modes import ModeWatch
from gradguard.adapters.torch_observe import identical_rows
from gradguard.adapters.torch_stale import StaleWatch
from gradguard.adapters.torch_untouched import clean
from gradguard.adapters.torch_watch_looks import Looks
from gradguard.adapters.torch_watch_losses import Recorded
from gradguard.adapters.torch_watch_optimizers import group_of_parameters, optimizer_facts
from gradguard.adapters.torch_watch_replay import first_bad
from gradguard.adapters.torch_watch_steps import Steps
from gradguard.adapters.torch_watch_underflow import FlushWatch
from gradguard.adapters.training_base import OptimizerFacts, ParameterFacts, Trace
from gradguard.blocks import Block
from gradguard.errors import UsageError

__all__ = ["TorchWatch", "one_model"]

FIRST_SPIKES, SPIKES_EVERY = 2, 200
"""Looks after spikes: two, and one more for every so many passes. A look costs about a step."""


def one_model(model: Any) -> torch.nn.Module | None:
    """The module, or one container around a dict or sequence of them; None for everything else.

    Raises:
        UsageError: its parameters have no shape yet, or a name cannot be one of a module.
    """
    if isinstance(model, torch.nn.Module):
        lazy = next((n for n, p in model.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedParameter)), None)
        if lazy is not None:
            raise UsageError(
                f"{lazy} is not initialised: its shape is not known before the first pass",
                where=type(model).__name__,
                todo="call the model on one batch before gg.watch(...)",
            )
        return model
    parts = list(model.values()) if isinstance(model, dict) else list(model) if isinstance(model, list | tuple) else []
    if not parts or not all(isinstance(part, torch.nn.Module) for part in parts):
        return None
    if isinstance(model, dict):
        wrong = next((name for name in model if not isinstance(name, str) or not name or "." in name), None)
        if wrong is not None:
            raise UsageError(f"a dict of models takes names without dots, got {wrong!r}", where="watch")
        return one_model(torch.nn.ModuleDict(model))
    return one_model(torch.nn.ModuleList(parts))


class TorchWatch:
    """Hooks on one model and its optimizers, for as long as the block of ``watch`` runs."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        objective: str,
        every: int,
        looks_every: int,
        units: str,
    ) -> None:
        self.model, self.optimizers, self.objective = model, list(optimizers), objective
        self.counts = Counts()
        self.path = "the user's loop"
        self.notes: tuple[str, ...] = ()
        self.named = [(clean(n), p) for n, p in model.named_parameters() if p.requires_grad]
        self.blocks = tuple(Block(name=n, shape=tuple(p.shape), dtype=str(p.dtype)) for n, p in self.named)
        self.compiled = is_scripted(model) or any(is_compiled(module) for module in model.modules())
        if self.compiled:
            self.notes = ("the model is compiled: its units were not looked at",)
        self.steps = Steps(self.named, self.optimizers, every)
        self.recorded = Recorded(every)
        self.stale = StaleWatch(self.optimizers)
        self.modes = ModeWatch(model)
        self.looks = Looks(
            model,
            looks_every=looks_every,
            follow=units == "every",
            blind=self.compiled,
            steps=lambda: self.steps.count,
        )
        self.looks.on_call = self._called
        self.flushes = FlushWatch(model, self.named)
        self.flushes.busy = self.looks.pause
        self.looks.on_output = self._output
        self.nonfinite: Nonfinite | None = None
        self.spikes = 0
        self.settled = False
        """The first thing that was not finite is known; what comes after it is its consequence."""
        self.start_rows = tuple(n for n, p in self.named if identical_rows(p))
        self.start_zero = tuple(n for n, p in self.named if not bool(p.detach().any()))
        self._groups = group_of_parameters(self.optimizers, self.named)
        self._finite_loss = False
        self._handles: list[Any] = []

    @contextmanager
    def installed(self) -> Iterator[TorchWatch]:
        """Hooks in, and out again whatever happens."""
        try:
            for optimizer in self.optimizers:
                self._handles.append(optimizer.register_step_pre_hook(self._before_step))
                self._handles.append(optimizer.register_step_post_hook(self._after_step))
            self._handles.extend(self.stale.install())
            self.flushes.installed()
            self._handles.extend(self.modes.install())
            self.looks.install()
            yield self
        finally:
            self._safely(self.looks.remove)
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            self.stale.forget()
            self.flushes.forget()
            self.steps.forget()

    def _safely(self, see: Callable[..., None], *given: Any) -> None:
        """What cannot be seen is noted; the user's loop goes on."""
        try:
            see(*given)
        except Exception as error:
            note = f"not seen: {type(error).__name__} in {see.__name__.strip('_')}: {error}".splitlines()[0]
            self.notes = tuple(dict.fromkeys((*self.notes, note)))[:8]

    def _called(self) -> None:
        self.steps.between = True
        self._finite_loss = False

    def _output(self, output: Any) -> None:
        """What the model returned in a look: its backward pass tells what float16 lost."""
        made = [t for _, t in flatten(output, "") if isinstance(t, torch.Tensor) and t.requires_grad]
        if self.looks.float16 and made and (len(made) == 1 or made[0].numel() == 1):
            self._safely(self.flushes.arm, made[0])

    # steps

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if compiling():
            return
        self._safely(self._begin_step, optimizer, with_closure(args, kwargs))

    def _begin_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        if not closure and not self.steps.open(optimizer):
            self.stale.before_step(optimizer)
        if not self.steps.open(optimizer):
            self.modes.step(optimizer)
        self.looks.step()
        look = self.looks.suspect is not None
        wrong, new = self.steps.begin(optimizer, closure=closure, look=look)
        self._judge_step(optimizer, wrong, new)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if compiling():
            return
        self._safely(self._end_step, optimizer, with_closure(args, kwargs))

    def _end_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        if closure and self.steps.open(optimizer):  # its gradients were made inside the step
            self.stale.before_step(optimizer)
        self.stale.after_step(optimizer)
        self._judge_step(optimizer, *self.steps.end(optimizer))
        self.looks.step()

    def _judge_step(self, optimizer: torch.optim.Optimizer, wrong: str, new: list[str]) -> None:
        if new:
            self.looks.again(new)
        rare = self.spikes < FIRST_SPIKES + self.looks.forwards // SPIKES_EVERY
        if wrong == "spike" and rare and self.looks.forwards - self.looks.last_looked_at >= self.steps.every:
            self.spikes += 1
            self.looks.wanted = True
        if wrong == "nonfinite" and not self.settled:
            self._find_nonfinite(self.steps.nonfinite_blocks(optimizer))

    # what is not finite

    def _find_nonfinite(self, blocks: Sequence[str] | None) -> None:
        """The last calls once more name the first bad module. ``blocks``: whose gradient it is; None: a recorded loss."""
        self.looks.wanted = self.settled = True
        batch = self.looks.forwards - 1
        if blocks is not None and self._finite_loss:
            return  # the forward pass is right: GG302 names the blocks
        self.looks.end()
        found, note = None, ""
        if self.looks.calls:
            self.looks.busy = True
            try:
                found, note = first_bad(self.model, self.looks.calls, batch, compiled=self.compiled)
            finally:
                self.looks.busy = False
        found = found or self.looks.suspect
        if note:
            self.notes = (*self.notes, note)
        if found is None and blocks is None:
            found = Nonfinite(module="", owner="", batch=batch, where="loss", before=self.looks.order()[-3:])
        elif found is None and blocks:
            order = [n for n in (self.looks.start.order if self.looks.start else ()) if n in blocks] or blocks
            found = Nonfinite(module=order[-1].rpartition(".")[0], owner="", batch=batch, where="gradient")
        if found is not None:
            self.nonfinite = replace(found, step=self.steps.count)

    def _only_gradient(self, found: Nonfinite) -> bool:
        """It is the gradient of the step that was just made."""
        return found.where == "gradient" and not self.steps.between and found.step == self.steps.count - 1

    # what the user records

    def record(self, loss: Any, output: Any, labels: Any) -> None:
        """The loss of this batch, and its outputs and labels, where the user gives them.

        Raises:
            UsageError: the loss is no scalar.
        """
        if loss is not None:
            if not isinstance(loss, torch.Tensor):
                loss = torch.tensor(as_number(loss))
            if loss.numel() != 1:
                raise UsageError(
                    f"record(loss=...) takes a scalar, got a tensor of shape {tuple(loss.shape)}",
                    todo="record the reduced loss",
                )
            value = loss.detach().reshape(())
            self.steps.loss(value)
            if value.device.type == "cpu":
                self._finite_loss = math.isfinite(float(value))
                if not self._finite_loss and not self.settled:
                    self._safely(self._find_nonfinite, None)
                elif self.nonfinite is not None and self._only_gradient(self.nonfinite):
                    # as where the loss is recorded before the step: it is the loss, or GG302 names the blocks
                    loss_is = replace(self.nonfinite, where="loss", module="", before=self.looks.order()[-3:])
                    self.nonfinite = None if self._finite_loss else loss_is
            if self.looks.under_way and self.looks.float16:
                self._safely(self.flushes.arm, loss)
        self._safely(self.recorded.add, loss, output, labels)

    # what was seen

    @property
    def parameters(self) -> tuple[ParameterFacts, ...]:
        """Every parameter as the loop used it: trainable at the start and since, in a group then or now."""
        groups = group_of_parameters(self.optimizers, self.named) | self._groups
        owners = dict(self.model.named_modules(remove_duplicate=False))
        followed = {id(p): i for i, p in enumerate(self.steps.params)}
        facts = []
        for name, parameter in self.model.named_parameters():
            path = name.rpartition(".")[0]
            index = followed.get(id(parameter))
            trained = index is not None and index not in self.steps.unseen
            facts.append(
                ParameterFacts(
                    name=clean(name),
                    shape=tuple(parameter.shape),
                    dtype=str(parameter.dtype).removeprefix("torch."),
                    module=clean(path),
                    owner=type(owners[path]).__name__,
                    trainable=index is not None and (trained or parameter.requires_grad),
                    group=groups.get(id(parameter)),
                )
            )
        return tuple(facts)

    @property
    def optimizer(self) -> OptimizerFacts:
        """All optimizers as one."""
        return optimizer_facts(self.optimizers, self.model, self.named)

    @property
    def cut(self) -> tuple[str, ...]:
        """Modules whose gradient ended at a cut that the loop went on from, in some look."""
        return tuple(self.looks.cut)

    @property
    def unlooked(self) -> str:
        """Why there was no look; empty where there was one."""
        if self.looks.count:
            return ""
        called = "no module of the model was called with gradients enabled"
        return self.notes[0] if self.notes else f"{called} (compiled code and functional calls are not seen)"

    @property
    def something(self) -> bool:
        """Something of the passes is known, from looks or from what was recorded."""
        return bool(self.looks.count or self.nonfinite is not None or self.recorded.losses or self.recorded.latest)

    def trace(self) -> Trace:
        """The steps that were kept, transferred now."""
        return self.steps.trace()

    def passes(self) -> tuple[Look, Look | None]:
        """Looks at the start and at the end, with their units merged over the passes that were seen."""
        looks = self.looks
        start = looks.start or Look(step=0, order=self.steps.names)  # nothing is known to be unused
        start = replace(
            start,
            units=merged(looks.first_units or [start.units]),
            losses=self.recorded.losses,
            outputs=self.recorded.start() or start.outputs,
            identical_rows=self.start_rows,
            zero_blocks=self.start_zero,
            nonfinite=self.nonfinite if self.nonfinite is not None and not self.nonfinite.step else None,
        )
        if not self.steps.count:
            return start, None
        late, codes = looks.latest()
        units = merged([tuple(one) for one in late])
        end = replace(
            looks.last or start,
            units=looks.peaks.alive(units) if looks.peaks is not None else units,
            codes=counted(codes),
            outputs=self.recorded.end() or (looks.last.outputs if looks.last is not None else None),
            losses=self.recorded.losses,
            identical_rows=tuple(n for n, p in self.named if identical_rows(p)),
            zero_blocks=tuple(n for n, p in self.named if not bool(p.detach().any())),
            step=self.steps.count,
            nonfinite=self.nonfinite if self.nonfinite is not None and self.nonfinite.step else None,
        )
        return start, end


def with_closure(args: Any, kwargs: Any) -> bool:
    """A step was given a closure: ``args`` begins with the optimizer itself."""
    return any(callable(given) for given in (*args[1:], kwargs.get("closure")))


def as_number(loss: Any) -> float:
    """A loss that is no tensor.

    Raises:
        UsageError: it is no number either.
    """
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise UsageError(
            f"record(loss=...) takes a scalar, got {type(loss).__name__}", todo="record the reduced loss"
        ) from None


def counted(layers: Sequence[Sequence[CodeFacts]]) -> tuple[CodeFacts, ...]:
    """Choices over several passes."""
    found: dict[tuple[str, str], CodeFacts] = {}
    for facts in (one for layer in layers for one in layer):
        old = found.get((facts.layer, facts.kind))
        same = old is not None and len(old.counts) == len(facts.counts)
        found[facts.layer, facts.kind] = replace(facts, counts=old.counts + facts.counts) if same and old else facts
    return tuple(found.values())


def merged(looks: Sequence[tuple[LayerUnits, ...]]) -> tuple[LayerUnits, ...]:
    """Units over several passes: the largest derivative, means weighted by samples."""
    found: dict[tuple[str, str, str], LayerUnits] = {}
    for units in looks:
        for u in units:
            key = (u.layer, u.kind, u.block)
            old = found.get(key)
            if old is None or len(old.slope) != len(u.slope):
                found[key] = u
                continue
            n, m = old.samples, u.samples
            mean = {k: (getattr(old, k) * n + getattr(u, k) * m) / max(1, n + m) for k in ("flat", "zeros", "size")}
            rms = np.sqrt((old.rms**2 * n + u.rms**2 * m) / max(1, n + m))
            found[key] = replace(
                old, samples=n + m, slope=np.maximum(old.slope, u.slope), rms=rms, pruned=old.pruned & u.pruned, **mean
            )
    return tuple(found.values())


left_alone(TorchWatch._before_step, TorchWatch._after_step)
