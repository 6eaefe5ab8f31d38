"""The seam: what an adapter offers to the measurements, in plain numbers and names.

Nothing large crosses it. Tangents go in as descriptions (:class:`gradguard.blocks.Tangent`); directional values, sums
per block and statistics per unit come out as small float64 arrays. A problem implements the protocols that its
framework can; a measurement asks with ``isinstance`` and is *unavailable*, with a reason, where the answer is no.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gradguard.blocks import Block, Tangent

__all__ = [
    "Analytic",
    "BlockFacts",
    "Comparable",
    "Counts",
    "Cut",
    "Cuttable",
    "Differentiable",
    "Entrywise",
    "Identity",
    "Modular",
    "Nodal",
    "Node",
    "Outside",
    "Problem",
    "Settings",
]


@dataclass
class Counts:
    """What has been spent so far. ``forwards`` are whole forward passes; a pass of a submodule counts its share."""

    forwards: float = 0.0
    backwards: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """What one backward pass says of one block, as plain numbers.

    ``gradient_norm`` and ``value_rms`` are of the values that were compared (lifted where they were). ``missing``: no
    gradient came (None). ``nonfinite``: how many entries of the gradient are NaN or infinite, ``first_nonfinite`` the
    flat index of the first. ``zero``: it is exactly zero everywhere. ``wrong_shape``: what came, where that is not the
    block's shape or dtype. ``failed``: what backward raised, where it raised.
    """

    gradient_norm: float
    value_rms: float
    missing: bool = False
    zero: bool = False
    nonfinite: int = 0
    first_nonfinite: int | None = None
    wrong_shape: str = ""
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whether the same call twice, with the random state restored, gave the same bits.

    ``value_difference`` and ``gradient_difference`` are the largest differences, relative to the largest magnitude;
    ``block`` names the block with the largest gradient difference.
    """

    value_difference: float
    gradient_difference: float
    block: str = ""
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """An entry whose gradient lies outside [low, high], the gradients of points nearby, by ``distance``."""

    block: int
    index: int
    value: float
    low: float
    high: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place where a value leaves the graph: file and line, the operation, how often it happens in one pass.

    ``declared``: under ``no_grad``, which says that no gradient is wanted there. ``surrogate``: the name of a custom function
    whose forward is a staircase, so that its backward is meant to be no derivative.
    """

    location: str
    operation: str
    declared: bool = False
    count: int = 1
    surrogate: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One call of a custom autograd function: its class, the innermost module that called it, and where.

    ``origins``: for each of its differentiable arguments the block that the argument is made from, and from nothing else;
    empty where it is an activation. ``direct``: whether the argument is that block itself, entry by entry.
    """

    name: str
    module: str
    location: str
    origins: tuple[str, ...] = ()
    direct: tuple[bool, ...] = ()


@runtime_checkable
class Problem(Protocol):
    """What every adapter knows of the user's model."""

    blocks: tuple[Block, ...]
    counts: Counts
    path: str
    """How values are computed: for example ``float64`` or ``lifted from float32``."""
    notes: tuple[str, ...]
    """What was left out, and why; never silent."""


@runtime_checkable
class Differentiable(Problem, Protocol):
    """Values and slopes along tangents of phi(t) = <v, f(x + t u)>, v a fixed cotangent."""

    def values(self, tangents: Sequence[Tangent], steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi(t) - phi(0) for K tangents at steps (K, S) or (S,): shape (K, S); NaN where f is not finite."""
        ...

    def slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64]:
        """The analytical slope's share of every block, <g_i, u_i>: shape (K, number of blocks)."""
        ...

    def shares(self, tangents: Sequence[Tangent]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The slopes and, beside them, ||g_i * u_i||, the size that a random tangent's share has: both (K, blocks)."""
        ...

    def facts(self) -> tuple[BlockFacts, ...]:
        """One backward pass' statistics, one per block."""
        ...

    def scale_of_value(self) -> float:
        """The magnitude |v| . |f| that phi's rounding error is relative to."""
        ...

    def identity(self) -> Identity:
        """The same call again: are value and gradient the same?"""
        ...

    def at(self, nudge: Tangent | None, size: float) -> Differentiable:
        """The same problem at the point x + size * u (None: the original point)."""
        ...

    def entries(self, block: int, indices: Sequence[int]) -> NDArray[np.float64]:
        """Analytical gradient entries at flat indices, shape (n,); complex entries as their real part along 1."""
        ...


    def outside(self, nudges: Sequence[Tangent], size: float, most: int, share: float) -> tuple[Outside, ...]:
        """The entries outside the span of the gradients at x + size * nudge, the worst ``most``, furthest first.

        Only distances above ``share`` of the block's largest entry count.
        """
        ...


@runtime_checkable
class Analytic(Protocol):
    """A function that may compute in complex numbers, so that a complex step gives its slope without cancellation."""

    def complex_slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64] | None:
        """Im phi(x + i h u) / h, shape (K,); None where the function does not allow it."""
        ...


@runtime_checkable
class Comparable(Protocol):
    """Gradients that can be compared with what common mistakes would have made of the right one."""

    def values_by_slice(self, tangent: Tangent, steps: NDArray[np.float64], axis: int) -> NDArray[np.float64] | None:
        """phi(t) - phi(0) split by the outputs' index along an axis, (S, extent); None where there is no such axis."""
        ...

    def variants(self, block: int, tangent: Tangent) -> dict[str, float]:
        """<g', u> for gradients g' that are a common mistake away from the analytical one, by name."""
        ...

    def slice_shares(self, block: int, tangent: Tangent, axis: int, index: int) -> NDArray[np.float64]:
        """<g_j, u_index> for every slice j of the block's gradient along an axis, shape (extent,)."""
        ...

    def repeated_indices(self) -> frozenset[int]:
        """The values that the integer inputs hold more than once."""
        ...


@runtime_checkable
class Nodal(Protocol):
    """A graph with custom autograd functions, each of which can be checked alone on its recorded input."""

    def nodes(self) -> tuple[Node, ...]:
        """The custom functions that one pass calls, in order."""
        ...

    def node_problem(self, index: int, batch: int | None = None) -> Differentiable | None:
        """One of them alone: its tensor arguments are the blocks. None where it cannot be called alone.

        ``batch``: on that many samples instead; None where it has just as many.
        """
        ...


@runtime_checkable
class Cuttable(Protocol):
    """A function in which values can leave the graph (``detach``, ``no_grad``, ``item``)."""

    def cuts(self) -> tuple[Cut, ...]:
        """The places where a value that depends on the blocks leaves the graph."""
        ...

    def held(self) -> AbstractContextManager[Differentiable]:
        """The same problem with every such value held fixed at what it is at the point."""
        ...


@runtime_checkable
class Entrywise(Protocol):
    """Every entry of a block at once, batched where the framework can."""

    def differences(
        self, block: int, indices: Sequence[int], step: float, budget: int
    ) -> tuple[NDArray[np.float64], str, str]:
        """phi(+step e_k) and phi(-step e_k), minus phi(0), for each index: shape (n, 2); the path that ran; why.

        ``budget``: bytes that a batched evaluation may take.
        """
        ...


@runtime_checkable
class Modular(Protocol):
    """A model made of modules, each of which can be checked alone on its recorded input and a fresh cotangent."""

    def calls(self) -> dict[str, str | None]:
        """The paths of the modules that one pass calls, in order, each with that of the module that called it."""
        ...

    def module_class(self, path: str) -> str:
        """The name of a module's class."""
        ...

    def expect(self, paths: Sequence[str]) -> None:
        """Record the inputs of several modules in one pass, ahead of :meth:`module_problem`."""
        ...

    def module_problem(self, path: str, batch: int | None = None) -> Differentiable | None:
        """The module alone, on its recorded input: its parameters and tensor inputs are the blocks.

        None where it was not called, or cannot be called alone. ``batch``: on that many samples instead; None where it has
        just as many.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the caller chose; each measurement reads the fields that concern it."""

    seed: int = 0
    method: str = "directional"
    order: int = 1
    precision: str = "auto"
    vary: bool = False
    reference: Any = field(default=None, compare=False)
    """Gradients of a plain implementation in the native precision, by block name, as the adapter made them."""
    steps: int = 20
    memory_budget: int = 1 << 30
    progress: Any = field(default=None, compare=False)
    """``progress(done: int, total: int, what: str)``, or None."""
