"""From a NumPy function with its gradient, or a scenario of arrays, to a :class:`NumpyProblem`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradguard.adapters.batch_copies import BatchCopies
from gradguard.adapters.numpy_call import Call
from gradguard.adapters.numpy_problem import NumpyProblem
from gradguard.adapters.numpy_random import RandomStates
from gradguard.errors import UsageError
from gradguard.scenarios import Scenario

__all__ = ["adapt_numpy", "adapt_numpy_scenario"]


def adapt_numpy(
    f: Callable[..., Any],
    inputs: Any,
    *,
    grad: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | str | None = None,
    seed: int = 0,
    batched: bool | Callable[..., Any] | None = None,
    names: Sequence[str] | None = None,
    kind: str = "input",
) -> NumpyProblem:
    """A NumPy function with its gradient under test, as a problem.

    ``inputs``: a tuple (positional), a dict (keyword), or one array or container. ``grad(*inputs)`` is the gradient of
    a scalar-valued ``f``; ``vjp(cotangent, *inputs)`` is tested with a random signed cotangent over all outputs.
    Complex blocks follow torch: the gradient is dL/dRe + i dL/dIm, and the slope along u is Re sum(conj(g) u).

    ``batched``: True where ``f`` also takes every differentiated input with a leading axis (K, ...) and then returns
    (K, ...); or a function that does. ``names`` replaces the inputs' names, ``""`` names their parts alone.

    Raises:
        UsageError: the check cannot be made as asked for; says what, where, and what to do.
    """
    if (grad is None) == (vjp is None):
        raise UsageError(
            "a NumPy function is checked against its hand-written gradient: one of grad and vjp" if grad is None
            else "both grad and vjp are given",
            todo="pass grad=g with g(*inputs) for a scalar-valued f, or vjp=h with h(cotangent, *inputs)",
        )
    backward, what = (grad, "grad") if grad is not None else (vjp, "vjp")
    if not callable(backward):
        raise UsageError(f"{what} must be a function, got {type(backward).__name__}")
    stacked = f if batched is True else batched if callable(batched) else None
    call = Call(f, inputs, kwargs, RandomStates(f, backward, stacked), names)
    return NumpyProblem(call, backward, what, wrt=wrt, seed=seed, batched=stacked, kind=kind)


def adapt_numpy_scenario(scenario: Scenario, batch: Any, *, seed: int = 0) -> NumpyProblem:
    """A scenario whose model is a (nested) dict of arrays, bound to one batch; the blocks are named as in the model.

    Raises:
        UsageError: the scenario has no ``grad``, or ``adapt_numpy`` cannot use it.
    """
    grad = scenario.grad
    if grad is None:
        raise UsageError(
            "the scenario's model is made of NumPy arrays, and it has no grad",
            todo="gg.Scenario(..., grad=g) with g(model, batch) mirroring the model",
        )
    loss, handed = scenario.loss, BatchCopies([batch])
    return adapt_numpy(
        lambda model: loss(model, handed.of(batch)), (scenario.model,), grad=lambda model: grad(model, handed.of(batch)),
        wrt=scenario.wrt, seed=seed, names=("",), kind="parameter",
    )
