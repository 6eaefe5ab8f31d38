"""Custom autograd functions: which ones a pass calls, with which arguments, from which module and line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gradguard.adapters.base import Node
from gradguard.adapters.torch_frames import is_users
from gradguard.adapters.torch_leaves import differentiable, graph_leaves

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["NodeCall", "applied_through", "caller", "record_nodes"]

Applied = Callable[[type[torch.autograd.Function], tuple[Any, ...], Callable[[], Any]], Any]

MOST = 64
"""Calls that are kept: arguments take memory."""


@dataclass
class NodeCall:
    """A call of a custom function, with its own copies of the arguments."""

    function: type[torch.autograd.Function]
    args: tuple[Any, ...]
    facts: Node


def record_nodes(problem: TorchModuleProblem) -> list[NodeCall]:
    """The custom functions that one forward pass at the point calls, in order."""
    paths = {id(module): path for path, module in problem.children.items()}
    blocks = {id(leaf): block for leaf, block in zip(problem.leaves, problem.blocks, strict=True)}
    stack: list[str] = []
    found: list[NodeCall] = []

    def enter(module: torch.nn.Module, args: Any) -> None:
        stack.append(paths.get(id(module), ""))

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        if stack:
            stack.pop()

    def seen(function: type[torch.autograd.Function], args: tuple[Any, ...]) -> None:
        if len(found) >= MOST or not any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
            return
        origins: list[str] = []
        direct: list[bool] = []
        copies: list[Any] = []
        for argument in args:
            if not isinstance(argument, torch.Tensor):
                copies.append(argument)
                continue
            copy = argument.detach().clone()
            if argument.requires_grad and differentiable(argument):
                copy.requires_grad_(True)
                leaves, _ = graph_leaves([argument])
                block = blocks.get(id(leaves[0])) if len(leaves) == 1 else None
                direct.append(block is not None and argument is leaves[0])
                # What is made from one parameter is that parameter; what is made from an input alone may be an activation.
                known = block is not None and (direct[-1] or block.kind != "input")
                origins.append(block.name if block is not None and known else "")
            copies.append(copy)
        module = next((path for path in reversed(stack) if path), "")
        facts = Node(name=function.__name__, module=module, location=caller(), origins=tuple(origins), direct=tuple(direct))
        found.append(NodeCall(function, tuple(copies), facts))

    def shown(function: type[torch.autograd.Function], args: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        seen(function, args)
        return go()

    with problem._hooked(problem.children, enter, leave), applied_through(shown):
        problem.session.call(problem.call, problem.habits, grad=True)
    problem.counts.forwards += problem.share
    return found


@contextmanager
def applied_through(handle: Applied) -> Iterator[None]:
    """Every ``Function.apply`` of this pass goes through ``handle(function, args, go)``; afterwards it does not.

    ``go()`` makes the call. ``Function.apply`` asks its base class, and that is where we look: users keep ``MyFunction.apply``
    under another name, which what is put into ``Function`` itself would not reach.
    """
    base: Any = torch.autograd.Function.__mro__[1]
    before = base.__dict__.get("apply")

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        def go() -> Any:
            return super(base, cls).apply(*args, **kwargs)

        if not kwargs and issubclass(cls, torch.autograd.Function):  # torch.func makes classes of its own
            return handle(cls, args, go)
        return go()

    base.apply = classmethod(apply)
    try:
        yield
    finally:
        if before is None:
            del base.apply
        else:
            base.apply = before


def caller() -> str:
    """``file:line`` of the code that called ``apply``."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if is_users(path):
            return f"{path}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
