"""Whether an optimizer's gradients still hold those of the step before: hooks on a few parameters, no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["StaleWatch"]

FOLLOWED = 3
"""Parameters followed for each optimizer: branches may be skipped at some steps."""


@dataclass
class Follow:
    """One parameter: the gradient tensor and its version after the last event, and whether a step was that event."""

    parameter: torch.Tensor
    grad: torch.Tensor | None = None
    version: int = -1
    stepped: bool = False
    carried: bool = False
    fresh: bool = False


class StaleWatch:
    """Follows accumulation on a few parameters of each optimizer."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.followed: dict[int, list[Follow]] = {}
        for optimizer in optimizers:
            chosen = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad and p.is_leaf]
            if len(chosen) > FOLLOWED:
                chosen = [chosen[0], chosen[len(chosen) // 2], chosen[-1]]
            self.followed[id(optimizer)] = [Follow(p) for p in chosen]
        self.steps = dict.fromkeys(self.followed, 0)
        self.stale = dict.fromkeys(self.followed, 0)

    def install(self) -> list[Any]:
        """Hooks before and after a gradient is accumulated."""
        handles = []
        for follows in self.followed.values():
            for follow in follows:
                parameter: Any = follow.parameter
                handles.append(parameter.register_hook(self._before(follow)))
                handles.append(parameter.register_post_accumulate_grad_hook(self._after(follow)))
        return handles

    def forget(self) -> None:
        """No reference to a gradient is left."""
        for follows in self.followed.values():
            for follow in follows:
                follow.grad = None

    @staticmethod
    def _before(follow: Follow) -> Any:
        def hook(gradient: torch.Tensor) -> None:
            held = follow.parameter.grad
            same = held is not None and held is follow.grad and held._version == follow.version
            if same and held is not None and follow.stepped and held.layout == torch.strided and not bool(held.any()):
                same = False  # cleared through .data, which leaves no trace in the version
            if not same:
                follow.carried = False
            elif follow.stepped:
                follow.carried = True
            follow.stepped = False

        return hook

    @staticmethod
    def _after(follow: Follow) -> Any:
        def hook(parameter: torch.Tensor) -> None:
            follow.grad, follow.fresh = parameter.grad, True
            follow.version = parameter.grad._version if parameter.grad is not None else -1

        return hook

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the step, and whether a gradient of the step before is still in it."""
        follows = [f for f in self.followed.get(id(optimizer), []) if f.fresh and f.parameter.grad is not None]
        if follows:
            self.steps[id(optimizer)] += 1
            self.stale[id(optimizer)] += any(f.carried for f in follows)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the gradients as the step left them."""
        for follow in self.followed.get(id(optimizer), []):
            grad = follow.parameter.grad
            follow.grad, follow.version = grad, grad._version if grad is not None else -1
            follow.stepped, follow.fresh, follow.carried = True, False, False

    @property
    def share(self) -> float | None:
        """The share of stale steps after the first, of the optimizer with the most; None where fewer than five were seen."""
        return max((self.stale[key] / (n - 1) for key, n in self.steps.items() if n >= 5), default=None)
