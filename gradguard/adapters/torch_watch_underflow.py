"""Gradients that float16 flushes to zero, in the user's own backward pass: two more of it, inside it, at the true loss scale.

A hook on the loss (or on the model's output, where the loss is not recorded before its backward) is called when the user's
backward begins, with the scale that a loss scaler put there. There the same graph is asked for its gradients, and for those
of 1024 times the loss; into no ``.grad``. Where anything else would see these passes (hooks, retained gradients, functions
written in Python), they are not made.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.modules import module as global_hooks

from gradguard.adapters.torch_flushed import SCALE, flushed
from gradguard.adapters.torch_watch_replay import borrowed

__all__ = ["FlushWatch"]

PROBES = 3
"""Backward passes that are repeated, in looks."""
NODES = 50_000


class FlushWatch:
    """``lost``: per block the mean share over the probes; empty where none was made, and then ``reason`` says why."""

    def __init__(self, model: torch.nn.Module, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
        self.model, self.named = model, named
        self.probes: list[dict[str, float]] = []
        self.reason = "no pass in float16 was seen"
        self.busy: Callable[[bool], None] = lambda on: None
        """Told before and after: the model's modules may be called again inside (activation checkpointing)."""
        self._hooks = self._counts()
        self._own = self._hooks
        self._handle: Any = None

    def _counts(self) -> list[int]:
        return [len(p._backward_hooks or ()) for _, p in self.named]

    def installed(self) -> None:
        """The hooks that are there now are ours; those that were there before are not."""
        self._own = self._counts() if not any(self._hooks) else []

    def forget(self) -> None:
        """No hook is left on a tensor of the user's."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def arm(self, tensor: Any) -> None:
        """This tensor's backward is about to come; a later call takes the place of an earlier one."""
        if len(self.probes) >= PROBES or not isinstance(tensor, torch.Tensor) or tensor.grad_fn is None:
            return
        self.forget()
        self.reason = "its backward pass was not seen"
        here = weakref.ref(tensor)

        def hook(gradient: torch.Tensor) -> None:
            self.forget()
            found = here()
            if found is not None and torch._C._current_graph_task_id() != -1:
                self._probe(found, gradient.detach())

        self._handle = tensor.register_hook(hook)

    def _probe(self, tensor: torch.Tensor, gradient: torch.Tensor) -> None:
        nothing = (
            ""
            if bool(gradient.any())
            else "the gradient that reaches the model is exactly 0: record the loss before its backward"
        )
        self.reason = nothing or self._forbidden(tensor)
        if self.reason:
            return
        params = [p for _, p in self.named]
        self.busy(True)
        try:
            with borrowed(self.model):
                found = [
                    torch.autograd.grad(tensor, params, gradient * scale, retain_graph=True, allow_unused=True)
                    for scale in (1.0, SCALE)
                ]
        except Exception as error:  # the graph cannot be asked twice: the user's own backward goes on
            self.reason = f"the backward pass could not be repeated ({type(error).__name__})"
            return
        finally:
            self.busy(False)
        self.probes.append(
            {
                name: flushed(plain, scaled)
                for (name, _), plain, scaled in zip(self.named, *found, strict=True)
                if plain is not None and scaled is not None and not plain.is_sparse
            }
        )

    def _forbidden(self, tensor: torch.Tensor) -> str:
        """Who else would see a repeated backward pass."""
        modules = any(m._backward_hooks or m._backward_pre_hooks for m in self.model.modules())
        if modules or global_hooks._global_backward_hooks or global_hooks._global_backward_pre_hooks:
            return "modules have backward hooks, which a repeated backward pass would call"
        if self._counts() != self._own:
            return "parameters have hooks, which a repeated backward pass would call"
        for one in gc.get_objects():
            if (
                issubclass(type(one), torch.Tensor)
                and not one.is_leaf
                and (one.retains_grad or (one._backward_hooks and one is not tensor))
            ):
                return "gradients of intermediate values are kept, which a repeated backward pass would change"
        queue: list[Any] = [tensor.grad_fn]
        seen: set[Any] = set()
        while queue and len(seen) < NODES:
            node = queue.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                return "a function written in Python is in the graph; its backward would run again"
            queue.extend(parent for parent, _ in node.next_functions)
        return ""

    @property
    def lost(self) -> dict[str, float]:
        """Per block the mean share over the probes."""
        names = dict.fromkeys(name for probe in self.probes for name in probe)
        shares = {name: [probe[name] for probe in self.probes if name in probe] for name in names}
        return {name: sum(values) / len(values) for name, values in shares.items()}
