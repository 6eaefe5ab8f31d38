"""What an autograd node tells of itself: its operation, its parents, its shape, and what it saved for its backward."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["axis_of", "kind_of", "parents", "saved", "shape"]


def kind_of(node: Any) -> str:
    """``Softmax`` for ``SoftmaxBackward0``."""
    return re.sub(r"Backward\d*$", "", str(node.name()))


def parents(node: Any) -> list[Any]:
    """The nodes that made a node's differentiable inputs."""
    return [parent for parent, _ in node.next_functions if parent is not None]


def shape(node: Any, index: int = 0) -> tuple[int, ...] | None:
    """The shape of what a node made in the forward pass."""
    try:
        return tuple(int(n) for n in node._input_metadata[index].shape)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None


def saved(node: Any, name: str) -> Any:
    """What a node saved for its backward, or None where it saved no such thing, or has freed it."""
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:
        return None


def axis_of(node: Any) -> int | None:
    """The axis that a node works along, from the end where it was given so; None where it has none."""
    dim = saved(node, "dim")
    if dim is None:
        return None
    return int(dim) - 2**64 if int(dim) >= 2**63 else int(dim)
