"""The call of the user's function on our own copies of its inputs, again and again from the same values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.nesting import flatten, rebuild
from gradguard.adapters.torch_backwards import Handed
from gradguard.adapters.torch_candidates import Candidate, Setup
from gradguard.adapters.torch_leaves import own_copy
from gradguard.adapters.torch_lift import lifted_dtype
from gradguard.adapters.torch_session import Session

__all__ = ["Bound", "bind"]


@dataclass
class Bound:
    """The call on our own copies of the inputs."""

    call: Callable[[], Any]
    leaves: dict[int, torch.Tensor]
    exchange: dict[int, torch.Tensor]
    handed: list[Handed]
    """The floating-point inputs as the last call got them."""
    natives: list[tuple[torch.Tensor, torch.Tensor]]
    """Our copy of each input, and the user's own tensor."""


def bind(setup: Setup, candidates: list[Candidate], session: Session, *, clone: bool) -> Bound:
    """The call; ``clone``: the function writes into an input that requires a gradient, so it gets a clone of the leaf."""
    chosen = {id(c.tensor) for c in candidates}
    copies: dict[int, torch.Tensor] = {}
    constants: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    exchange: dict[int, torch.Tensor] = {}
    handed: list[Handed] = []
    names = {id(c.tensor): c.name for c in setup.inputs}
    before: dict[int, torch.Tensor] = {}
    for c in setup.inputs:
        key = id(c.tensor)
        if key in copies:
            continue
        if key in session.native:  # an input that is a parameter, too
            copies[key] = c.tensor
            continue
        dtype = lifted_dtype(c.tensor.dtype) if session.lift else c.tensor.dtype
        copy = own_copy(c.tensor, dtype)
        if key in chosen:
            copy.requires_grad_(True)
        else:
            saved = copy.clone() if copy.layout == torch.strided else copy
            constants.append((copy, saved, copy._version))
            before[id(copy)] = saved
        copies[key] = copy
    for c in candidates:
        if id(c.tensor) not in copies and not c.tensor.requires_grad:
            c.tensor.requires_grad_(True)  # named in wrt; the session takes it back

    def mine(tree: Any) -> Any:
        leaves = [leaf.value for leaf in flatten(tree, "")]
        if not any(isinstance(v, torch.Tensor) for v in leaves):
            return tree
        return rebuild(tree, [_pass(v) if isinstance(v, torch.Tensor) else v for v in leaves])

    def _pass(tensor: torch.Tensor) -> torch.Tensor:
        own = copies.get(id(tensor), tensor)
        now = exchange.get(id(own), own)
        given = now.clone() if clone and now.requires_grad else now
        if now is own:
            handed.append(Handed(names.get(id(tensor), ""), given, own, before.get(id(own), own)))
        return given

    def call() -> Any:
        handed.clear()
        for i, (tensor, saved, version) in enumerate(constants):
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(saved)
                constants[i] = (tensor, saved, tensor._version)
        result = setup.function(*(mine(a) for a in setup.args), **{k: mine(v) for k, v in setup.kwargs.items()})
        return setup.loss(result) if setup.loss is not None else result

    natives = {id(c.tensor): (copies[id(c.tensor)], c.tensor) for c in setup.inputs if id(c.tensor) not in session.native}
    return Bound(call, copies, exchange, handed, list(natives.values()))
