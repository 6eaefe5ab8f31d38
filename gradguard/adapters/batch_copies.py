"""Copies of a batch for every call of the user's functions, which may change what they are given.

A loop makes each batch anew, so that a loss may write into it. Here a batch is read once and given many times: functions get a
copy, so that nothing of the user's is written, and the same copy for as long as nobody has changed it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.errors import INTERRUPTS

__all__ = ["BatchCopies", "Piece", "overlapping"]

SPARSE = 4
"""Arrays that overlap are copied with all that lies between them, but not where that is more than so many times their size."""
OBJECTS = 3
"""Objects of other classes than containers are copied so many deep (a batch, a graph in it, the store that the graph keeps its
tensors in): further inside is what a batch only refers to."""
ATOMS = (
    type(None), str, bytes, int, float, complex, np.generic, type, types.ModuleType, types.FunctionType, types.MethodType,
    types.BuiltinFunctionType, functools.partial,
)
"""What has nothing inside that a call changes, or is code."""


def overlapping(spans: Sequence[tuple[Any, int, int]]) -> Iterator[list[int]]:
    """The indices of spans (storage, first byte, byte after the last), those together that reach into each other."""
    group: list[int] = []
    storage, end = None, 0
    for i in sorted(range(len(spans)), key=lambda i: (str(spans[i][0]), spans[i][1])):
        where, low, high = spans[i]
        if group and (where != storage or low >= end):
            yield group
            group = []
        storage, end = where, max(end, high) if group else high
        group.append(i)
    if group:
        yield group


class Piece:
    """Arrays that are copied together: those that overlap in memory, or one that overlaps with no other."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays

    def lend(self, owner: BatchCopies) -> dict[int, Any]:
        """Copies with the values that the user's own arrays have, by the ids of those."""
        spans = [span_of(a) for a in self.arrays]
        low, high = min(low for low, _ in spans), max(high for _, high in spans)
        if len(self.arrays) == 1 and self.arrays[0].nbytes <= high - low:
            made = {id(a): a.copy(order="K") for a in self.arrays}
        else:
            work = _copied_range(low, high - low)
            made = {
                id(a): np.ndarray(a.shape, a.dtype, work, int(a.__array_interface__["data"][0]) - low, a.strides)
                for a in self.arrays
            }
        for array in self.arrays:
            made[id(array)].flags.writeable = array.flags.writeable
        return made


def span_of(array: NDArray[Any]) -> tuple[int, int]:
    """The addresses of an array's first byte and of the one after its last."""
    start = int(array.__array_interface__["data"][0])
    reach = [stride * (extent - 1) for stride, extent in zip(array.strides, array.shape, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + array.itemsize


def _copied_range(low: int, size: int) -> NDArray[np.uint8]:
    """A copy of some memory, which the caller holds, as bytes."""
    interface = {"data": (low, True), "shape": (size,), "typestr": "|u1", "version": 3}
    return np.array(types.SimpleNamespace(__array_interface__=interface))


class BatchCopies:
    """Hands out the batches of a scenario, and what was made of them.

    Containers are copied: dicts, lists, tuples, dataclasses, and other objects by their attributes. What is there twice
    stays one thing, and what overlaps in memory still does. What cannot be copied is handed out as it is, and so are
    models, code and random generators. A copy that is as the batch still is goes to the next call, too: what a function
    remembers by its ``id`` is found again.
    """

    def __init__(self, batches: Sequence[Any] = ()) -> None:
        self.batches = tuple(batches)  # held, so that an id means this batch
        self._pieces: dict[int, list[Piece] | None] = dict.fromkeys(map(id, self.batches))
        self._kept: dict[int, Any] = {}

    def of(self, batch: Any) -> Any:
        """The batch for one call."""
        if id(batch) not in self._pieces:
            return self.anew(batch)
        if id(batch) not in self._kept or not same(self, self._kept[id(batch)], batch):
            self._kept[id(batch)] = self.anew(batch)
        return self._kept[id(batch)]

    def anew(self, batch: Any) -> Any:
        """A new copy."""
        pieces = self._pieces.get(id(batch))
        if pieces is None:
            arrays: dict[int, Any] = {}
            Walk(self, arrays).of(batch)
            pieces = self.pieces(list(arrays.values()))
            if id(batch) in self._pieces:
                self._pieces[id(batch)] = pieces
        made: dict[int, Any] = {}
        for piece in pieces:
            made.update(piece.lend(self))
        return Walk(self, made, seen=True).of(batch)

    def pieces(self, arrays: Sequence[Any]) -> list[Piece]:
        """The arrays of a batch, those together that overlap in memory."""
        found: list[Piece] = []
        for group in overlapping([(0, *span_of(a)) for a in arrays]):
            members = [arrays[i] for i in group]
            spans = [span_of(a) for a in members]
            reach = max(high for _, high in spans) - min(low for low, _ in spans)
            together = len(members) == 1 or reach <= SPARSE * sum(a.nbytes for a in members)
            found += [Piece(members)] if together else [Piece([a]) for a in members]
        return found

    def unchanged(self, made: Any, array: Any) -> bool:
        """Whether a copy of an array still is one."""
        alike = made.shape == array.shape and made.strides == array.strides and made.flags.writeable == array.flags.writeable
        return bool(alike and np.array_equal(_bits(made), _bits(array)))

    def is_array(self, value: Any) -> bool:
        """Whether it is memory that pieces copy: an empty array has none."""
        return type(value) is np.ndarray and not value.dtype.hasobject and value.size > 0

    def is_whole(self, value: Any) -> bool:
        """Whether it is not opened: it has a copy of its own making, or is handed out as it is."""
        if isinstance(value, np.ndarray):
            return not value.dtype.hasobject  # a masked array, a matrix
        known = isinstance(value, np.random.Generator | np.random.RandomState | random.Random)
        return known or _comes_from(value, "pandas", "jax", "jaxlib")

    def whole(self, value: Any) -> Any:
        """The copy of what is not opened."""
        if isinstance(value, np.memmap) and not value.flags.writeable:  # a file, maybe larger than memory
            return value
        copied = isinstance(value, np.ndarray) or _comes_from(value, "pandas")
        return value.copy() if copied and hasattr(value, "copy") else value


class Walk:
    """One way through a batch: the arrays that it meets are collected, or, where they were ``seen``, replaced."""

    def __init__(self, owner: BatchCopies, arrays: dict[int, Any], *, seen: bool = False) -> None:
        self.owner, self.arrays, self.seen = owner, arrays, seen
        self.made: dict[int, Any] = {}
        self.met: list[Any] = []  # held, so that an id means this one

    def of(self, node: Any, depth: int = 0) -> Any:
        """The copy of one thing inside, the same one each time."""
        if isinstance(node, ATOMS):
            return node
        if id(node) not in self.made:
            self.met.append(node)
            self.made[id(node)] = node  # for a tuple that holds itself
            self.made[id(node)] = self._copy(node, depth)
        return self.made[id(node)]

    def _copy(self, node: Any, depth: int) -> Any:
        array = self.owner.is_array(node)
        if array and not self.seen:
            self.arrays[id(node)] = node
        if array and id(node) in self.arrays:
            return self.arrays[id(node)]
        try:
            if array or self.owner.is_whole(node):
                return self.owner.whole(node) if self.seen else node
            return self._tuple(node, depth) if isinstance(node, tuple) else self._opened(node, depth)
        except INTERRUPTS:
            raise
        except Exception:  # it cannot be copied
            return node

    def _opened(self, node: Any, depth: int) -> Any:
        plain = isinstance(node, Mapping | list | deque | set | bytearray | np.ndarray) or dataclasses.is_dataclass(node)
        if not plain and (depth >= OBJECTS or hasattr(type(node), "__del__") or not _attributes(node)):
            return node  # ``__del__`` of a copy would close what the user's own still needs; others are marks without content
        try:
            made = copy.copy(node)
        except (AttributeError, RecursionError):  # its ``__getattr__`` or ``__setattr__`` refuses while it is half made
            made = object.__new__(type(node))
        if made is node or type(made) is not type(node) or _shares_dict(made, node):
            return node
        self.made[id(node)] = made  # what holds itself finds its copy
        self._fill(node, made, depth if plain else depth + 1)
        return made

    def _tuple(self, node: tuple[Any, ...], depth: int) -> Any:
        parts = [self.of(part, depth) for part in tuple.__iter__(node)]
        attributes = _attributes(node)
        if not attributes and all(a is b for a, b in zip(parts, tuple.__iter__(node), strict=True)):
            return node
        try:
            made = tuple.__new__(type(node), parts)
        except TypeError:  # one that torch or Python has made in C
            made = type(node)(parts)
        if attributes:
            made.__dict__.update({name: self.of(value, depth) for name, value in attributes.items()})
        return made

    def _fill(self, node: Any, made: Any, depth: int) -> None:
        """Copies of what is inside, in the places where ``copy.copy`` has put the things themselves, or copies of its own."""
        if isinstance(node, dict):
            for key, value in list(dict.items(made)):
                dict.__setitem__(made, key, self.of(value, depth))
        elif isinstance(node, list):
            list.__setitem__(made, slice(None), [self.of(value, depth) for value in list.__iter__(made)])
        elif isinstance(node, deque):
            for i, value in enumerate(list(made)):
                made[i] = self.of(value, depth)
        elif isinstance(node, np.ndarray) and node.ndim:
            for place in np.ndindex(node.shape):
                made[place] = self.of(node[place], depth)
        if getattr(node, "__dict__", None) is node:  # a dict whose keys are its attributes
            made.__dict__ = made
            return
        slots = set(_slots(type(made)))
        for name, value in (_attributes(node) | _attributes(made)).items():
            if name in slots:
                object.__setattr__(made, name, self.of(value, depth))
            else:
                made.__dict__[name] = self.of(value, depth)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """An array as whole numbers, which are compared fast, and NaN with NaN; as it is where it is not in one piece."""
    flat = array.reshape(-1, order="A") if array.flags.c_contiguous or array.flags.f_contiguous else array
    return flat.view(f"u{array.itemsize}") if array.itemsize in (1, 2, 4, 8) else flat


def same(owner: BatchCopies, made: Any, node: Any, met: set[int] | None = None) -> bool:
    """Whether a copy is as what it was made of; not known of what has a copy of its own making, so no."""
    met = set() if met is None else met
    if made is node or id(node) in met:
        return True
    met.add(id(node))
    if type(made) is not type(node) or isinstance(node, ATOMS):
        return False
    if owner.is_array(node):
        return owner.unchanged(made, node)
    if owner.is_whole(node):
        return False
    if isinstance(node, set | bytearray):
        return bool(made == node)
    pairs: list[tuple[Any, Any]] = []
    for have, had in ((_parts(made), _parts(node)), (_attributes(made), _attributes(node))):
        if list(have) != list(had):
            return False
        pairs += [(have[key], had[key]) for key in had]
    return all(same(owner, a, b, met) for a, b in pairs)


def _parts(node: Any) -> dict[Any, Any]:
    """What a container holds, by key or place."""
    if isinstance(node, dict):
        return dict(dict.items(node))
    if isinstance(node, tuple | list | deque):
        return dict(enumerate(node))
    return {place: node[place] for place in np.ndindex(node.shape)} if isinstance(node, np.ndarray) else {}


def _attributes(node: Any) -> dict[str, Any]:
    """What an object holds, in its dict and in its slots."""
    slots = {name: getattr(node, name) for name in _slots(type(node)) if hasattr(node, name)}
    return {**getattr(node, "__dict__", {}), **slots}


def _shares_dict(made: Any, node: Any) -> bool:
    """Whether all objects of this class have one state, so that nothing may be put into the copy."""
    return getattr(made, "__dict__", None) is getattr(node, "__dict__", made)


def _comes_from(value: Any, *packages: str) -> bool:
    """Whether its class, or a base of it, is one of these packages'."""
    return any(base.__module__.partition(".")[0] in packages for base in type(value).__mro__)


def _slots(cls: type) -> Iterator[str]:
    """The names of a class's slots, its bases' too."""
    for base in cls.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                yield f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
