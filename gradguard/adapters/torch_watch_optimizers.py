"""Which parameters of a watched model which optimizer holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradguard.adapters.training_base import OptimizerFacts

__all__ = ["group_of_parameters", "optimizer_facts"]

Named = Sequence[tuple[str, torch.nn.Parameter]]
LOW = (torch.float16, torch.bfloat16)


def group_of_parameters(optimizers: Sequence[torch.optim.Optimizer], named: Named) -> dict[int, int]:
    """The number of the group of every tensor that is held, by id; a parameter with a copy in float32 has that one's."""
    groups = groups_of(optimizers)
    held = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
    return held | {id(p): held[id(q)] for p, q in masters([p for _, p in named], groups)}


def optimizer_facts(
    optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module, named: Named
) -> OptimizerFacts:
    """All optimizers as one."""
    groups = groups_of(optimizers)
    copied = masters([p for _, p in named], groups)
    mine = {id(p) for p in model.parameters()} | {id(q) for _, q in copied}
    held = [p for g in groups for p in g["params"]]
    owned = sum(id(p) in mine for p in held)
    sets = [frozenset(id(p) for g in o.param_groups for p in g["params"]) for o in optimizers]
    other = Counter(tuple(p.shape) for p in {id(p): p for p in held if id(p) not in mine}.values())
    theirs = {id(p) for p in held} | {id(p) for p, _ in copied}
    alone = [(n, p) for n, p in named if id(p) not in theirs and p.requires_grad]
    replaced = bool(other) and not other - Counter(tuple(p.shape) for _, p in alone)
    return OptimizerFacts(
        same=len(sets) - len(set(sets)),
        replaced=tuple(n for n, p in alone if tuple(p.shape) in other) if replaced else (),
        name=", ".join(type(o).__name__ for o in optimizers),
        lrs=tuple(float(g["lr"]) for g in groups),
        foreign=len(held) - owned,
        owned=owned,
    )


def groups_of(optimizers: Sequence[torch.optim.Optimizer]) -> list[Mapping[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def masters(
    parameters: Sequence[torch.Tensor], groups: Sequence[Mapping[str, Any]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Parameters in half precision with the float32 copies that the optimizer steps for them (Micikevicius et al. 2018,
    arXiv:1710.03740, section 3.1), in the order of both; none where not every copy has its parameter.
    """
    mine = {id(p) for p in parameters}
    copies = [p for g in groups for p in g["params"] if id(p) not in mine]
    held = {id(p) for g in groups for p in g["params"]}
    left = [p for p in parameters if id(p) not in held and p.dtype in LOW]
    pairs = []
    for copy in copies:
        match = next((p for p in left if copy.dtype == torch.float32 and p.shape == copy.shape), None)
        if match is None:
            return []
        left = [p for p in left if p is not match]
        pairs.append((match, copy))
    return pairs
