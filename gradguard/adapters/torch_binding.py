"""The call of the user's function on our own copies of its inputs, again and again from the same values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.torch_backwards import Handed
from gradguard.adapters.torch_batch_copies import SMALL, ArgumentCopies, differ, shared_copies
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


class Constant:
    """Our copy of an input that is no block, with the values that it had: the function may write into it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.saved = own_copy(tensor, tensor.dtype) if tensor.layout == torch.strided else tensor
        self.shaped = (tensor.shape, tensor.stride()) if tensor.layout == torch.strided else None
        self.version, self.calls, self.hidden = tensor._version, 0, False

    def restore(self) -> None:
        """Before every call: values, shape and strides as at first, where the last call has changed them."""
        self.calls += 1
        if self.shaped is None:
            return
        if self.shaped != (self.tensor.shape, self.tensor.stride()):
            self.tensor.data = torch.empty_strided(*self.shaped, dtype=self.saved.dtype, device=self.saved.device)
        elif self.tensor._version == self.version and not self._hidden():
            return
        with torch.no_grad():
            self.tensor.copy_(self.saved)
        self.version = self.tensor._version

    def _hidden(self) -> bool:
        """NumPy and ``.data`` write without being counted: a large one is looked at once, a small one before every call.

        From then on it is taken to be written into in every call.
        """
        if self.calls == 2 or (self.calls > 2 and self.tensor.nbytes <= SMALL):
            self.hidden = self.hidden or differ(self.tensor, self.saved)
        return self.hidden


def bind(setup: Setup, candidates: list[Candidate], session: Session, *, clone: bool) -> Bound:
    """The call; ``clone``: the function writes into an input that requires a gradient, so it gets a clone of the leaf."""
    chosen = {id(c.tensor) for c in candidates}
    copies: dict[int, torch.Tensor] = {}
    constants: list[Constant] = []
    exchange: dict[int, torch.Tensor] = {}
    handed: list[Handed] = []
    names = {id(c.tensor): c.name for c in setup.inputs}
    before: dict[int, torch.Tensor] = {}
    fixed = {id(c.tensor): c.tensor for c in setup.inputs if id(c.tensor) not in chosen and id(c.tensor) not in session.native}
    shared = shared_copies(list(fixed.values()), lifted_dtype if session.lift else lambda dtype: dtype)
    for c in setup.inputs:
        key = id(c.tensor)
        if key in copies:
            continue
        if key in session.native:  # an input that is a parameter, too
            copies[key] = c.tensor
            continue
        dtype = lifted_dtype(c.tensor.dtype) if session.lift else c.tensor.dtype
        copy = shared[key] if key in shared else own_copy(c.tensor, dtype)
        if key in chosen:
            copy.requires_grad_(True)
        else:
            constants.append(Constant(copy))
            before[id(copy)] = constants[-1].saved
        copies[key] = copy
    for c in candidates:
        if id(c.tensor) not in copies and not c.tensor.requires_grad:
            c.tensor.requires_grad_(True)  # named in wrt; the session takes it back

    def _pass(tensor: torch.Tensor) -> torch.Tensor | None:
        own = copies.get(id(tensor))
        if own is None:  # inside an object of the user's own: no input; copied as in any batch, unless it has a gradient
            return tensor if tensor.requires_grad or id(tensor) in session.native else None
        now = exchange.get(id(own), own)
        given = now.clone() if clone and now.requires_grad else now
        if now is not own and id(own) in before:  # a constant that is given in another form: it is written into as well
            given = own_copy(now, now.dtype)
        if now is own:
            anew = setup.constant_inputs and id(tensor) not in chosen
            handed.append(Handed(names.get(id(tensor), ""), given, own, before.get(id(own), own), anew))
        return given

    arguments = ArgumentCopies((setup.args, setup.kwargs), _pass)

    def call() -> Any:
        handed.clear()
        for constant in constants:
            constant.restore()
        args, kwargs = arguments.again()
        result = setup.function(*args, **kwargs)
        return setup.loss(result) if setup.loss is not None else result

    natives = {id(c.tensor): (copies[id(c.tensor)], c.tensor) for c in setup.inputs if id(c.tensor) not in session.native}
    return Bound(call, copies, exchange, handed, list(natives.values()))
