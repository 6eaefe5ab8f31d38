"""Nested containers as named leaves, and back: ``params.W1``, ``layers[0].W``. No framework is known here.

A container is a mapping, a list, a tuple (a named one too), a dataclass instance, or a NumPy array of objects. All
else is a leaf. Flatten once, with the inverse: :func:`flatten` gives the leaves in a fixed order, :func:`rebuild` puts
others in their place.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Leaf", "argument_names", "children", "flatten", "join", "rebuild"]


class Leaf(NamedTuple):
    """One leaf: the name that the user knows it by, and what is there."""

    name: str
    value: Any


def flatten(tree: Any, name: str = "") -> list[Leaf]:
    """The leaves of a nested container, named from ``name``, in the containers' own order.

    Raises:
        RecursionError: a container contains itself.
    """
    parts = children(tree)
    if parts is None:
        return [Leaf(name, tree)]
    return [leaf for label, part in parts for leaf in flatten(part, join(name, label))]


def rebuild(tree: Any, leaves: Iterable[Any]) -> Any:
    """A container like ``tree`` with other leaves, taken in the order of :func:`flatten`; ``tree`` stays as it is.

    Raises:
        ValueError: there are too few leaves, or too many.
    """
    remaining = iter(leaves)
    result = _rebuild(tree, remaining)
    if next(remaining, remaining) is not remaining:
        raise ValueError("more leaves than the container holds")
    return result


def children(node: Any) -> list[tuple[str, Any]] | None:
    """The labelled parts of a container (``.key``, ``[0]``), or None for a leaf.

    A mapping's text keys and the fields of dataclasses and named tuples have the same form of label, so that a dict can
    mirror a dataclass.
    """
    if isinstance(node, Mapping):
        return [(f".{key}" if isinstance(key, str) else f"[{key!r}]", part) for key, part in node.items()]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return [(f".{field}", part) for field, part in zip(node._fields, node, strict=True)]
    if isinstance(node, list | tuple):
        return [(f"[{i}]", part) for i, part in enumerate(node)]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return [(f".{f.name}", getattr(node, f.name)) for f in dataclasses.fields(node)]
    if _of_objects(node):
        return [(f"[{', '.join(map(str, position))}]", node[position]) for position in _positions(node.shape)]
    return None


def join(name: str, label: str) -> str:
    """``params`` and ``.W1`` give ``params.W1``; without a name, just ``W1``."""
    return name + label if name else label.removeprefix(".")


def argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The names of the first ``count`` positional arguments, from the signature; ``input[0]`` where it does not say."""
    default = ["input"] if count == 1 else [f"input[{i}]" for i in range(count)]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a NumPy ufunc or a function of C has no signature
        return default
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
            break
    return names[:count] if len(names) >= count else default


def _rebuild(node: Any, leaves: Iterator[Any]) -> Any:
    parts = children(node)
    if parts is None:
        try:
            return next(leaves)
        except StopIteration:
            raise ValueError("fewer leaves than the container holds") from None
    new = [_rebuild(part, leaves) for _, part in parts]
    return _with_parts(node, new)


def _with_parts(node: Any, parts: Sequence[Any]) -> Any:
    if isinstance(node, Mapping):
        return _mapping_with(node, dict(zip(node, parts, strict=True)))
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*parts)
    if isinstance(node, list | tuple):
        plain = list if isinstance(node, list) else tuple
        return plain(parts) if type(node) in (list, tuple) else type(node)(parts)
    result = copy.copy(node)
    if _of_objects(node):
        for position, part in zip(_positions(node.shape), parts, strict=True):
            result[position] = part
    else:
        for field, part in zip(dataclasses.fields(node), parts, strict=True):
            object.__setattr__(result, field.name, part)  # frozen ones too
    return result


def _mapping_with(node: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if type(node) is dict:
        return items
    try:
        result: Any = copy.copy(node)
        for key, part in items.items():
            result[key] = part
    except TypeError:  # a mapping that cannot be written to: its items as a dict
        return items
    return result


def _of_objects(node: Any) -> bool:
    numpy = sys.modules.get("numpy")  # asked for, never imported uninvited
    return numpy is not None and isinstance(node, numpy.ndarray) and node.dtype == object and node.ndim > 0


def _positions(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not shape:
        yield ()
        return
    for first in range(shape[0]):
        for rest in _positions(shape[1:]):
            yield (first, *rest)
