"""Variants of the user's own inputs: values, sizes and duplicates at which gradients are wrong when they are right elsewhere.

Of 59 published gradient bugs, 24 were hidden by values (zeros, ties, thresholds, repeated indices) and 13 by sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.nesting import flatten, rebuild

__all__ = ["Variant", "array_variants", "variants_of"]

Array = NDArray[Any]
Change = Callable[[Array], Array | None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Inputs made from the user's; ``name`` says how, ``pattern`` what a fault that only they show is called."""

    name: str
    pattern: str
    inputs: Any


def variants_of(
    inputs: Any, is_array: Callable[[Any], bool], read: Callable[[Any], Array], write: Callable[[Array, Any], Any]
) -> Iterator[Variant]:
    """The variants of a container of arrays of some framework.

    ``read`` makes a NumPy array of one, ``write(array, like)`` makes one like another. Variants that change nothing are
    left out.
    """
    leaves = [leaf.value for leaf in flatten(inputs, "")]
    arrays = {i: read(value) for i, value in enumerate(leaves) if is_array(value)}
    for name, pattern, changed in array_variants(arrays):
        parts = [write(changed[i], value) if i in changed else value for i, value in enumerate(leaves)]
        yield Variant(name=name, pattern=pattern, inputs=rebuild(inputs, parts))


def array_variants(arrays: dict[int, Array]) -> Iterator[tuple[str, str, dict[int, Array]]]:
    """Name, pattern, and the arrays that change, for each variant."""
    for name, pattern, change in (
        ("every third entry is 0", "only at zeros", _zeros),
        ("the first row is 0", "only at zeros", _zero_row),
        ("neighbours are equal", "only at ties", _ties),
        ("whole numbers", "only at thresholds", _whole),
        ("the other sign", "only for values of the other sign", _negated),
        ("indices are repeated", "only at repeated indices", _repeated),
    ):
        changed = {i: new for i, a in arrays.items() if (new := change(a)) is not None and not _same(new, a)}
        if changed:
            yield name, pattern, changed
    yield from _resized(arrays)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))


def _floats(a: Array) -> bool:
    return a.dtype.kind in "fc" and a.size > 0


def _zeros(a: Array) -> Array | None:
    if not _floats(a):
        return None
    new = a.copy()
    new.reshape(-1)[::3] = 0
    return new


def _zero_row(a: Array) -> Array | None:
    if not _floats(a) or a.ndim < 2:
        return None
    new = a.copy()
    new[0] = 0
    return new


def _ties(a: Array) -> Array | None:
    if not _floats(a) or a.size < 2:
        return None
    new = a.copy()
    flat = new.reshape(-1)
    flat[1::2] = flat[0 : 2 * (len(flat) // 2) : 2]
    return new


def _whole(a: Array) -> Array | None:
    return np.round(2 * a) if _floats(a) else None


def _negated(a: Array) -> Array | None:
    return -a if _floats(a) else None


def _repeated(a: Array) -> Array | None:
    if a.dtype.kind not in "iu" or a.size < 2:
        return None
    new = a.copy()
    flat = new.reshape(-1)
    flat[1::2] = flat[0]
    return new


def _resized(arrays: dict[int, Array]) -> Iterator[tuple[str, str, dict[int, Array]]]:
    """Batches of 1 and 3, and each later axis one longer and one shorter, along an extent that arrays share."""
    shapes = [a.shape for a in arrays.values() if a.ndim]
    if not shapes:
        return
    batch = max({s[0] for s in shapes}, key=lambda n: sum(s[0] == n for s in shapes))
    for size in (1, 3):
        shared = {i: a for i, a in arrays.items() if a.ndim and a.shape[0] == batch and batch > 0}
        if shared and size != batch:
            pattern = "only at batch 1" if size == 1 else "only at batch > 1" if batch == 1 else "only at other sizes"
            yield f"a batch of {size}", pattern, {i: _taken(a, 0, size) for i, a in shared.items()}
    for axis in range(1, max(len(s) for s in shapes)):
        extents = {a.shape[axis] for a in arrays.values() if a.ndim > axis}
        for extent in sorted(extents - {0}):
            for size in (extent - 1, extent + 1):
                changed = {i: _taken(a, axis, size) for i, a in arrays.items() if a.ndim > axis and a.shape[axis] == extent}
                if changed and size > 0:
                    yield f"axis {axis} of {size}", "only at other sizes (a last partial block?)", changed


def _taken(a: Array, axis: int, size: int) -> Array:
    """The first ``size`` along an axis; from the start again where there are fewer."""
    taken: Array = np.take(a, np.arange(size) % a.shape[axis], axis=axis)
    return taken
