"""What an adapter offers to the check of low precision: the native gradient beside the lifted one, and its rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["PLAIN", "BlockPrecision", "Lowerable", "PrecisionFacts"]

PLAIN: dict[str, float] = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.04, "float16": 5e-3}
"""Relative error of a gradient, ||g - g64|| / ||g64||, that needs no explanation (docs/precision.md)."""


@dataclass(frozen=True, kw_only=True)
class BlockPrecision:
    """One block's native gradient g against the lifted one, g64.

    ``error`` = ||g - g64||, ``size`` = ||g64||. ``rounding`` is the largest ||r - g64|| of gradients r of the lifted model
    with every operation's result rounded to the native precision: what a faithful implementation may be off by; NaN where
    the error is small enough without it. ``reference`` is the error of the reference in the same precision.
    ``kernels``: the error as it is, where ``error`` is that with faithful kernels instead (each operator of the framework
    rounds its result once and does nothing else wrong); NaN where that was not asked.
    ``persistent``: the error is as large at points nearby (a kink on whose other side rounding falls is not).
    ``nonfinite`` counts entries of g that are not finite where those of g64 are; ``first`` is the flat index of one.
    """

    block: str
    shape: tuple[int, ...] = ()
    module: str = ""
    error: float = float("nan")
    size: float = float("nan")
    rounding: float = float("nan")
    reference: float | None = None
    kernels: float = float("nan")
    persistent: bool = True
    nonfinite: int = 0
    first: int = 0
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class PrecisionFacts:
    """``dtype`` is the lowest precision that forward computes in, ``value_error`` the relative error of the value.

    ``value_nonfinite``: native outputs that are not finite where the lifted ones are. ``drawn``: random numbers came out
    differently in the two precisions, so that nothing can be compared.
    """

    dtype: str
    blocks: tuple[BlockPrecision, ...] = ()
    value_error: float = 0.0
    value_nonfinite: int = 0
    drawn: bool = False


@runtime_checkable
class Lowerable(Protocol):
    """A problem that is computed lifted, and can be computed in its native precision, too."""

    def precision_facts(self, reference: Any = None) -> PrecisionFacts | str:
        """One native pass beside the lifted one; or why there is none. ``reference``: gradients by block name."""
        ...
