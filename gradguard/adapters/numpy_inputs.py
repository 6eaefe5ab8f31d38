"""Which inputs of a NumPy function are blocks: as its caller names them, and beside a gradient that mirrors them."""

from __future__ import annotations

from collections.abc import Sequence

from gradguard.adapters.nesting import children, flatten
from gradguard.adapters.numpy_call import Call, differentiable
from gradguard.adapters.numpy_gradient import Input

__all__ = ["inputs_with_blocks", "whole_inputs"]


def inputs_with_blocks(call: Call, chosen: Sequence[str]) -> tuple[Input, ...]:
    """Every top-level input, with the chosen names that are its leaves."""
    wanted = frozenset(chosen)
    return tuple(
        Input(name=name, value=value, blocks=wanted & {leaf.name for leaf in flatten(value, name)})
        for name, value in zip(call.names, call.inputs, strict=True)
    )


def whole_inputs(call: Call, wrt: Sequence[str] | str | None) -> Sequence[str] | str | None:
    """``wrt`` with the name of a whole container replaced by the names of its blocks."""
    if wrt is None:
        return None
    result: list[str] = []
    for pattern in [wrt] if isinstance(wrt, str) else wrt:
        inside = [
            leaf.name
            for name, value in zip(call.names, call.inputs, strict=True)
            if name == pattern and children(value) is not None
            for leaf in flatten(value, name)
            if differentiable(leaf.value)
        ]
        result += inside or [pattern]
    return result
