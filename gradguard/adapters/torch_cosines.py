"""Whether a product in the autograd graph is one of features and class weights that were both brought to length 1."""

from __future__ import annotations

from typing import Any

from gradguard.adapters.torch_tape import kind_of, parents

__all__ = ["cosines"]

PRODUCTS = {"Mm", "Bmm", "Linear"}
RESHAPED = {
    "View", "UnsafeView", "ReshapeAlias", "T", "Transpose", "Permute", "Unsqueeze", "Squeeze", "Expand", "Clone", "Alias",
}
BETWEEN = RESHAPED | {"ClampMin", "Clamp", "Add", "Sqrt", "Maximum"}
"""What stands between a division and the norm that it divides by: limits from below, a small constant."""
NORMS = {"LinalgVectorNorm", "Norm", "Pow", "Sum"}


def cosines(node: Any) -> bool:
    """A product of two factors of length 1, of which one is a parameter; a factor of any size would stand in between."""
    if kind_of(node) not in PRODUCTS or len(parents(node)) != 2:
        return False
    divided = [_divided_by_norm(parent) for parent in parents(node)]
    return all(top is not None for top in divided) and any(_parameter(top) for top in divided)


def _divided_by_norm(node: Any) -> Any:
    """What is divided by its own norm; None where it is not."""
    node = _past(node, RESHAPED)
    above = parents(node)
    if kind_of(node) != "Div" or len(above) != 2:
        return None
    below = _past(above[1], BETWEEN)
    return above[0] if kind_of(below) in NORMS else None


def _parameter(node: Any) -> bool:
    return kind_of(_past(node, RESHAPED)).endswith("AccumulateGrad")


def _past(node: Any, kinds: set[str]) -> Any:
    """The first node above that is none of these operations on one tensor."""
    while kind_of(node) in kinds and len(parents(node)) == 1:
        node = parents(node)[0]
    return node
