"""How a rule names the place of a fault: the custom function, its module, the line of its call."""

from __future__ import annotations

from gradguard.adapters.backward_base import Fault

__all__ = ["place_of", "where_of"]


def place_of(fault: Fault) -> str:
    """``Swish in layers.2``, ``Swish``, or the block, or ``the model``."""
    if fault.function:
        return f"{fault.function} in {fault.module}" if fault.module else fault.function
    return fault.block or "the model"


def where_of(fault: Fault) -> str:
    """Function, module and line, as far as they are known."""
    parts = []
    if fault.function:
        parts.append(f"custom function {fault.function}")
    if fault.module:
        parts.append(f"module {fault.module}")
    if fault.block:
        parts.append(f"block {fault.block}")
    if fault.location:
        parts.append(f"called at {fault.location}")
    return ", ".join(parts)
