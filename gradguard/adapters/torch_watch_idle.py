"""Optimizers of a watched loop that have not stepped yet: do their parameters get gradients while others step?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradguard.adapters.idle_base import IdleOptimizer

__all__ = ["IdleWatch"]


class IdleWatch:
    """Counts, for each optimizer before its first step, the looks at which gradients of its parameters were there."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        several = self.optimizers if len(optimizers) > 1 else []
        self.waiting = {id(o): [p for g in o.param_groups for p in g["params"]] for o in several}
        self.looks = dict.fromkeys(self.waiting, 0)
        self.arrived: dict[int, torch.Tensor] = {}
        """Counts, left on the device until they are read."""

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """It is no longer idle."""
        self.waiting.pop(id(optimizer), None)

    def see(self) -> None:
        """Another optimizer's step begins."""
        for key, held in self.waiting.items():
            self.looks[key] += 1
            given = [p.grad for p in held if p.grad is not None and not p.grad.is_sparse and not hasattr(p.grad, "full_tensor")]
            if given:
                largest = torch.stack([norm.float().to(given[0].device) for norm in torch._foreach_norm(given)]).amax()
                there = (largest > 0).long()
                self.arrived[key] = self.arrived[key] + there if key in self.arrived else there

    def facts(self, names: Sequence[tuple[str, torch.nn.Parameter]]) -> tuple[IdleOptimizer, ...]:
        """Those that never stepped, with the watched parameters that no other optimizer steps; transferred now."""
        trained = {id(p) for o in self.optimizers if id(o) not in self.waiting for g in o.param_groups for p in g["params"]}
        found = []
        for place, optimizer in enumerate(self.optimizers, start=1):
            held = {id(p) for p in self.waiting.get(id(optimizer), ())} - trained
            blocks = tuple(name for name, parameter in names if id(parameter) in held)
            if blocks:
                arrived = self.arrived.get(id(optimizer))
                found.append(
                    IdleOptimizer(
                        kind=type(optimizer).__name__,
                        place=place,
                        total=len(self.optimizers),
                        blocks=blocks,
                        looks=self.looks[id(optimizer)],
                        arrived=int(arrived) if arrived is not None else 0,
                    )
                )
        return tuple(found)
