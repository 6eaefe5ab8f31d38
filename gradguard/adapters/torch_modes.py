"""Train and eval mode of a torch model: which modules act on it, what the loss does with it, and a loop's steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradguard.adapters.modes_base import ModeFacts
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_compiled import Hook, is_scripted, left_alone, unseen
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_training import TorchTraining
from gradguard.adapters.torch_untouched import clean, preserved_rng, untouched

__all__ = ["ModeWatch", "dependent_modules", "modes_of"]


def dependent_modules(model: torch.nn.Module) -> tuple[str, ...]:
    """Torch's own modules that act differently in train and eval mode, by path; a probability of 0 has no effect."""
    return tuple(clean(name) for name, module in model.named_modules() if _depends(module))


def _depends(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.nn.modules.batchnorm._NormBase):
        return module.running_mean is not None
    return isinstance(module, torch.nn.RReLU) or _drops(module)


def _drops(module: torch.nn.Module) -> bool:
    """Whether it drops values at random in train mode."""
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, torch.nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    return isinstance(module, torch.nn.MultiheadAttention) and module.dropout > 0


def modes_of(problem: TorchTraining, *, seed: int) -> ModeFacts:
    """The mode of a copy in two calls of the loss, and the relative change of the first loss when it is the other one."""
    with untouched(problem.scenario.model), preserved_rng(seed), torch.enable_grad():
        session = problem.fresh()
        seen: list[bool] = []
        first = math.nan
        for index in (0, min(1, problem.batch_count - 1)):
            with seen_mode(session.model) as modes, kept_buffers(session.model):
                value = _value(session, problem.batches[index], seed)
            first = value if index == 0 and not seen else first
            seen.append(modes[-1] if modes else session.model.training)
        other = problem.fresh()
        for module in other.model.modules():
            module.training = not seen[0]
        with kept_buffers(other.model):
            changed = _value(other, problem.batches[0], seed)
        difference = abs(changed - first) / max(abs(first), abs(changed), 1e-12) if math.isfinite(first + changed) else None
    tail = 0 if seen[1] else 2 - sum(seen)
    return ModeFacts(
        train=sum(seen),
        eval=2 - sum(seen),
        tail=tail,
        switch=2 - tail if tail else None,
        validated=True,  # the loss itself is what switched it
        dependent=dependent_modules(session.model),
        difference=difference,
    )


def _value(session: Session, batch: Any, seed: int) -> float:
    torch.manual_seed(seed)
    return float(session.loss(batch).detach())


@contextmanager
def seen_mode(model: torch.nn.Module) -> Iterator[list[bool]]:
    """The model's mode in each of its calls with gradients while the block runs."""
    modes: list[bool] = []

    def enter(module: torch.nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            modes.append(module.training)

    handle = model.register_forward_pre_hook(enter)
    try:
        yield modes
    finally:
        handle.remove()


class Root:
    """One model of a loop: its steps in either mode, and whether a validation came before those in eval mode."""

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        self.name, self.module = name, module
        self.parameters = {id(p) for p in module.parameters()}
        self.train = self.eval = self.tail = 0
        self.validated = False

    def called(self, module: torch.nn.Module, args: Any) -> None:
        """A forward pre-hook."""
        if not unseen() and not torch.is_grad_enabled() and not module.training and not self.tail:
            self.validated = True

    def step(self) -> None:
        """A step of an optimizer that holds its parameters begins."""
        if self.module.training:
            self.train += 1
            self.tail, self.validated = 0, False
        else:
            self.eval += 1
            self.tail += 1

    def facts(self) -> ModeFacts:
        """What was seen."""
        prefix = f"{self.name}." if self.name else ""
        dropping = tuple(clean(name) for name, module in self.module.named_modules() if _drops(module))
        return ModeFacts(
            train=self.train,
            eval=self.eval,
            tail=self.tail,
            switch=self.train + self.eval - self.tail if self.tail else None,
            validated=self.validated,
            model=self.name,
            dependent=tuple(prefix + path if path else self.name for path in dependent_modules(self.module)),
            dropout=tuple(prefix + path if path else self.name for path in dropping),
            source="watch",
        )


class ModeWatch:
    """The mode of a watched model at every step, or of each of the models that a container holds; memory does not grow."""

    def __init__(self, model: torch.nn.Module) -> None:
        several = isinstance(model, torch.nn.ModuleList | torch.nn.ModuleDict)
        self.roots = [Root(n, m) for n, m in model.named_children()] if several else [Root("", model)]

    def install(self) -> list[Any]:
        """Hooks that see calls without gradients, to be removed by the caller."""
        return [root.module.register_forward_pre_hook(Hook(root.called)) for root in self.roots if not is_scripted(root.module)]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of this optimizer begins."""
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        for root in self.roots:
            if any(p in root.parameters for p in held):
                root.step()

    def facts(self) -> ModeFacts:
        """Of the model that most of all was left in eval mode."""
        found = [root.facts() for root in self.roots]
        return max(found, key=lambda f: (f.matters and f.tail > 0, f.train > 0, f.validated, f.tail), default=ModeFacts())


left_alone(Root.called)
