"""The random states that a NumPy function can draw from, held fixed around each call and given back afterwards."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType
from typing import Any

import numpy as np

__all__ = ["RandomStates"]

DEPTH = 4
"""How many functions and objects deep generators are looked for: a scenario, its loss, a model, its layer."""


class RandomStates:
    """NumPy's and Python's global states, and the generators that the functions reach by closure, global or default.

    Every call sees the states as they were when this was made, so that a dropout mask is the same one each time.
    """

    def __init__(self, *functions: Callable[..., Any] | None) -> None:
        self.generators = [g for f in functions if f is not None for g in _generators(f)]
        self.start = self._read()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run with the recorded states; the states that were there before are put back, also after an exception."""
        before = self._read()
        self._write(self.start)
        try:
            yield
        finally:
            self._write(before)

    def _read(self) -> list[Any]:
        return [random.getstate(), np.random.get_state(), *(_state(g) for g in self.generators)]

    def _write(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for generator, state in zip(self.generators, states[2:], strict=True):
            _set_state(generator, state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _generators(function: Callable[..., Any]) -> list[Any]:
    """The generators that a function can reach through closures, globals, defaults and objects, each once."""
    found: dict[int, Any] = {}
    _reach(function, DEPTH, set(), found)
    return list(found.values())


def _reach(value: Any, depth: int, seen: set[int], found: dict[int, Any]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        if not isinstance(value, random.SystemRandom):  # which has no state
            found[id(value)] = value
    elif depth > 0:
        for inner in _held_by(value):
            _reach(inner, depth - 1, seen, found)


def _names(code: CodeType) -> list[str]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return [*code.co_names, *(name for one in inner for name in _names(one))]


def _held_by(value: Any) -> list[Any]:
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        space = value.__globals__
        held = [space[name] for name in _names(value.__code__) if name in space]
        held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # a cell that is not filled yet
                held.append(cell.cell_contents)
        return held
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, type) or inspect.ismodule(value) or not hasattr(value, "__dict__"):
        return []
    call = vars(type(value)).get("__call__")
    return [*vars(value).values(), *([call] if inspect.isfunction(call) else [])]
