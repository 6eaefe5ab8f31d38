"""A torch module, its loss, data and optimizer, trained on a copy. The user's objects are read and never written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.base import Counts, Settings
from gradguard.adapters.torch_batch_copies import TorchBatchCopies
from gradguard.adapters.torch_copies import Session, attempt
from gradguard.adapters.torch_untouched import clean, preserved_generators, preserved_rng, untouched
from gradguard.adapters.training_base import (
    Observer,
    OptimizerFacts,
    ParameterFacts,
    StepFacts,
    Trace,
    read_batches,
)
from gradguard.blocks import Block
from gradguard.errors import UsageError
from gradguard.scenarios import SGD, Scenario

__all__ = ["TorchTraining", "median_ratio", "norms"]


def norms(tensors: Sequence[torch.Tensor | None]) -> NDArray[np.float64]:
    """The 2-norm of each tensor, shape (P,); NaN for None, infinite where an entry is not finite. One fused pass."""
    found = [i for i, t in enumerate(tensors) if t is not None]
    result = np.full(len(tensors), math.nan)
    dense = []
    for i in found:
        tensor = tensors[i]
        assert tensor is not None
        tensor = tensor.detach()
        if hasattr(tensor, "full_tensor"):  # a sharded tensor's own norm is the local shard's
            tensor = tensor.full_tensor()
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor
        dense.append(tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor)
    if dense:
        values = torch._foreach_norm(dense)
        measured = torch.stack([v.to(device="cpu", dtype=torch.float64) for v in values]).numpy()
        result[found] = np.where(np.isnan(measured), math.inf, measured)
    return result


class TorchTraining:
    """A torch scenario that can be trained on copies; see :class:`gradguard.adapters.training_base.Trainable`."""

    def __init__(self, scenario: Scenario, settings: Settings) -> None:
        self.scenario = scenario
        self.settings = settings
        self.counts = Counts()
        self.path = "a copy of the module"
        self.objective = scenario.objective
        self.notes: tuple[str, ...] = ()
        self.sessions: dict[str, Session] = {}
        if not any(True for _ in scenario.model.parameters()):
            raise UsageError(
                "the model has no parameters",
                where=type(scenario.model).__name__,
                todo="give a model that can be trained",
            )
        if any(p.is_meta for p in scenario.model.parameters()):
            raise UsageError(
                "the model is on the meta device: its parameters have a shape and no values",
                where=type(scenario.model).__name__,
                todo="build it on a device, or to_empty() it and initialise its parameters",
            )
        lazy = [n for n, p in scenario.model.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
        if lazy:
            raise UsageError(
                f"parameter {lazy[0]} is not initialised yet (a lazy module)",
                where=type(scenario.model).__name__,
                todo="run the model once on a batch before the check",
            )
        if any(isinstance(module, torch.jit.ScriptModule) for module in scenario.model.modules()):
            raise UsageError(
                "a torch.jit module is not trained on a copy: its copies compute with the original's parameters",
                where=type(scenario.model).__name__,
                todo="give the module that it was made from; select the gradient rules (GG1) to check this one",
            )
        self._check_optimizer(scenario.optimizer)
        with preserved_rng(settings.seed), preserved_generators(scenario.batches):
            read = read_batches(scenario.batches, settings.steps)
        self.batches = read.items
        self.handed = TorchBatchCopies(self.batches)
        self.batch_count = len(self.batches)
        with preserved_rng(settings.seed):
            self.optimizer = self._optimizer_facts()
        self.notes = (*self.notes, *self.optimizer.notes)
        self.parameters = self._parameter_facts()
        self.blocks = tuple(
            Block(name=p.name, shape=p.shape, dtype=p.dtype, module=p.module, owner=p.owner)
            for p in self.parameters
            if p.trainable
        )

    @staticmethod
    def _check_optimizer(optimizer: Any) -> None:
        if optimizer is None or isinstance(optimizer, torch.optim.Optimizer | SGD):
            return
        if not callable(optimizer):
            raise UsageError(
                "optimizer takes a torch optimizer or a function that makes one from parameters, "
                f"got {type(optimizer).__name__}",
                todo="optimizer=torch.optim.Adam(model.parameters()), or optimizer=torch.optim.Adam",
            )

    def fresh(self, rate_scale: float = 1.0) -> Session:
        """A new copy of model and optimizer in the user's state."""
        return Session(self, rate_scale)

    def _optimizer_facts(self) -> OptimizerFacts:
        given = self.scenario.optimizer
        if given is None:
            return OptimizerFacts()
        session = self.fresh()
        mine = {id(p) for p in session.model.parameters()}
        held = [p for group in session.groups for p in group["params"]]
        original = getattr(given, "param_groups", [])
        notes = [
            f"group {i} has a rate of 0 and a scheduler: trained at its initial rate {group['initial_lr']:.3g}"
            for i, group in enumerate(original)
            if group["lr"] == 0 and group.get("initial_lr", 0) > 0
        ]
        name = type(session.optimizer).__name__ if session.optimizer is not None else ""
        if not session.groups and session.optimizer is not None:
            raise UsageError(
                f"optimizer(parameters) returned {name}, not a torch optimizer",
                todo="optimizer=lambda p: torch.optim.SGD(p, lr=0.1)",
            )
        owned = sum(id(p) in mine for p in held)
        return OptimizerFacts(
            name=name,
            lrs=tuple(float(g["lr"]) for g in session.groups),
            foreign=len(held) - owned,
            owned=owned,
            notes=tuple(notes),
        )

    def _parameter_facts(self) -> tuple[ParameterFacts, ...]:
        session = self.fresh() if self.scenario.optimizer is not None else None
        model = session.model if session else getattr(self.scenario.model, "_orig_mod", self.scenario.model)
        group_of = {id(p): i for i, g in enumerate(session.groups if session else []) for p in g["params"]}
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        facts = []
        for name, parameter in model.named_parameters():
            path = name.rpartition(".")[0]
            facts.append(
                ParameterFacts(
                    name=clean(name),
                    shape=tuple(parameter.shape),
                    dtype=str(parameter.dtype).removeprefix("torch."),
                    module=clean(path),
                    owner=type(model.get_submodule(path)).__name__,
                    trainable=parameter.requires_grad,
                    group=group_of.get(id(parameter)),
                    aliases=tuple(clean(n) for n in names[id(parameter)][1:]),
                )
            )
        return tuple(facts)

    def run(
        self,
        steps: int,
        *,
        rate_scale: float = 1.0,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        compare: int = 0,
        observers: Sequence[Observer] = (),
        keep: str = "",
        weight_scales: Mapping[str, float] | None = None,
    ) -> Trace:
        """Train a fresh copy; see :meth:`gradguard.adapters.training_base.Trainable.run`.

        ``keep`` names the trained copy in ``sessions`` for later looks at it.
        """
        order = list(batches) if batches is not None else list(range(self.batch_count))
        with untouched(self.scenario.model), preserved_rng(seed), torch.enable_grad():
            session = self.fresh(rate_scale)
            session.scale(weight_scales or {})
            trace = self._train(session, steps, order, seed, same_batch, order[:compare], observers)
        if keep:
            session.zero_grad()
            self.sessions[keep] = session
        return trace

    def _train(
        self,
        session: Session,
        steps: int,
        order: list[int],
        seed: int,
        same_batch: bool,
        compared: list[int],
        observers: Sequence[Observer],
    ) -> Trace:
        start = self.evaluate(session, compared, seed)
        first = [p.detach().clone() for p in session.params]
        facts: list[StepFacts] = []
        rows: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
        stopped = ""
        middle: tuple[float, ...] = ()
        for step in range(steps):
            if step == steps // 2 and step:
                middle = self.evaluate(session, compared, seed)
            index = order[step % len(order)]
            batch = self.batches[index]
            session.zero_grad()
            state = torch.get_rng_state()
            loss = session.loss(batch, index)
            session.backward(loss)
            value = float(loss.detach())
            gradient, weight = norms([p.grad for p in session.params]), norms(session.params)
            for observer in observers:
                observer(step, session)
            nonfinite = int(np.isinf(gradient).sum()) + (not math.isfinite(value))
            lrs = tuple(float(g["lr"]) for g in session.groups)
            before = [p.detach().clone() for p in session.params]
            after = None
            if nonfinite:
                stopped = f"{'the loss' if not math.isfinite(value) else 'a gradient'} is not finite at step {step}"
            else:
                stopped = attempt(session, batch, index, step)
                if same_batch and not stopped:
                    after = self._again(session, batch, index, state)
            update = norms([p.detach() - b for p, b in zip(session.params, before, strict=True)])
            rows.append((gradient, weight, update))
            facts.append(
                StepFacts(
                    step=step,
                    batch=index,
                    loss=value,
                    loss_after=after,
                    grad_norm=float(np.sqrt(np.nansum(gradient**2))),
                    lr=lrs,
                    update_ratio=median_ratio(update, weight),
                    nonfinite=nonfinite,
                )
            )
            if stopped:
                break
        moved = norms([p.detach() - f for p, f in zip(session.params, first, strict=True)])
        start_norm = norms(first)
        with np.errstate(divide="ignore", invalid="ignore"):
            movement = np.where(start_norm > 0, moved / start_norm, math.nan)
        shape = (len(rows), len(session.params))
        columns = [np.array([row[k] for row in rows]).reshape(shape) for k in range(3)]
        return Trace(
            steps=tuple(facts),
            blocks=tuple(n for n, _ in session.named),
            gradient=columns[0],
            weight=columns[1],
            update=columns[2],
            stopped=stopped,
            loss_start=start,
            loss_end=self.evaluate(session, compared, seed),
            loss_middle=middle,
            movement=movement,
            stray=session.stray,
        )

    def _again(self, session: Session, batch: Any, index: int, state: torch.Tensor) -> float:
        """The loss of the same batch with the same random state; buffers restored."""
        now = torch.get_rng_state()
        buffers = [(b, b.detach().clone()) for b in session.model.buffers()]
        torch.set_rng_state(state)
        with torch.enable_grad():  # a loss may take gradients itself
            value = float(session.loss(batch, index).detach())
        with torch.no_grad():
            for buffer, old in buffers:
                buffer.copy_(old)
        torch.set_rng_state(now)
        return value

    def evaluate(self, session: Session, indices: Sequence[int], seed: int) -> tuple[float, ...]:
        """The losses of chosen batches, shape (n,), each with a fixed random state of its own; nothing of the copy changes.

        (With one state for all, a loss that draws noise would be off by the same amount on every batch.)
        """
        losses = []
        for index in indices:
            with preserved_rng(seed + index):
                losses.append(self._again(session, self.batches[index], index, torch.get_rng_state()))
        return tuple(losses)


def median_ratio(update: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The median over blocks of ||update|| / ||weight||, of the blocks whose weight is not 0; NaN without one."""
    ratios = update[weight > 0] / weight[weight > 0]
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if ratios.size else math.nan
