"""Where values leave the graph, and the same function with those values held fixed.

A function mode sees every torch function. One that takes a tensor that requires a gradient and returns a floating tensor
(or a number) that does not has cut the graph: ``detach``, ``.data``, ``no_grad``, ``item``. What happens inside a custom
``autograd.Function`` is no cut: its backward answers for it; but one whose forward is a staircase is held as what its backward
says (``torch_surrogates.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradguard.adapters.base import Cut
from gradguard.adapters.nesting import flatten
from gradguard.adapters.torch_frames import is_users
from gradguard.adapters.torch_leaves import differentiable
from gradguard.adapters.torch_nodes import applied_through, caller
from gradguard.adapters.torch_surrogates import Surrogate, surrogate_of

__all__ = ["SURROGATE", "CutMode", "Moment", "holding"]

CONSTANT = {
    "zeros_like",
    "ones_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_tensor",
}
SURROGATE = "surrogate gradient of"
"""How a cut's operation begins where a custom function's backward stands in for a derivative that is 0."""

ASKING = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _no(*args: Any) -> bool:
    return False


@dataclass
class Moment:
    """One cut in one pass: what left the graph, where, by which operation, and whether under ``no_grad``."""

    value: Any
    location: str
    operation: str
    declared: bool = False
    mask: torch.Tensor | None = None
    surrogate: Surrogate | None = None


class CutMode(TorchFunctionMode):
    """Records the cuts of a pass, or (``replay``) puts recorded values in their place, in the order of the pass."""

    def __init__(self, replay: list[Moment] | None = None) -> None:
        super().__init__()
        self.replay = replay
        self.moments: list[Moment] = []
        self._asking = False

    def __enter__(self) -> CutMode:
        # A function of torch.nn.functional is one call to a mode, whatever it does inside (gumbel_softmax detaches):
        # for this pass they do not offer themselves, so that what they call is seen.
        functional = torch.nn.functional.__dict__
        self._hidden = {name: functional[name] for name in ASKING if name in functional}
        functional.update(dict.fromkeys(self._hidden, _no))
        self._functions = applied_through(self._applied)
        self._functions.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's own, without types
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]  # torch's own, without types
        self._functions.__exit__(kind, value, trace)
        torch.nn.functional.__dict__.update(self._hidden)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._asking:
            return result
        if "fake_quant" in getattr(func, "__name__", "") and isinstance(result, torch.Tensor) and result.requires_grad:
            return self._straight_through(args[0], result)
        if func is torch.autograd.grad and isinstance(result, tuple):  # without create_graph: as if detached (first-order MAML)
            return tuple(self._cut(one, "autograd.grad") if _loose(one) else one for one in result)
        if not self._leaves_graph(func, args, kwargs, result):
            return result
        operation = getattr(func, "__name__", str(func))
        if operation == "__get__":
            operation = getattr(getattr(func, "__self__", None), "__name__", "attribute")
        return self._cut(result, operation)

    def _applied(self, function: type[torch.autograd.Function], args: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        """A call of a custom function: as it is, or as its backward says where its forward is a staircase."""
        if self._asking:
            return go()
        position = len(self.moments)
        operation = f"{SURROGATE} {function.__name__}"
        if self.replay is None:
            result, found = go(), self._asked(function, args)
            if found is not None:
                self.moments.append(Moment(_values(result), caller(), operation, surrogate=found))
            return result
        kept = self.replay[position] if position < len(self.replay) else None
        if kept is None or kept.operation != operation or kept.surrogate is None or not kept.surrogate.fits(args):
            return go()
        self.moments.append(kept)
        self._asking = True
        try:
            return kept.surrogate(args)
        finally:
            self._asking = False

    def _asked(self, function: type[torch.autograd.Function], args: tuple[Any, ...]) -> Surrogate | None:
        """The call as a surrogate; what is done to find that out is no part of the pass."""
        self._asking = True
        try:
            return surrogate_of(function, args)
        finally:
            self._asking = False

    def _cut(self, result: Any, operation: str) -> Any:
        """The value that has left the graph, or the one that is held in its place."""
        location = _user_line()
        if location is None:
            return result
        position = len(self.moments)
        if self.replay is not None and position < len(self.replay):
            kept = self.replay[position]
            if kept.operation == operation and _alike(kept.value, result):
                result = _held(kept.value, result, in_place=operation.endswith("_") and not operation.endswith("__"))
        keep = result.detach().clone() if isinstance(result, torch.Tensor) else result
        self.moments.append(Moment(keep, location, operation, not torch.is_grad_enabled()))
        return result

    def _straight_through(self, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """torch's own straight-through estimator: a cut of what rounding adds, x * mask + (q - x * mask) held fixed."""
        location = _user_line()
        if location is None or not x.requires_grad:
            return result
        mask = torch.autograd.grad(result, x, torch.ones_like(result), retain_graph=True)[0]
        position = len(self.moments)
        offset = (result - x * mask).detach()
        if self.replay is not None and position < len(self.replay):
            kept = self.replay[position]
            if kept.mask is not None and _alike(kept.value, offset):
                offset, mask = kept.value, kept.mask
                result = x * mask + offset
        self.moments.append(Moment(offset.clone(), location, "fake_quantize", mask=mask))
        return result

    @staticmethod
    def _leaves_graph(func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> bool:
        if isinstance(result, torch.Tensor):
            if not _loose(result):
                return False
        elif type(result) is not float:
            return False
        name = getattr(func, "__name__", "")
        if name in CONSTANT or (name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") == "grad"):
            return False
        given = [leaf.value for leaf in flatten((args, kwargs or {}), "")]
        return any(isinstance(v, torch.Tensor) and v.requires_grad for v in given)


def _values(result: Any) -> Any:
    """The first tensor of what a function returned, for what the blocks change in it."""
    first = result[0] if isinstance(result, tuple) else result
    return first.detach().clone()


def _held(kept: Any, result: Any, *, in_place: bool) -> Any:
    """The value of another pass, written into the tensor where the operation wrote there, as a momentum encoder does."""
    if not isinstance(kept, torch.Tensor):
        return kept
    if not in_place:
        return kept.clone()
    with torch.no_grad():
        return result.copy_(kept)


def _loose(value: Any) -> bool:
    """Whether a tensor could carry a gradient, and has none."""
    return isinstance(value, torch.Tensor) and not value.requires_grad and differentiable(value) and bool(value.numel())


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    return type(a) is type(b)


def _user_line() -> str | None:
    """``file:line`` of the user's code on the stack; None inside a custom autograd Function."""
    frame: FrameType | None = sys._getframe(3)
    line: str | None = None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.endswith("torch/autograd/function.py") and frame.f_code.co_name == "apply":
            return None
        if path.endswith("gradguard/adapters/torch_binding.py"):
            break
        if line is None and is_users(path):
            line = f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return line or "inside torch"


def changed(base: list[Moment], moved: list[Moment]) -> list[Moment]:
    """The cuts whose value changes when the blocks move: the others are constants."""
    result = []
    for one, other in zip(base, moved, strict=False):
        if isinstance(one.value, torch.Tensor) and isinstance(other.value, torch.Tensor):
            if one.value.shape != other.value.shape or not torch.equal(one.value, other.value):
                result.append(one)
        elif one.value != other.value:
            result.append(one)
    return result


def _surrogate(operation: str) -> str:
    return operation.removeprefix(SURROGATE).strip() if operation.startswith(SURROGATE) else ""


def as_cuts(moments: list[Moment]) -> tuple[Cut, ...]:
    """The places, each once, in the order of the pass."""
    count: dict[tuple[str, str, bool], int] = {}
    for moment in moments:
        key = (moment.location, moment.operation, moment.declared)
        count[key] = count.get(key, 0) + 1
    return tuple(
        Cut(location=where, operation=what, declared=declared, count=n, surrogate=_surrogate(what))
        for (where, what, declared), n in count.items()
    )


@contextmanager
def holding(replay: list[Moment]) -> Iterator[CutMode]:
    """A context in which cut values are those of another pass."""
    with torch.enable_grad(), CutMode(replay) as mode:
        yield mode
