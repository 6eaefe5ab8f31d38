"""Where hooks of a look do nothing: in compiled code (which stays as it is), in transforms, in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Hook", "compiling", "is_compiled", "is_scripted", "left_alone", "unseen"]

_frames: Any = torch._C._dynamo.eval_frame


def idle(*args: Any) -> None:
    """What a copy of the model has in the place of our hook."""


def _idle() -> Callable[..., None]:
    return idle


class Hook:
    """A hook that stays with its model: copies and pickles of the model (snapshots, averages) get one that does nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __copy__(self) -> Callable[..., None]:
        return idle

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return idle

    def __reduce__(self) -> tuple[Any, ...]:
        return _idle, ()


def is_scripted(module: torch.nn.Module) -> bool:
    """``torch.jit.script(module)``, which takes no hooks."""
    return isinstance(module, torch.jit.ScriptModule)


def is_compiled(module: torch.nn.Module) -> bool:
    """``torch.compile(module)``, or ``module.compile()``."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def compiling() -> bool:
    """Code is being compiled, or runs within a call that torch.compile follows."""
    return torch.compiler.is_compiling() or callable(_frames.get_eval_frame_callback())


def unseen() -> bool:
    """A module's call that says nothing, or must not be touched.

    Code is being compiled, or runs within a call that torch.compile follows; a backward pass calls a module again
    (activation checkpointing); or ``torch.func`` transforms it: what a module is given inside of ``vmap``, ``grad`` or
    ``jacrev`` has no values that last beyond the transform.
    """
    return compiling() or torch._C._current_graph_task_id() != -1 or torch._C._functorch.peek_interpreter_stack() is not None


def left_alone(*hooks: Callable[..., Any]) -> None:
    """Keep torch.compile from taking these functions for frames of its own.

    Where it follows the code around them it follows them too, and ends at ``unseen()``: no graph is broken.
    """
    actions = _frames._FrameAction
    for hook in hooks:
        _frames.set_code_exec_strategy(hook.__code__, _frames._FrameExecStrategy(actions.SKIP, actions.DEFAULT))


left_alone(compiling, unseen, Hook.__call__, idle)
