"""Tensors that a model holds beside its parameters: in a plain list, a dict, or as an attribute that is no Parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["stray_tensors"]

DEPTH = 3
"""Lists in lists that are looked into."""


def stray_tensors(model: torch.nn.Module) -> dict[int, tuple[str, torch.Tensor]]:
    """Leaf tensors that require a gradient and that ``model.parameters()`` does not list, by id, each with its name."""
    listed = {id(p) for p in model.parameters()}
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_modules", "_buffers") or attribute.endswith("_hooks"):
                continue
            for name, tensor in _tensors(value, f"{path}.{attribute}" if path else attribute, DEPTH):
                if tensor.requires_grad and tensor.is_leaf and id(tensor) not in listed:
                    found.setdefault(id(tensor), (name, tensor))
    return found


def _tensors(value: Any, name: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in a value, with their names: its own, those of a module, and of lists, tuples and dicts of such."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, torch.nn.Module):
        for inner, parameter in value.named_parameters():
            yield f"{name}.{inner}", parameter
    elif isinstance(value, list | tuple | dict) and depth:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from _tensors(one, f"{name}[{key!r}]", depth - 1)
