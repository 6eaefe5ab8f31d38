"""The same wrong/right pair given to the peers: torch's gradcheck, pytest-torch, JAX's check_grads.

Each gets the pair as its own users would write it: gradcheck gets the parameters too, through ``functional_call``;
pytest-torch gets the function or module and its inputs; JAX gets a ``custom_vjp`` whose two halves call the pair.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gradguard.adapters.nesting import argument_names, flatten, rebuild
from tests.cases.case import Checked

__all__ = ["PEERS", "Outcome", "Subject", "subject"]


@dataclass(frozen=True)
class Outcome:
    """Whether a checker objected to a function, how often it called it, and for how long."""

    objected: bool
    forwards: int
    seconds: float


@dataclass
class Subject:
    """A pair's half as a function of float64 tensors: ``f(*tensors)``, with its calls counted."""

    f: Callable[..., Any]
    tensors: tuple[torch.Tensor, ...]
    order: int
    plain: Any
    plain_inputs: tuple[Any, ...]
    calls: int = 0

    def __call__(self, *tensors: torch.Tensor) -> Any:
        self.calls += 1
        return self.f(*tensors)


def subject(checked: Checked) -> Subject:
    """The arguments of ``check_gradients`` as a function of float64 tensors."""
    order = checked.options.get("order", 1)
    if "grad" in checked.options or "vjp" in checked.options:
        f, tensors = _from_numpy(checked)
        return Subject(f, tensors, order, f, tensors)
    inputs = tuple(_double(x) for x in checked.inputs)
    if isinstance(checked.f, nn.Module):
        model = checked.f.double()
        names = [name for name, _ in model.named_parameters()]
        parameters = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

        def call(*tensors: torch.Tensor) -> Any:
            state = dict(zip(names, tensors, strict=False))
            return torch.func.functional_call(model, state, tensors[len(names) :])

        return Subject(call, (*parameters, *inputs), order, model, inputs)
    return Subject(checked.f, inputs, order, checked.f, inputs)


def slow(one: Subject) -> Outcome | None:
    """gradcheck, or gradgradcheck where the second order is asked for."""
    return _timed(one, lambda: _gradcheck(one, fast=False))


def fast(one: Subject) -> Outcome | None:
    """Its fast mode."""
    return _timed(one, lambda: _gradcheck(one, fast=True))


def pytest_torch(one: Subject) -> Outcome | None:
    """``assert_gradcheck`` on the function or module and its inputs; it has no second order."""
    if one.order > 1:
        return None
    from pytest_torch import assert_gradcheck

    inputs = one.plain_inputs
    if not any(x.requires_grad for x in inputs):
        inputs = tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs)

    def counted(*tensors: torch.Tensor) -> Any:
        one.calls += 1
        return one.plain(*tensors)

    function: Any = counted
    if isinstance(one.plain, nn.Module):
        function = one.plain  # a module is copied and converted; its calls are not counted
        one.calls = -1

    def run() -> bool:
        assert_gradcheck(function, inputs)
        return True

    return _timed(one, run)


def jax(one: Subject) -> Outcome | None:
    """``check_grads`` in reverse mode; None where JAX cannot express it (layouts, second order of a callback)."""
    if one.order > 1 or any(x.dim() > 1 and not x.is_contiguous() for x in one.tensors):
        return None
    import jax as jx

    jx.config.update("jax_enable_x64", True)
    from jax.test_util import check_grads

    floats = [i for i, x in enumerate(one.tensors) if x.is_floating_point()]
    example = one(*one.tensors)
    if not isinstance(example, torch.Tensor):
        return None

    def filled(arrays: Any) -> tuple[torch.Tensor, ...]:
        tensors = list(one.tensors)
        for i, array in zip(floats, arrays, strict=True):
            tensors[i] = torch.tensor(np.array(array), dtype=torch.float64).requires_grad_()
        return tuple(tensors)

    def value(*arrays: Any) -> Any:
        return one(*filled(arrays)).detach().numpy()

    def pullback(g: Any, *arrays: Any) -> Any:
        tensors = filled(arrays)
        wanted = [tensors[i] for i in floats]
        found = torch.autograd.grad(one(*tensors), wanted, torch.tensor(np.array(g)), allow_unused=True)
        return tuple((torch.zeros_like(x) if g is None else g).numpy() for x, g in zip(wanted, found, strict=True))

    shape = jx.ShapeDtypeStruct(tuple(example.shape), np.float64)
    shapes = tuple(jx.ShapeDtypeStruct(tuple(one.tensors[i].shape), np.float64) for i in floats)

    @jx.custom_vjp
    def f(*arrays: Any) -> Any:
        return jx.pure_callback(value, shape, *arrays)

    f.defvjp(lambda *arrays: (f(*arrays), arrays), lambda arrays, g: jx.pure_callback(pullback, shapes, g, *arrays))
    arrays = tuple(one.tensors[i].detach().numpy() for i in floats)
    one.calls = 0

    def run() -> bool:
        check_grads(f, arrays, order=1, modes=("rev",))
        return True

    return _timed(one, run)


PEERS: dict[str, Callable[[Subject], Outcome | None]] = {
    "gradcheck slow": slow, "gradcheck fast": fast, "pytest-torch": pytest_torch, "JAX check_grads": jax,
}


def _gradcheck(one: Subject, *, fast: bool) -> bool:
    check = torch.autograd.gradgradcheck if one.order > 1 else torch.autograd.gradcheck
    return bool(check(one, one.tensors, fast_mode=fast, raise_exception=True))


def _timed(one: Subject, run: Callable[[], bool]) -> Outcome:
    start = time.perf_counter()
    with _quiet():
        try:
            objected = not run()
        except Exception:  # a peer objects by raising, of several types
            objected = True
    return Outcome(objected, one.calls, time.perf_counter() - start)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _double(x: torch.Tensor) -> torch.Tensor:
    if not x.is_floating_point():
        return x
    needed = x.requires_grad
    copy = torch.empty_strided(x.shape, x.stride(), dtype=torch.float64)
    return copy.copy_(x.detach()).requires_grad_(needed)


def _from_numpy(checked: Checked) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
    """A NumPy function with its gradient as an autograd Function of its float leaves."""
    inputs, options = checked.inputs, checked.options
    names = argument_names(checked.f, len(inputs))
    leaves = [leaf.value for name, one in zip(names, inputs, strict=True) for leaf in flatten(one, name)]

    class Wrapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
            ctx.arguments = rebuild(inputs, [t.detach().numpy() for t in tensors])
            return torch.tensor(np.asarray(checked.f(*ctx.arguments)))

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> Any:
            if "vjp" in options:
                found = options["vjp"](g.numpy(), *ctx.arguments)
                return tuple(torch.tensor(leaf.value) for leaf in flatten(found))
            mirrored = dict(flatten(options["grad"](*ctx.arguments)))
            order = [leaf.name for leaf in flatten(inputs[0])]
            return tuple(torch.tensor(mirrored[name]) * g for name in order)

    return Wrapped.apply, tuple(torch.tensor(leaf).requires_grad_() for leaf in leaves)
