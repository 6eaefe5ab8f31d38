"""The attributes of the user's modules, to be put back after every pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from typing import Any

import torch

__all__ = ["Attributes"]

_NOTHING = object()
_CONTAINERS = ("_parameters", "_buffers", "_modules")
_HOLDERS = (list, dict, set, deque)


class Attributes:
    """The attributes of some modules: buffers, counters, caches, hooks, train/eval; parameters are kept apart.

    Lists, dicts and sets among them are kept with what they hold, one level deep: a model may collect losses in a list,
    or hang hooks on its own modules in the first pass. Hooks in ``ours`` (their ids) are left where they are.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], ours: Set[int] = frozenset()) -> None:
        self.kept: list[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]] = []
        self.values: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self.held: dict[int, _Held] = {}
        seen: set[int] = set()
        for module in modules:
            own = {k: v for k, v in module.__dict__.items() if k not in _CONTAINERS}
            self.kept.append((module, own, dict(module._buffers)))
            for name, value in own.items():
                if isinstance(value, _HOLDERS):
                    self.held[id(value)] = _Held(value, ours if "_hooks" in name else frozenset())
            for tensor in [*module._buffers.values(), *(v for v in own.values() if isinstance(v, torch.Tensor))]:
                if tensor is not None and id(tensor) not in seen and not tensor.requires_grad:
                    seen.add(id(tensor))
                    self.values.append((tensor, tensor.detach().clone(), tensor._version))

    def restore(self) -> bool:
        """Put everything back; tells whether anything had changed."""
        changed = False
        for module, own, buffers in self.kept:
            for name in [k for k in module.__dict__ if k not in own and k not in _CONTAINERS]:
                del module.__dict__[name]
                changed = True
            for name, value in own.items():
                if module.__dict__.get(name, _NOTHING) is not value:
                    module.__dict__[name] = value
                    changed = True
            for name, buffer in buffers.items():
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
                    changed = True
        for held in self.held.values():
            changed |= held.restore()
        for i, (tensor, saved, version) in enumerate(self.values):
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(saved)
                self.values[i] = (tensor, saved, tensor._version)
                changed = True
        return changed


class _Held:
    """What a list, dict, set or deque held; keys of a dict in ``spared`` may come and go."""

    def __init__(self, holder: Any, spared: Set[int]) -> None:
        self.holder = holder
        self.spared = spared
        self.items = list(holder.items() if isinstance(holder, dict) else holder)

    def restore(self) -> bool:
        """Put back what it held; tells whether that had changed."""
        holder, items = self.holder, self.items
        if isinstance(holder, dict):
            items = items + [(key, value) for key, value in holder.items() if key in self.spared] if self.spared else items
            same = len(holder) == len(items) and all(holder.get(key, _NOTHING) is value for key, value in items)
        elif isinstance(holder, set):
            same = len(holder) == len(items) and all(value in holder for value in items)
        else:
            same = len(holder) == len(items) and all(now is value for now, value in zip(holder, items, strict=True))
        if not same:
            holder.clear()
            holder.extend(items) if isinstance(holder, list | deque) else holder.update(items)
        return not same
