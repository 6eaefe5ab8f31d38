"""Where a look sees the graph end: a value without a graph, made of one that had one, is used in the graph again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from gradguard.adapters.torch_spy_units import address

__all__ = ["Cuts", "tensors_in"]

NODES = 4000
"""Nodes of the graph that are followed behind one cut."""
CUTTING = {"detach", "__get__", "tensor", "as_tensor", "new_tensor"}
"""Functions whose result holds their argument's values without its graph; ``x.data`` is ``__get__``."""
MOST = 64
"""Cuts that are followed in one look."""


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors among values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, torch.Tensor))


class Cuts:
    """``found``: the modules whose gradient ends at a cut although the loss depends on them through it.

    It is noted, never judged: a value that is detached on purpose has its gradient elsewhere.
    """

    def __init__(self, blocks: Mapping[int, str]) -> None:
        self.blocks = blocks
        self.found: dict[str, None] = {}
        self._behind: dict[int, tuple[str, ...]] = {}
        self._kept: list[torch.Tensor] = []  # an address means this storage for as long as it is held
        self._outputs: dict[int, torch.Tensor] = {}

    def after(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """One function's arguments and result, in grad mode."""
        if not isinstance(result, torch.Tensor) or not result.is_floating_point() or not torch.is_grad_enabled():
            return
        if name.endswith("_like") or (name not in CUTTING and not self._behind):
            return
        given = [t for t in tensors_in((*args, *kwargs.values())) if t.is_floating_point()]
        hidden = [m for t in given if not t.requires_grad for m in self._behind.get(address(t), ())]
        if result.requires_grad:
            self.found.update(dict.fromkeys(hidden))
            return
        sources = [t for t in given if t.requires_grad] if name in CUTTING else []
        if name == "__get__":  # of the attributes of a tensor only .data is the same values without their graph
            sources = [t for t in sources if address(t) == address(result)]
        if (hidden or sources) and len(self._kept) < MOST:
            names = dict.fromkeys([*hidden, *(name for t in sources for name in self.modules_behind(t))])
            self._remember(result, tuple(names))

    def output(self, value: torch.Tensor | None) -> None:
        """What a call from outside returned: the loop may detach it before it gives it to the next."""
        if value is not None and value.requires_grad and len(self._outputs) < MOST:
            self._outputs[address(value)] = value

    def given(self, args: Any, kwargs: Any) -> None:
        """What a call from outside is given: no graph, but the storage of an output that had one."""
        for tensor in tensors_in((*args, *kwargs.values())):
            if tensor.is_floating_point() and not tensor.requires_grad:
                source = self._outputs.get(address(tensor))
                if source is not None and address(tensor) not in self._behind:
                    self._remember(tensor, self.modules_behind(source))

    def _remember(self, tensor: torch.Tensor, modules: tuple[str, ...]) -> None:
        if modules and address(tensor) != -1:
            self._behind[address(tensor)] = modules
            self._kept.append(tensor)

    def modules_behind(self, tensor: torch.Tensor) -> tuple[str, ...]:
        """The modules whose parameters the graph of a tensor leads to."""
        leaf = self.blocks.get(id(tensor))
        if leaf is not None:
            return (owner_of(leaf),)
        names: dict[str, None] = {}
        queue: list[Any] = [tensor.grad_fn]
        seen: set[Any] = set()
        while queue and len(seen) < NODES:
            node = queue.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            block = self.blocks.get(id(getattr(node, "variable", None)))
            if block is not None:
                names.setdefault(owner_of(block))
            queue.extend(parent for parent, _ in node.next_functions)
        return tuple(names)


def owner_of(block: str) -> str:
    """The module that owns a parameter; the parameter itself where the model does."""
    return block.rpartition(".")[0] or block
