"""An optimizer of a watched loop that never stepped while others did."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IdleOptimizer"]


@dataclass(frozen=True, kw_only=True)
class IdleOptimizer:
    """``kind`` is its class and ``place`` its place among the ``total`` that were given, from 1 on.

    ``blocks`` are the parameters that only optimizers without a step hold. At ``looks`` steps of the others their gradients
    were looked at, and some of them was not 0 at ``arrived`` of these.
    """

    kind: str
    place: int
    total: int
    blocks: tuple[str, ...]
    looks: int
    arrived: int
