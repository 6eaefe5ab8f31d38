"""What an adapter offers to the coordinate check: how large every module's output is, at several widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gradguard.adapters.base import Problem

__all__ = ["ModuleSize", "WidthProblem"]


@dataclass(frozen=True, kw_only=True)
class ModuleSize:
    """Mean magnitude of a module's output ``before`` and ``after`` some steps, and of its ``change``."""

    module: str
    width: int
    seed: int
    before: float
    after: float
    change: float


@runtime_checkable
class WidthProblem(Problem, Protocol):
    """A scenario that can be built at several widths."""

    widths: tuple[int, ...]
    seeds: int

    def sizes(self, width: int, seed: int, steps: int) -> tuple[ModuleSize, ...]:
        """Every module's output on the first batch."""
        ...
