"""phi(x) = <v, f(x)> of a NumPy function, as differences from its value at the base point."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Counts
from gradguard.adapters.nesting import flatten, rebuild
from gradguard.adapters.numpy_call import Call, differentiable
from gradguard.blocks import draw
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["UNIT", "Phi", "Points"]

UNIT = 64.0
"""``blocks.draw`` gives integers; an entry of a tangent or cotangent is that over 64."""

COTANGENT = 0x636F_7461_6E67
"""Mixed into the seed, so that the cotangent is not the tangent of the same seed."""

NOT_FINITE = "a value that is not finite has no gradient to check: look at the inputs, or at f"

STACK_BYTES = 1 << 26
"""How many bytes of stacked inputs go into one batched evaluation."""

Points = Iterable[Mapping[int, Any]]
"""Points to evaluate at: index of a leaf -> its value there; leaves that are not named stay where they are."""


class Phi:
    """The value under a fixed cotangent: 1 for a scalar-valued function, else random signed from the seed.

    ``output`` is what ``f`` returns at the base point, ``base`` its differentiable leaves, ``cotangent`` one array for
    each. ``notes`` name the parts of the output that have no derivative.
    """

    def __init__(
        self, call: Call, counts: Counts, *, scalar: bool, seed: int, batched: Callable[..., Any] | None
    ) -> None:
        self.call, self.counts, self.seed, self.batched = call, counts, seed, batched
        self.stackable: str | None = None
        self.notes: tuple[str, ...] = ()
        self._at_base()
        if scalar:
            self._require_scalar()
        self.cotangent = [_cotangent(leaf, scalar, seed, i) for i, leaf in enumerate(self.base)]
        for name, leaf, v in zip(self.names, self.base, self.cotangent, strict=True):
            self._leave_out_infinite(name, leaf, v)

    def moved(self, leaves: Sequence[Any]) -> Phi:
        """The same function and cotangent, with another base point."""
        other = copy.copy(self)
        other.call = copy.copy(self.call)
        other.call.leaves = list(leaves)
        other._at_base()
        return other

    def structured_cotangent(self) -> Any:
        """A copy of the cotangent, nested as the output is; None where the output has no derivative."""
        leaves = iter(self.cotangent)
        parts = [_as(leaf.value, next(leaves)) if differentiable(leaf.value) else None for leaf in flatten(self.output)]
        return rebuild(self.output, parts)

    def again(self) -> list[NDArray[Any]]:
        """The differentiable leaves of the output, from another call at the base point."""
        self.counts.forwards += 1
        return self._differentiable(self.call.at_base(self.call.f, "f"))

    def scale(self) -> float:
        """Sum of |v| |f| over the outputs: what the rounding error of phi is relative to."""
        pairs = zip(self.cotangent, self.base, strict=True)
        return float(sum(np.sum(np.abs(v[v != 0]) * np.abs(o[v != 0])) for v, o in pairs))

    def differences(self, points: Points, budget: int = STACK_BYTES) -> tuple[NDArray[np.float64], str, str]:
        """phi(point) - phi(base) for each point, shape (n,), NaN where f is not finite; the path that ran; why.

        ``budget``: bytes that the stacked inputs of one evaluation may take.
        """
        if self.batched is None:
            return self._loop(points), "loop", "no batched evaluation is declared"
        found: list[NDArray[np.float64]] = []
        remaining = iter(points)
        while chunk := list(islice(remaining, self._chunk(min(budget, STACK_BYTES)))):
            stacked = None if self.stackable else self._stacked(chunk)
            found.append(self._loop(chunk) if stacked is None else stacked)
        return np.concatenate([np.zeros(0), *found]), "loop" if self.stackable else "stacked", self.stackable or ""

    def outputs_at(self, point: Mapping[int, Any]) -> list[NDArray[Any]] | None:
        """The differentiable leaves of the output at a point; None outside of f's domain, or where their shapes change."""
        self.counts.forwards += 1
        try:
            leaves = self._differentiable(self.call.run(self.call.f, self._leaves_at(point)))
        except (ArithmeticError, ValueError):
            return None
        return leaves if [leaf.shape for leaf in leaves] == [base.shape for base in self.base] else None

    def imaginary(self, point: Mapping[int, Any]) -> float | None:
        """Im phi at a complex point; None where f does not run in complex numbers, or loses the imaginary part."""
        self.counts.forwards += 1
        try:
            leaves = self._differentiable(self.call.in_complex(self._leaves_at(point)))
            return float(sum(np.sum(np.imag(o) * v) for v, o in zip(self.cotangent, leaves, strict=True)))
        except INTERRUPTS:
            raise
        except Exception:  # whatever f does with numbers it was not written for, the answer is no
            return None

    def _at_base(self) -> None:
        self.counts.forwards += 1
        self.output = self.call.at_base(self.call.f, "f")
        leaves = flatten(self.output, "output")
        self.names = [leaf.name for leaf in leaves if differentiable(leaf.value)]
        self.base = self._differentiable(self.output)
        if not self.base:
            kinds = ", ".join(f"{leaf.name}: {_kind(leaf.value)}" for leaf in leaves) or "nothing"
            raise UsageError("f returns nothing that has a derivative", where=f"f returned {kinds}",
                             todo="return floating-point numbers or arrays")
        for leaf in leaves:
            if not differentiable(leaf.value):
                self._note(f"{leaf.name} ({_kind(leaf.value)}) has no derivative and is left out")
        for name, base in zip(self.names, self.base, strict=True):
            if np.isnan(base).any():
                at = [int(i) for i in np.argwhere(np.isnan(base))[0]]
                raise UsageError(f"f returns NaN: {name}{at if at else ''}", where=f"called with {self.call.shown()}",
                                 todo=NOT_FINITE)

    def _require_scalar(self) -> None:
        if len(self.base) != 1 or self.base[0].size != 1:
            shapes = ", ".join(f"{n} {b.shape}" for n, b in zip(self.names, self.base, strict=True))
            raise UsageError("with grad=, f must return one scalar", where=f"f returned {shapes}",
                             todo="sum or average to a scalar, or pass vjp=h with h(cotangent, *inputs)")
        if np.iscomplexobj(self.base[0]):
            raise UsageError("with grad=, f must return a real scalar", where="f returned a complex number",
                             todo="return its real part or its modulus, or pass vjp=")
        if not np.isfinite(self.base[0]).all():
            raise UsageError("f returns infinity", where=f"called with {self.call.shown()}",
                             todo=NOT_FINITE)

    def _leave_out_infinite(self, name: str, leaf: NDArray[Any], v: NDArray[Any]) -> None:
        infinite = np.isinf(leaf)
        if infinite.any():
            v[infinite] = 0
            self._note(f"{int(infinite.sum())} of {leaf.size} entries of {name} are infinite and are left out")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)

    def _differentiable(self, output: Any) -> list[NDArray[Any]]:
        return [np.array(leaf.value) for leaf in flatten(output, "output") if differentiable(leaf.value)]

    def _leaves_at(self, point: Mapping[int, Any]) -> list[Any]:
        leaves = list(self.call.leaves)
        for index, value in point.items():
            leaves[index] = value
        return leaves

    def _loop(self, points: Points) -> NDArray[np.float64]:
        return np.array([self._one(point) for point in points], dtype=np.float64)

    def _one(self, point: Mapping[int, Any]) -> float:
        self.counts.forwards += 1
        try:
            output = self.call.run(self.call.f, self._leaves_at(point))
        except (ArithmeticError, ValueError):  # outside f's domain: math.log(-1), a singular matrix
            return float("nan")
        return self._change(self._differentiable(output))

    def _change(self, leaves: Sequence[NDArray[Any]]) -> float:
        # The base is subtracted entry by entry, before the sum: the rounding of a large sum would drown a small change.
        if [leaf.shape for leaf in leaves] != [base.shape for base in self.base]:
            return float("nan")  # a jump: the number of outputs depends on the values of the inputs
        with np.errstate(all="ignore"):
            total = 0.0
            for v, leaf, base in zip(self.cotangent, leaves, self.base, strict=True):
                kept = v != 0
                total += float(np.real(np.sum(np.conj(v[kept]) * (leaf[kept] - base[kept]))))
        return total

    def _chunk(self, budget: int) -> int:
        size = sum(leaf.nbytes for leaf in self.call.leaves if isinstance(leaf, np.ndarray))
        return max(1, min(4096, budget // max(1, size)))

    def _stacked(self, chunk: Sequence[Mapping[int, Any]]) -> NDArray[np.float64] | None:
        """The chunk in one call with a leading axis, or None with the reason in ``stackable``."""
        first = self.stackable is None
        try:
            found = self._stacked_call(chunk)
        except INTERRUPTS:
            raise
        except Exception as error:  # the declaration does not hold: said in the path, and the loop decides
            self.stackable = f"the batched evaluation raised {type(error).__name__}: {error}"
            return None
        if found is None:
            self.stackable = "the batched evaluation does not return the leading axis"
            return None
        if first:
            sample = [0, len(chunk) - 1]
            alone = self._loop([chunk[i] for i in sample])
            if not np.allclose(found[sample], alone, rtol=1e-6, atol=self.scale() * 1e-13, equal_nan=True):
                self.stackable = "the batched evaluation gives other values than one call at a time"
                return None
            self.stackable = ""
        return found

    def _stacked_call(self, chunk: Sequence[Mapping[int, Any]]) -> NDArray[np.float64] | None:
        count = len(chunk)
        leaves = list(self.call.leaves)
        for index in self.stacked_leaves:
            leaves[index] = np.stack([np.asarray(point.get(index, leaves[index])) for point in chunk])
        self.counts.forwards += count
        assert self.batched is not None
        found = self._differentiable(self.call.run(self.batched, leaves))
        if [leaf.shape for leaf in found] != [(count, *base.shape) for base in self.base]:
            return None
        return np.array([self._change([leaf[k] for leaf in found]) for k in range(count)])

    stacked_leaves: tuple[int, ...] = ()
    """The leaves that get the leading axis: every block."""


def _cotangent(leaf: NDArray[Any], scalar: bool, seed: int, number: int) -> NDArray[Any]:
    if scalar:
        return np.ones(leaf.shape)
    parts = 2 if np.iscomplexobj(leaf) else 1
    pattern = draw(seed ^ COTANGENT, number, parts * leaf.size).astype(np.float64) / UNIT
    return pattern.view(np.complex128).reshape(leaf.shape) if parts == 2 else pattern.reshape(leaf.shape)


def _as(value: Any, v: NDArray[Any]) -> Any:
    return v.copy() if isinstance(value, np.ndarray) else v[()]


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
