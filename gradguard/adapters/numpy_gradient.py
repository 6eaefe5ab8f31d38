"""What a hand-written ``grad`` or ``vjp`` returned, put beside the blocks that it belongs to.

A gradient may mirror the only input; every input, in a tuple; the inputs that ``wrt`` selects; the first input (the
parameters) or the first few; or inputs by their names, in a dict. Whatever does not fit is an error that names the
block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.nesting import children, join
from gradguard.blocks import nearest
from gradguard.errors import UsageError

__all__ = ["Input", "Matched", "check_gradient", "match_gradient"]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One top-level input: its name, its (nested) value, and the names of its leaves that are differentiated."""

    name: str
    value: Any
    blocks: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The gradient by block name (None where it says None), and the inputs with blocks that it leaves out."""

    gradients: dict[str, Any]
    left_out: tuple[str, ...]


@dataclass
class Reading:
    """One way to read a gradient: its part for each input, and what does not fit."""

    parts: dict[int, Any]
    problems: list[str] = field(default_factory=list)
    misshapen: int = 0
    gradients: dict[str, Any] = field(default_factory=dict)


def match_gradient(gradient: Any, inputs: Sequence[Input], *, what: str = "grad") -> Matched:
    """The gradient of every block, by name; ``what`` is what the user's function is called in messages.

    Of several readings the one with the fewest misfits is taken, then the fewest wrong shapes, then the first.

    Raises:
        UsageError: no reading fits: a container is covered only in part, or a name or an item is unknown.
    """
    readings = list(_readings(gradient, inputs))
    for reading in readings:
        for index, part in reading.parts.items():
            if part is not None:
                _walk(reading, inputs[index].name, inputs[index].value, part, inputs[index].blocks)
    best = min(readings, key=lambda r: (len(r.problems), r.misshapen))
    if best.problems:
        wanted = ", ".join(one.name or "the model" for one in inputs if one.blocks)
        raise UsageError(
            f"{what} {best.problems[0]}",
            where=f"{what} returned {_kind(gradient)}; the inputs with blocks are: {wanted}",
            todo="return a gradient that mirrors the input's containers, or name the blocks to check with wrt=",
        )
    covered = {i for i, part in best.parts.items() if part is not None}
    left_out = tuple(one.name for i, one in enumerate(inputs) if one.blocks and i not in covered)
    return Matched(gradients=best.gradients, left_out=left_out)


def check_gradient(
    name: str, shape: tuple[int, ...], gradient: Any, *, is_complex: bool, what: str = "grad"
) -> NDArray[Any]:
    """One block's gradient as a float64 or complex128 copy of the block's shape; nothing of the user's aliases it.

    Raises:
        UsageError: another shape (also one that would broadcast), or a dtype that is no gradient's.
    """
    array = np.asarray(gradient)
    where = f"block {name}, shape {shape}"
    if array.dtype.kind not in "fciub":
        raise UsageError(
            f"{what} returned dtype {array.dtype} for {name}", where=where,
            todo="return an array of floating-point numbers",
        )
    if array.dtype.kind == "c" and not is_complex:
        raise UsageError(
            f"{what} returned a complex gradient for {name}, which is real", where=where,
            todo="return its real part: the gradient of a real value by a real block is real",
        )
    if array.shape != shape:
        raise UsageError(
            f"{what} returned shape {array.shape} for {name}, whose shape is {shape}", where=f"block {name}",
            todo=_advice(shape, array.shape),
        )
    return array.astype(np.complex128 if is_complex else np.float64, copy=True)


def _advice(shape: tuple[int, ...], got: tuple[int, ...]) -> str:
    if len(shape) > 1 and got == shape[::-1]:
        return "it is transposed: return the block's own shape"
    try:
        sums = np.broadcast_shapes(shape, got) == got
    except ValueError:
        sums = False
    if sums:
        return "sum it over the axes along which the block is broadcast (a bias: over the batch)"
    return "return an array of exactly the block's shape"


def _readings(gradient: Any, inputs: Sequence[Input]) -> Iterator[Reading]:
    """The ways to read a gradient, in order of preference."""
    selected = [i for i, one in enumerate(inputs) if one.blocks]
    names = [one.name for one in inputs]
    if len(inputs) == 1:
        yield Reading({0: gradient})
    if isinstance(gradient, tuple | list):
        if len(gradient) == len(inputs):
            yield Reading(dict(enumerate(gradient)))
        if len(gradient) == len(selected):
            yield Reading(dict(zip(selected, gradient, strict=True)))
    if isinstance(gradient, Mapping) and any(key in names for key in gradient):
        unknown = [key for key in gradient if key not in names]
        yield Reading(
            {names.index(key): part for key, part in gradient.items() if key in names},
            [f"names {key!r}, which is no input.{nearest(str(key), names)}" for key in unknown],
        )
    yield Reading({selected[0] if selected else 0: gradient})
    yield Reading({0: gradient})
    if isinstance(gradient, tuple | list) and len(gradient) < len(inputs):
        yield Reading(dict(enumerate(gradient)))


def _walk(reading: Reading, name: str, value: Any, part: Any, blocks: frozenset[str]) -> None:
    """Put ``part`` beside ``value``; what does not fit is noted in the reading."""
    labelled = children(value)
    if labelled is None:
        if name in blocks:
            reading.gradients[name] = part
            _look_at_leaf(reading, name, value, part)
        return
    if part is None:
        for label, inner in labelled:
            _walk(reading, join(name, label), inner, None, blocks)
        return
    parts = children(part)
    if parts is None:
        reading.problems.append(f"returned {_kind(part)} for {name or 'the model'}, which is {_kind(value)}")
        return
    given, wanted = dict(parts), dict(labelled)
    for label in given:
        if label not in wanted:
            close = nearest(label.lstrip("."), [one.lstrip(".") for one in wanted])
            reading.problems.append(f"returned {join(name, label)}, which is no part of {name or 'the model'}.{close}")
    for label, inner in labelled:
        path = join(name, label)
        if label in given:
            _walk(reading, path, inner, given[label], blocks)
        elif _has_block(path, inner, blocks):
            reading.problems.append(f"does not cover {path}: its container is covered only in part")


def _look_at_leaf(reading: Reading, name: str, value: Any, part: Any) -> None:
    if part is None:
        return
    try:
        array = np.asarray(part)
    except ValueError:  # ragged lists
        array = np.empty(0, dtype=object)
    if array.dtype == object and np.ndim(value) + np.size(value) > 0:
        reading.problems.append(f"returned {_kind(part)} for {name}, which is an array of shape {np.shape(value)}")
    elif array.shape != np.shape(value):
        reading.misshapen += 1


def _has_block(name: str, value: Any, blocks: frozenset[str]) -> bool:
    labelled = children(value)
    if labelled is None:
        return name in blocks
    return any(_has_block(join(name, label), inner, blocks) for label, inner in labelled)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        return f"a dict with {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}" if keys else "an empty dict"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {'objects, ' if value.dtype == object else ''}shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
