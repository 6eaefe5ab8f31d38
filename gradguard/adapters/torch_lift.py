"""Turning a model into its float64 self while it runs.

``model.double()`` is not enough: real models cast inside (losses, RMSNorm, rotary embeddings, attention). A dispatch
mode sees every operator below autograd, forward and backward, and turns each dtype below float64 into float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradguard.adapters.torch_wide import WIDE

__all__ = ["LiftMode", "lifted_dtype"]

LIFT: dict[torch.dtype, torch.dtype] = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


def lifted_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for a real dtype below it, complex128 for a complex one, the dtype itself otherwise."""
    return LIFT.get(dtype, dtype)


class LiftMode(TorchDispatchMode):
    """While active, every operator computes in float64.

    Tensors below float64 that reach an operator (constants of the model, casts) are converted on the way in, dtypes
    asked for (``.to(float32)``, ``zeros(dtype=float32)``) on the way through, results on the way out. ``changed`` tells
    whether anything had to be: where nothing was, later passes need no mode.

    ``drawn`` is the precision that the model itself draws random numbers in (None: float64, or as they are asked for):
    a generator gives other numbers in float64, and the lifted model is to drop what the user's own model drops.
    """

    def __init__(self, drawn: torch.dtype | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without types
        self.changed = False
        self.drawn = drawn

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _REINTERPRET or func.namespace not in ("aten", "prims"):
            return func(*args, **kwargs)
        if func in _DRAWS and self.drawn is not None and lifted_dtype(self.drawn) is torch.float64:
            return self._draw(func, args, kwargs, self.drawn)
        mutable = _mutated_low(func, args, kwargs)
        if mutable is not None:
            return self._write(func, args, kwargs, mutable)
        new_args = _mapped(args, self._in)
        new_kwargs = {name: self._in(_mapped(value, self._in)) for name, value in kwargs.items()} if kwargs else kwargs
        if func in _HALF_TO_FLOAT and len(new_args) > 2 and new_args[2]:
            new_args = (*new_args[:2], False)
        if func in WIDE:  # without the mode there is no kernel for it
            self.changed = True
            return WIDE[func](*new_args, **new_kwargs)
        return self._out(_mapped(func(*new_args, **new_kwargs), self._out))

    def _in(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.dtype in LIFT:
                self.changed = True
                return value.to(LIFT[value.dtype])
        elif isinstance(value, torch.dtype) and value in LIFT:
            self.changed = True
            return LIFT[value]
        return value

    def _out(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in LIFT:
            self.changed = True
            return value.to(LIFT[value.dtype])
        return value

    def _draw(self, func: Any, args: Any, kwargs: Any, low: torch.dtype) -> Any:
        """Random numbers in the model's own precision, where they were to be in float64."""

        def lower(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(low) if value.dtype == torch.float64 else value
            return low if value is torch.float64 else value

        drawn = func(*_mapped(args, lower), **{name: lower(value) for name, value in kwargs.items()})
        self.changed = True
        if func._schema.is_mutable and args[0].dtype == torch.float64:
            return args[0].copy_(drawn)
        return self._out(drawn)

    def _write(self, func: Any, args: Any, kwargs: Any, target: torch.Tensor) -> Any:
        """An in-place operator on a low-precision tensor: compute in float64, and store what it can hold."""
        self.changed = True
        wide = target.to(LIFT[target.dtype])

        def exchange(value: Any) -> Any:
            return wide if value is target else self._in(value)

        result = func(*_mapped(args, exchange), **{name: exchange(_mapped(value, exchange)) for name, value in kwargs.items()})
        target.copy_(wide)
        return target if result is wide else _mapped(result, lambda value: target if value is wide else value)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A tuple or list with each item changed, nested ones too; anything else as it is. Operators take no other container."""
    if isinstance(value, tuple):
        return tuple([_mapped(v, change) if isinstance(v, tuple | list) else change(v) for v in value])
    if isinstance(value, list):
        return [_mapped(v, change) if isinstance(v, tuple | list) else change(v) for v in value]
    return value


def _overloads(*names: str) -> set[Any]:
    packets = [getattr(torch.ops.aten, name, None) for name in names]
    return {getattr(p, one) for p in packets if p is not None for one in p.overloads() if "out" not in one}


_DRAWS = _overloads("rand", "rand_like", "randn", "randn_like", "uniform_", "normal_", "normal", "bernoulli", "bernoulli_")
"""Operators whose random numbers depend on the precision; they carry no gradient."""
_REINTERPRET = {torch.ops.aten.view.dtype}
_HALF_TO_FLOAT = {torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default}


def _mutated_low(func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
    """The low-precision tensor that the operator writes into, if there is one."""
    schema = func._schema
    if not schema.is_mutable:
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        if isinstance(value, torch.Tensor) and value.dtype in LIFT:
            return value
    return None
