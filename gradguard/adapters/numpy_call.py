"""A NumPy function with its inputs: called on copies, with the random state held, with other leaves, or stacked."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.nesting import Leaf, argument_names, flatten, rebuild
from gradguard.adapters.numpy_random import RandomStates
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["Call", "differentiable", "lifted"]

Outputs = list[NDArray[Any]]


class Call:
    """``f(*inputs, **kwargs)``, with the inputs' leaves as a flat list that can be replaced.

    ``names`` are those of the top-level inputs, ``leaves`` every leaf with its full name; floating-point and complex
    leaves are lifted to float64 and complex128, so that low precision does not decide a difference of values.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        inputs: Any,
        kwargs: Mapping[str, Any] | None,
        states: RandomStates,
        names: Sequence[str] | None = None,
    ) -> None:
        if not callable(f):
            raise UsageError(f"f must be a function, got {type(f).__name__}")
        self.f = f
        self.keywords = isinstance(inputs, Mapping)
        self.inputs: tuple[Any, ...] = tuple(inputs.values()) if self.keywords else _positional(inputs)
        self.names = list(names or (inputs if self.keywords else argument_names(f, len(self.inputs))))
        self.kwargs = dict(kwargs or {})
        self.states = states
        self.original: list[Leaf] = [
            leaf for name, one in zip(self.names, self.inputs, strict=True) for leaf in flatten(one, name)
        ]
        masked = [leaf.name for leaf in self.original if isinstance(leaf.value, np.ma.MaskedArray)]
        if masked:
            raise UsageError(
                f"{masked[0]} is a masked array, whose mask is lost in arithmetic on its data", where=f"input {masked[0]}",
                todo="pass its data, and the mask as an input of its own or in kwargs",
            )
        self.leaves: list[Any] = [lifted(leaf.value) for leaf in self.original]

    def run(self, function: Callable[..., Any], leaves: Sequence[Any], *first: Any) -> Any:
        """``function(*first, *inputs, **kwargs)`` on copies of these leaves; its result.

        Floating-point warnings are silent here: what they say of is found in the numbers.
        """
        copies = rebuild(self.inputs, [_copied(leaf) for leaf in leaves])
        kwargs = rebuild(self.kwargs, [_copied(leaf.value) for leaf in flatten(self.kwargs)])
        with self.states.held(), np.errstate(all="ignore"):
            if self.keywords:
                return function(*first, **dict(zip(self.names, copies, strict=True)), **kwargs)
            return function(*first, *copies, **kwargs)

    def at_base(self, function: Callable[..., Any], what: str, *first: Any) -> Any:
        """``run`` at the user's own inputs.

        Raises:
            UsageError: the user's function raises; its exception is the cause.
        """
        try:
            return self.run(function, self.leaves, *first)
        except (UsageError, *INTERRUPTS):
            raise
        except Exception as error:
            raise UsageError(
                f"{what} raised {type(error).__name__}: {error}", where=f"called with {self.shown()}",
                todo=f"call {what} yourself with these inputs; a tuple is passed as arguments, a dict as keywords, "
                "anything else as one argument",
            ) from error

    def shown(self) -> str:
        """The inputs in short, for messages."""
        parts = [f"{leaf.name}: {_kind(leaf.value)}" for leaf in self.original[:8]]
        return ", ".join(parts) + (", ..." if len(self.original) > 8 else "")

    def written(self, function: Callable[..., Any], *first: Any) -> tuple[str, ...]:
        """The names of the leaves that the function writes into."""
        seen: list[Any] = []
        leaves = [_copied(leaf) for leaf in self.leaves]

        def spy(*args: Any, **kwargs: Any) -> Any:
            given = args[len(first) :] if not self.keywords else [kwargs[name] for name in self.names]
            seen.extend(leaf.value for one in given for leaf in flatten(one))
            return function(*args, **kwargs)

        self.run(spy, leaves, *first)
        pairs = zip(self.original, leaves, seen, strict=True) if len(seen) == len(leaves) else ()
        return tuple(leaf.name for leaf, before, after in pairs if not _same(before, after))

    def in_complex(self, leaves: Sequence[Any]) -> Any:
        """``f`` on complex leaves; any loss of the imaginary part raises ``ComplexWarning``."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return self.run(self.f, leaves)


def differentiable(value: Any) -> bool:
    """Whether a leaf is of a floating-point or complex type: an array, a NumPy scalar, or a Python number."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "fc"
    return isinstance(value, float | complex)


def lifted(value: Any) -> Any:
    """A floating-point leaf in at least float64, a complex one in at least complex128; anything else as it is."""
    if not differentiable(value):
        return value
    if not isinstance(value, np.ndarray | np.generic):
        return np.complex128(value) if isinstance(value, complex) else np.float64(value)
    least = np.complex128 if value.dtype.kind == "c" else np.float64
    wide = np.promote_types(value.dtype.newbyteorder("="), least)
    return value.astype(wide) if value.dtype != wide else value


def _positional(inputs: Any) -> tuple[Any, ...]:
    if inputs is None or (isinstance(inputs, tuple) and not inputs):
        raise UsageError("there are no inputs", todo="pass one array, a tuple (positional) or a dict (keyword)")
    plain_tuple = isinstance(inputs, tuple) and not hasattr(inputs, "_fields")
    return inputs if plain_tuple else (inputs,)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy(order="K")
    if isinstance(leaf, np.random.Generator | np.random.RandomState | random.Random):
        return copy.deepcopy(leaf)  # so that the user's is not advanced, and every call draws the same
    return leaf


def _same(before: Any, after: Any) -> bool:
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        return True
    return before.shape == after.shape and before.tobytes() == after.tobytes()


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
