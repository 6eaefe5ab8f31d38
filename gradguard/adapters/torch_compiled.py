"""Where hooks of a look do nothing: in compiled code (which stays as it is), in transforms, in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiling", "is_compiled", "left_alone", "unseen"]

_frames: Any = torch._C._dynamo.eval_frame


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


left_alone(compiling, unseen)
