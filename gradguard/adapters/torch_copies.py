"""A copy of a model and its optimizer that trains, with the user's own loss; the user's objects are read and never written."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from gradguard.adapters.torch_stray import stray_tensors
from gradguard.adapters.torch_untouched import clean
from gradguard.errors import INTERRUPTS, UsageError
from gradguard.scenarios import SGD

if TYPE_CHECKING:
    from gradguard.adapters.torch_training import TorchTraining

__all__ = ["Session", "attempt"]


def leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors whose ``.grad`` a backward of the loss would fill."""
    queue, seen = [loss.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        queue.extend(parent for parent, _ in node.next_functions)


class Session:
    """A deep copy of model and optimizer, sharing nothing with the user's: state, groups and tied weights are kept."""

    def __init__(self, problem: TorchTraining, rate_scale: float = 1.0) -> None:
        self.problem = problem
        self.checked = False
        self.stray: tuple[str, ...] = ()
        model, optimizer = problem.scenario.model, problem.scenario.optimizer
        model = getattr(model, "_orig_mod", model)
        memo: dict[int, Any] = {}
        for module in model.modules():
            for value in vars(module).values():  # caches and old weight_norm hold graph results, which deepcopy refuses
                if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                    memo[id(value)] = value.detach().clone()
        self.model: torch.nn.Module = copy.deepcopy(model, memo)
        for parameter in self.model.parameters():
            parameter.grad = None
        self.optimizer: Any = None
        if isinstance(optimizer, torch.optim.Optimizer):
            self.optimizer = copy.deepcopy(optimizer, memo)
            for key, value in vars(optimizer).items():  # what an optimizer keeps beside state and groups is not pickled
                if key not in vars(self.optimizer) and not callable(value) and "hook" not in key:
                    setattr(self.optimizer, key, copy.deepcopy(value, memo))
        elif isinstance(optimizer, SGD):
            trainable = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.SGD(trainable, lr=optimizer.lr, momentum=optimizer.momentum) if trainable else None
        elif optimizer is not None:
            self.optimizer = optimizer(self.model.parameters())
        for group in self.groups:
            if group["lr"] == 0 and group.get("initial_lr", 0) > 0:
                group["lr"] = group["initial_lr"]
            group["lr"] = group["lr"] * rate_scale
        self.named = [(clean(n), p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.params = [p for _, p in self.named]
        held = {id(p) for group in self.groups for p in group["params"]}
        self.beside = [t for key, (_, t) in stray_tensors(self.model).items() if key in held]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; none where there is no optimizer."""
        return list(getattr(self.optimizer, "param_groups", []))

    @property
    def maximised(self) -> bool:
        """The optimizer climbs."""
        return any(group.get("maximize") for group in self.groups)

    def loss(self, batch: Any, index: int = 0) -> torch.Tensor:
        """The user's loss of one batch, a tensor of one entry.

        Raises:
            UsageError: it raises, or returns something else.
        """
        self.problem.counts.forwards += 1
        try:
            value = self.problem.scenario.loss(self.model, self.problem.handed.of(batch))
        except (UsageError, *INTERRUPTS):
            raise
        except Exception as error:
            raise UsageError(
                f"the loss raised {type(error).__name__}: {error}".splitlines()[0],
                where=f"loss(model, batch) on batch {index}",
                todo="loss takes a model like yours and one batch; are all batches of the shapes that it expects?",
            ) from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UsageError(
                f"the loss returned {shown}, not a scalar tensor",
                where=f"loss(model, batch) on batch {index}",
                todo="reduce it: loss.mean(); and do not call .item()",
            )
        if not self.checked and value.requires_grad:
            self.checked = True
            self._only_the_copy(value)
        return value.reshape(())

    def _only_the_copy(self, loss: torch.Tensor) -> None:
        """Gradients of the user's own parameters would never reach the copy."""
        theirs = {id(p) for p in self.problem.scenario.model.parameters() if p.requires_grad}
        used = {id(leaf) for leaf in leaves(loss)}
        held = {id(p) for group in self.groups for p in group["params"]}
        self.stray = tuple(name for key, (name, _) in stray_tensors(self.model).items() if key in used and key not in held)
        if used & theirs:
            raise UsageError(
                "the loss reached your model instead of the copy that it was given",
                where="loss(model, batch)",
                todo="use the first argument: loss=lambda model, batch: ... model(batch) ...",
            )

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients into the copy's parameters only (a teacher that the loss closes over keeps its ``.grad``)."""
        self.problem.counts.backwards += 1
        if not loss.requires_grad or not self.params:
            return
        try:
            torch.autograd.backward(loss, inputs=[*self.params, *self.beside])
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            torch.autograd.backward(loss)  # reentrant checkpointing refuses chosen inputs

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply parameters by name."""
        with torch.no_grad():
            for name, parameter in self.named:
                if name in factors:
                    parameter.mul_(factors[name])

    def zero_grad(self) -> None:
        """No gradient, in the model and in what else the optimizer holds."""
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def step(self, batch: Any, index: int) -> None:
        """One optimizer step; optimizers that need a closure get one."""
        if self.optimizer is None:
            return

        def closure() -> torch.Tensor:
            self.zero_grad()
            with torch.enable_grad():
                loss = self.loss(batch, index)
                self.backward(loss)
            return loss.detach()

        optimizer: Any = self.optimizer
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
            return
        try:
            optimizer.step()
        except (TypeError, AssertionError, ValueError, RuntimeError):
            if "closure" not in inspect.signature(type(optimizer).step).parameters:
                raise
            optimizer.step(closure)  # it evaluates the loss again, and had to be asked first: as sharpness-aware ones do


def attempt(session: Session, batch: Any, index: int, step: int) -> str:
    """One optimizer step; why the run ends where the rate is a number that the parameters' type cannot hold."""
    try:
        session.step(batch, index)
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        return f"the rate is more than the parameters' type can hold at step {step}"
    return ""
