"""NumPy callables with a hand-written gradient, behind the seam of :mod:`gradguard.adapters.base`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.backward_base import BackwardFacts, Fault
from gradguard.adapters.base import BlockFacts, Counts, Identity, Outside
from gradguard.adapters.numpy_backwards import numpy_backward_facts, numpy_layout_faults, structured
from gradguard.adapters.numpy_call import Call, differentiable
from gradguard.adapters.numpy_gradient import Matched, check_gradient, match_gradient
from gradguard.adapters.numpy_inputs import inputs_with_blocks, whole_inputs
from gradguard.adapters.numpy_mistakes import repeated_values, slice_shares, variants
from gradguard.adapters.numpy_phi import Phi, Points
from gradguard.adapters.numpy_tangents import components, directions, norm
from gradguard.blocks import Block, Tangent, select_blocks
from gradguard.errors import UsageError

__all__ = ["NumpyProblem"]


class NumpyProblem:
    """``Differentiable`` and ``Entrywise`` for a NumPy function; made by :func:`adapt_numpy`."""

    def __init__(
        self,
        call: Call,
        backward: Callable[..., Any],
        what: str,
        *,
        wrt: Sequence[str] | str | None,
        seed: int,
        batched: Callable[..., Any] | None,
        kind: str,
    ) -> None:
        self.call, self.backward, self.what = call, backward, what
        self.counts = Counts()
        self.notes: tuple[str, ...] = ()
        named = {leaf.name: i for i, leaf in enumerate(call.original) if differentiable(leaf.value)}
        if not named:
            raise UsageError("there is nothing to differentiate: no input is of a floating-point or complex type",
                             where=call.shown(), todo="pass floating-point arrays; integers and booleans are constants")
        chosen = select_blocks(list(named), whole_inputs(call, wrt))
        self.phi = Phi(call, self.counts, scalar=what == "grad", seed=seed, batched=batched)
        self.inputs = inputs_with_blocks(call, chosen)
        first = self._backward()
        if wrt is None:  # an input that the gradient leaves out is a constant, and said to be
            chosen = [name for name in chosen if not self._is_left_out(name, first.left_out)]
            for name in first.left_out:
                self._note(f"{what} returns no gradient for input {name}: it is held constant and not checked")
        if not chosen:
            raise UsageError(f"{what} returns no gradient for any input", where=call.shown(),
                             todo=f"return from {what} what mirrors the inputs")
        self.leaf_of = [named[name] for name in chosen]
        self.phi.stacked_leaves = tuple(self.leaf_of)
        self.blocks: tuple[Block, ...] = tuple(
            Block(name=name, shape=np.shape(call.leaves[i]), dtype=_dtype(call.original[i].value), kind=kind)
            for name, i in zip(chosen, self.leaf_of, strict=True)
        )
        self.gradients = self._arrays(first)
        pairs = zip(self.blocks, self._x(), strict=True)
        low = sorted({block.dtype for block, x in pairs if block.dtype != _dtype(x)})
        self.path = f"lifted from {', '.join(low)}" if low else "float64"
        if self._rounds():
            self.path = "native float32"
            self._note("f computes in float32 whatever it is given: its values resolve about 1e-4 of a gradient, not 1e-9")
        elif low:
            self._note(f"values and gradient are compared at inputs lifted to float64, not in {', '.join(low)} itself")
        for note in self.phi.notes:
            self._note(note)

    def values(self, tangents: Sequence[Tangent], steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi(t) - phi(0), shape (K, S). The base output is subtracted entry by entry, before the sum over outputs."""
        grid = np.broadcast_to(np.asarray(steps, dtype=np.float64), (len(tangents), np.shape(steps)[-1]))
        x = self._x()

        def points() -> Points:
            for tangent, row in zip(tangents, grid, strict=True):
                u = self._directions(tangent)
                yield from ({self.leaf_of[b]: x[b] + t * along for b, along in u.items()} for t in row)

        return self.phi.differences(points())[0].reshape(grid.shape)

    def slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64]:
        """<g_i, u_i> = Re sum(conj(g_i) u_i), shape (K, blocks); 0 where no gradient came."""
        return self.shares(tangents)[0]

    def shares(self, tangents: Sequence[Tangent]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The slopes, and ||g_i * u_i|| over real and imaginary components, both (K, blocks)."""
        slopes = np.zeros((len(tangents), len(self.blocks)))
        norms = np.zeros_like(slopes)
        for k, tangent in enumerate(tangents):
            for block, u in self._directions(tangent).items():
                gradient = self.gradients[block]
                if gradient is not None:
                    products = components(gradient) * components(u)
                    slopes[k, block], norms[k, block] = np.sum(products), norm(products)
        return slopes, norms

    def facts(self) -> tuple[BlockFacts, ...]:
        """One record per block, of the gradient under test."""
        return tuple(_facts(g, x) for g, x in zip(self.gradients, self._x(), strict=True))

    def scale_of_value(self) -> float:
        """Sum of |v| |f| over the outputs."""
        return self.phi.scale()

    def identity(self) -> Identity:
        """Value and gradient again, with the random state as at the first time."""
        value = max(map(_difference, self.phi.base, self.phi.again()), default=0.0)
        worst = list(map(_difference, self.gradients, self._arrays(self._backward())))
        gradient = max(worst, default=0.0)
        block = self.blocks[worst.index(gradient)].name if gradient else ""
        return Identity(value_difference=value, gradient_difference=gradient, block=block)

    def at(self, nudge: Tangent | None, size: float) -> NumpyProblem:
        """The same problem at x + size * u; the costs are counted together."""
        if nudge is None or size == 0:
            return self
        leaves = list(self.call.leaves)
        for block, u in self._directions(nudge).items():
            leaves[self.leaf_of[block]] = self._x()[block] + size * u
        other = copy.copy(self)
        other.phi = self.phi.moved(leaves)
        other.call = other.phi.call
        other.gradients = other._arrays(other._backward())
        return other

    def entries(self, block: int, indices: Sequence[int]) -> NDArray[np.float64]:
        """Analytical entries at flat indices, shape (n,): the real part; 0 where no gradient came."""
        gradient = self.gradients[block]
        if gradient is None:
            return np.zeros(len(indices))
        return np.array(np.real(gradient.reshape(-1)[np.asarray(indices, dtype=np.intp)]), dtype=np.float64)

    def outside(self, nudges: Sequence[Tangent], size: float, most: int, share: float) -> tuple[Outside, ...]:
        """The entries outside the span of the gradients at x + size * nudge, the worst ``most``, furthest first."""
        nearby = [self.at(nudge, size).gradients for nudge in nudges]
        found: list[Outside] = []
        for block, own in enumerate(self.gradients):
            others = [components(g) for one in nearby if (g := one[block]) is not None]
            if own is None or not others or not own.size:
                continue
            value, low, high = components(own), np.fmin.reduce(others), np.fmax.reduce(others)
            distance = np.maximum(np.maximum(low - value, value - high), 0.0)
            least = share * max(float(np.max(np.maximum(np.abs(low), np.abs(high)))), 1e-300)
            width = 2 if np.iscomplexobj(own) else 1
            for k in np.argsort(-np.nan_to_num(distance))[:most].tolist():
                if distance[k] > least:
                    ends = {"value": float(value[k]), "low": float(low[k]), "high": float(high[k])}
                    found.append(Outside(block=block, index=k // width, distance=float(distance[k]), **ends))
        return tuple(sorted(found, key=lambda o: -o.distance / max(abs(o.low), abs(o.high), 1e-300))[:most])

    def differences(
        self, block: int, indices: Sequence[int], step: float, budget: int = 1 << 26
    ) -> tuple[NDArray[np.float64], str, str]:
        """phi(+-step e_k) - phi(0), shape (n, 2); the path that ran (``stacked`` or ``loop``), and why not the other.

        ``budget``: bytes that the stacked inputs of one evaluation may take.
        """
        leaf, x = self.leaf_of[block], self._x()[block]
        unit = np.zeros(np.shape(x))

        def points() -> Points:
            for index in indices:
                for t in (step, -step):
                    unit.reshape(-1)[index] = t
                    yield {leaf: x + unit}
                    unit.reshape(-1)[index] = 0.0

        found, path, reason = self.phi.differences(points(), budget)
        return found.reshape(-1, 2), path, reason

    def values_by_slice(self, tangent: Tangent, steps: NDArray[np.float64], axis: int) -> NDArray[np.float64] | None:
        """None: a NumPy function's outputs are summed where they are made."""
        return None

    def variants(self, block: int, tangent: Tangent) -> dict[str, float]:
        """<g', u> for gradients g' that are a common mistake away from g."""
        return variants(self.gradients[block], self._directions(tangent).get(block))

    def slice_shares(self, block: int, tangent: Tangent, axis: int, index: int) -> NDArray[np.float64]:
        """<g_j, u_index> for every slice j along an axis, shape (extent,)."""
        return slice_shares(self.gradients[block], self._directions(tangent).get(block), axis, index)

    def repeated_indices(self) -> frozenset[int]:
        """The values that the integer inputs hold more than once."""
        return repeated_values(np.asarray(leaf.value) for leaf in self.call.original)

    def complex_slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64] | None:
        """Im phi(x + i h u) / h with h = 1e-30, shape (K,): free of cancellation; None where it does not hold.

        Squire & Trapp 1998, eq. 2. It holds only where f is analytic and computes in complex numbers; so it is compared
        with central differences, to their own accuracy, along every tangent before it is believed.
        """
        if any(np.iscomplexobj(x) for x in self._x()) or any(np.iscomplexobj(base) for base in self.phi.base):
            return None
        found = np.empty(len(tangents))
        for k, tangent in enumerate(tangents):
            x, u = self._x(), self._directions(tangent)
            part = self.phi.imaginary({self.leaf_of[b]: x[b] + 1e-30j * along for b, along in u.items()})
            if part is None or not self._agrees(tangent, part / 1e-30):
                return None
            found[k] = part / 1e-30
        return found

    def _agrees(self, tangent: Tangent, slope: float) -> bool:
        step = 2.0**-17
        half = step / 2
        wide, narrow = self.values([tangent], np.array([step, -step, half, -half])).reshape(2, 2) @ [1.0, -1.0]
        coarse, fine = wide / (2 * step), narrow / (2 * half)
        noise = 8 * np.finfo(np.float64).eps * self.scale_of_value() / half
        return bool(abs((4 * fine - coarse) / 3 - slope) <= abs(fine - coarse) + noise)

    def backward_facts(self, *, writes_only: bool = False) -> BackwardFacts:
        """What ``f`` and the backward write into, and whether ``vjp`` is linear and blind to layout."""
        return numpy_backward_facts(self, writes_only=writes_only)

    def layout_faults(self) -> tuple[tuple[Fault, ...], str]:
        """What changes when every input comes in another memory order; and what could not be tried."""
        return numpy_layout_faults(self)

    def gradients_for(self, cotangent: Sequence[NDArray[Any]]) -> list[NDArray[Any] | None]:
        """The gradients under test for another cotangent, one array for each differentiable output."""
        self.counts.backwards += 1
        found = self.call.at_base(self.backward, self.what, structured(self, cotangent))
        return self._arrays(match_gradient(found, self.inputs, what=self.what))

    def with_leaves(self, leaves: Sequence[Any]) -> NumpyProblem | None:
        """The same problem on other arrays; None where ``f`` or the backward does not take them."""
        other = copy.copy(self)
        try:
            other.phi = self.phi.moved(leaves)
            other.call = other.phi.call
            other.gradients = other._arrays(other._backward())
        except UsageError:
            return None
        return other

    def _rounds(self) -> bool:
        """Whether f casts to float32 inside: every output, at a point of no special bits, fits into float32."""
        moved = {leaf: self.call.leaves[leaf] * (1 + 1e-3 / 3) for leaf in self.leaf_of}
        here, there = self.phi.base, self.phi.outputs_at(moved)
        if there is None or all(np.array_equal(a, b) for a, b in zip(here, there, strict=True)):
            return False
        return all(_fits_single(leaf) for leaf in (*here, *there))

    def _x(self) -> list[Any]:
        return [self.call.leaves[i] for i in self.leaf_of]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)

    def _backward(self) -> Matched:
        self.counts.backwards += 1
        first = () if self.what == "grad" else (self.phi.structured_cotangent(),)
        return match_gradient(self.call.at_base(self.backward, self.what, *first), self.inputs, what=self.what)

    def _is_left_out(self, name: str, left_out: Sequence[str]) -> bool:
        return any(one.name in left_out and name in one.blocks for one in self.inputs)

    def _arrays(self, matched: Matched) -> list[NDArray[Any] | None]:
        """One array per block, or None; checked for shape and dtype."""
        found = [matched.gradients.get(block.name) for block in self.blocks]
        return [
            None if g is None else check_gradient(b.name, b.shape, g, is_complex=np.iscomplexobj(x), what=self.what)
            for b, g, x in zip(self.blocks, found, self._x(), strict=True)
        ]

    def _directions(self, tangent: Tangent) -> dict[int, NDArray[Any]]:
        return directions(tangent, self._x())


def _fits_single(x: NDArray[Any]) -> bool:
    single = np.complex64 if x.dtype.kind == "c" else np.float32
    with np.errstate(all="ignore"):
        return bool(np.all(x.astype(single).astype(x.dtype) == x))


def _dtype(x: Any) -> str:
    return str(np.asarray(x).dtype)


def _facts(gradient: NDArray[Any] | None, x: Any) -> BlockFacts:
    rms = norm(x) / max(1, np.size(x)) ** 0.5
    if gradient is None:
        return BlockFacts(gradient_norm=0.0, value_rms=rms, missing=True, zero=True)
    bad = np.flatnonzero(~np.isfinite(gradient))
    return BlockFacts(
        gradient_norm=norm(gradient), value_rms=rms, zero=not gradient.any(), nonfinite=len(bad),
        first_nonfinite=int(bad[0]) if len(bad) else None,
    )


def _difference(first: NDArray[Any] | None, second: NDArray[Any] | None) -> float:
    """The largest difference relative to the largest magnitude; two NaN in one place are the same."""
    if first is None or second is None:
        return 0.0 if first is second else float("inf")
    if first.shape != second.shape:
        return float("inf")
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        found = np.max(np.abs(first - second)[~same]) / np.max(np.abs(first[np.isfinite(first)]), initial=1e-300)
    return float(found) if np.isfinite(found) else float("inf")
