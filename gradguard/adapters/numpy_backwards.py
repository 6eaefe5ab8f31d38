"""A hand-written NumPy backward: linear in its cotangent, blind to layout, and writing into nothing of its caller's?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.backward_base import BackwardFacts, Fault
from gradguard.adapters.nesting import flatten, rebuild
from gradguard.adapters.numpy_call import differentiable
from gradguard.errors import INTERRUPTS, UsageError

if TYPE_CHECKING:
    from gradguard.adapters.numpy_problem import NumpyProblem

__all__ = ["numpy_backward_facts", "numpy_layout_faults"]

Arrays = list[NDArray[Any] | None]
EXACT = 1e4 * 2.0**-52
NOISE = 1e3
FAR = 2.0**30
NUDGE = 2.0**-9
SUMS = 1e-8
"""Relative difference of sums from which on the rounding is measured."""


def numpy_backward_facts(problem: NumpyProblem, *, writes_only: bool = False) -> BackwardFacts:
    """Writes of ``f`` and of the backward; with ``vjp``, four more calls with other cotangents, and more where one fails."""
    faults = [*_writes(problem, problem.call.f, "f"), *_writes(problem, problem.backward, problem.what)]
    if writes_only:
        return BackwardFacts(faults=tuple(faults), skipped={})
    if problem.what == "grad":
        reason = "grad= takes no cotangent; vjp= does"
        return BackwardFacts(faults=tuple(faults), skipped={"linearity": reason, "layout": reason})
    if any(f.what.startswith("the cotangent") for f in faults):
        return BackwardFacts(faults=tuple(faults), skipped={"linearity": "vjp writes into the cotangent"})
    return BackwardFacts(faults=(*faults, *_experiments(problem)), tried=("cotangents",), skipped={})


def _experiments(problem: NumpyProblem) -> list[Fault]:
    if _all_is_well(problem):
        return []
    names = [block.name for block in problem.blocks]
    known, v, run = problem.gradients, problem.phi.cotangent, problem.gradients_for
    faults = []
    for what, factor in (("-g", -1.0), ("2^30 g", FAR), ("2^-30 g", 1 / FAR)):
        size, name = _apart(run([factor * g for g in v]), known, names, factor)
        if size > EXACT:
            faults.append(Fault(kind="linearity", what=what, block=name, size=size, limit=EXACT))
    zero = max((float(np.max(np.abs(g), initial=0.0)) for g in run([0.0 * g for g in v]) if g is not None), default=0.0)
    if zero > 0:
        detail = f"a cotangent of zeros gives {zero:.2g}"
        faults.append(Fault(kind="linearity", what="g = 0", size=zero, limit=0.0, detail=detail))
    if faults:
        return faults
    ones = [np.full(g.shape, 0.5, dtype=g.dtype) for g in v]
    from_ones = run(ones)
    sums = run([g + h for g, h in zip(v, ones, strict=True)])
    expected = [a if b is None else b if a is None else a + b for a, b in zip(known, from_ones, strict=True)]
    tried: list[tuple[str, str, Callable[[], Arrays], Arrays]] = [
        ("linearity", "g + h", lambda: sums, expected),
        ("layout", "transposed", lambda: run([_turned(g) for g in v]), known),
        ("layout", "expanded", lambda: run([np.broadcast_to(np.asarray(0.5, dtype=g.dtype), g.shape) for g in v]), from_ones),
    ]
    for kind, what, found, wanted in tried:
        if kind == "layout" and all(g.ndim == 0 or g.size < 2 for g in v):
            continue
        try:
            size, name = _apart(found(), wanted, names)
        except UsageError as error:
            faults.append(Fault(kind="refused", what=what, detail=error.what, harmless=True))
            continue
        if size > EXACT:
            noise = max(_apart(run([factor * g for g in v]), known, names, factor)[0] for factor in (3.0, 5.0, 7.0))
            limit = max(EXACT, NOISE * noise)
            if size > limit:
                faults.append(Fault(kind=kind, what=what, block=name, size=size, limit=limit))
    return faults


def _all_is_well(problem: NumpyProblem) -> bool:
    """-2^30 g and 2^-30 g, exactly; and g + h, transposed, against g and a constant h that is expanded."""
    names = [block.name for block in problem.blocks]
    known, v, run = problem.gradients, problem.phi.cotangent, problem.gradients_for
    try:
        for factor in (-FAR, 1 / FAR):
            if _apart(run([factor * g for g in v]), known, names, factor)[0] > EXACT:
                return False
        constant = run([np.broadcast_to(np.asarray(0.5, dtype=g.dtype), g.shape) for g in v])
        both = run([_turned(g + 0.5) for g in v])
    except UsageError:  # it raises for one of them: which one is asked next
        return False
    expected = [a if b is None else b if a is None else a + b for a, b in zip(known, constant, strict=True)]
    return _apart(both, expected, names)[0] <= SUMS


def numpy_layout_faults(problem: NumpyProblem) -> tuple[tuple[Fault, ...], str]:
    """Value and gradient with every input in reversed memory order."""
    call = problem.call
    turned = [_turned(leaf) if isinstance(leaf, np.ndarray) and differentiable(leaf) else leaf for leaf in call.leaves]
    if not any(isinstance(leaf, np.ndarray) and leaf.ndim and leaf.size > 1 for leaf in turned):
        return (), "no input has a layout"
    other = problem.with_leaves(turned)
    if other is None:
        return (), "f or its backward does not take inputs in another memory order"
    names = [block.name for block in problem.blocks]
    value, _ = _apart(list(other.phi.base), list(problem.phi.base), [""] * len(problem.phi.base))
    size, name = _apart(other.gradients, problem.gradients, names)
    # Sums in another order round differently: in float32 by far more.
    what, limit = "in another memory order", 1e-4 if problem.path.startswith("native") else 1e-7
    if max(value, size) > limit:
        limit = max(limit, NOISE * _rounding(problem))
    if value > limit:
        return (Fault(kind="layout", what=what, size=value, limit=limit, detail=f"the value differs by {value:.2g}"),), ""
    return ((Fault(kind="layout", what=what, block=name, size=size, limit=limit),) if size > limit else ()), ""


def _rounding(problem: NumpyProblem) -> float:
    """What value and gradient change by, relative, when the inputs' last bits do: in a chaotic function, a lot.

    A little off the point, which may be a kink.
    """
    near = [leaf * (1 + NUDGE) if differentiable(leaf) else leaf for leaf in problem.call.leaves]
    last = [leaf * (1 + 4 * np.finfo(np.float64).eps) if differentiable(leaf) else leaf for leaf in near]
    one, two = problem.with_leaves(near), problem.with_leaves(last)
    if one is None or two is None:
        return 0.0
    value, _ = _apart(list(two.phi.base), list(one.phi.base), [""] * len(one.phi.base))
    return max(value, _apart(two.gradients, one.gradients, [b.name for b in problem.blocks])[0])


def _turned(g: NDArray[Any]) -> NDArray[Any]:
    """The same values with reversed strides; every second place of a longer array in 1-D."""
    if g.ndim >= 2 and g.size > 1:
        other = np.ascontiguousarray(g.T).T
        if not other.flags.c_contiguous or not g.flags.c_contiguous:
            return other if g.flags.c_contiguous else np.ascontiguousarray(g)
    if g.ndim == 0:
        return g.copy()
    wide = np.zeros((*g.shape[:-1], 2 * g.shape[-1]), dtype=g.dtype)
    wide[..., ::2] = g
    return wide[..., ::2]


def _writes(problem: NumpyProblem, function: Callable[..., Any], what: str) -> list[Fault]:
    """What a function writes into: its inputs, and the cotangent; harmless where the same call again gives the same."""
    call = problem.call
    first = (problem.phi.structured_cotangent(),) if what == "vjp" else ()
    before = [np.array(leaf.value) for leaf in flatten(first[0])] if first else []
    seen: list[Any] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        given = [kwargs[name] for name in call.names] if call.keywords else args[len(first) :]
        seen.extend(leaf.value for one in given for leaf in flatten(one))
        return function(*args, **kwargs)

    problem.counts.backwards += what != "f"
    problem.counts.forwards += what == "f"
    try:
        result = call.run(spy, call.leaves, *first)
    except INTERRUPTS:
        raise
    except Exception:  # it ran before: it depends on something else; the comparison of two calls says so
        return []
    if len(seen) != len(call.leaves):
        return []
    names = [
        leaf.name for leaf, a, b in zip(call.original, call.leaves, seen, strict=True)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.shape != b.shape or a.tobytes() != b.tobytes())
    ]
    faults = []
    if names:
        size = _again(call, function, first, seen, result)
        detail = f"{what} writes into it; called again on what it left, its result differs by {size:.2g} of the largest entry"
        columns: dict[str, Any] = {"kind": "write", "size": size, "limit": EXACT, "harmless": size <= EXACT, "detail": detail}
        faults = [Fault(what=f"input {n}", block=n, **columns) for n in names]
    after = [np.array(leaf.value) for leaf in flatten(first[0])] if first else []
    if any(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True)):
        detail = "other branches of the caller still read it"
        faults.append(Fault(kind="write", what="the cotangent of vjp", size=1.0, limit=0.0, detail=detail))
    return faults


def _again(call: Any, function: Callable[..., Any], first: tuple[Any, ...], leaves: Sequence[Any], result: Any) -> float:
    try:
        second = call.run(function, leaves, *first)
    except INTERRUPTS:
        raise
    except Exception:  # it cannot be called on what it left
        return float("inf")
    a, b = [[np.asarray(leaf.value) for leaf in flatten(r) if differentiable(leaf.value)] for r in (second, result)]
    return _apart(list(a), list(b), [""] * len(b))[0] if len(a) == len(b) else float("inf")


def _apart(found: Sequence[Any], base: Sequence[Any], names: Sequence[str], factor: float = 1.0) -> tuple[float, str]:
    """The largest difference from ``factor * base`` relative to the largest entry, and the name of that block."""
    largest = max((float(np.max(np.abs(g[np.isfinite(g)]), initial=0.0)) for g in base if g is not None), default=0.0)
    worst, where = 0.0, ""
    for name, a, b in zip(names, found, base, strict=True):
        if a is None or b is None or not b.size:
            continue
        size = float(np.max(np.abs(b), initial=0.0))
        if a.shape != b.shape:
            return float("inf"), name
        if not np.isfinite(size) or size > 1e100 or (size < 1e-30 and float(np.max(np.abs(a))) < 1e-30):
            continue
        with np.errstate(all="ignore"):
            apart = float(np.max(np.abs(a / factor - b))) / max(size, 1e-12 * largest, 1e-30)
        if not apart <= worst:
            worst, where = (apart if np.isfinite(apart) else float("inf")), name
    return worst, where


def structured(problem: NumpyProblem, cotangent: Sequence[NDArray[Any]]) -> Any:
    """Arrays nested as the output is; what they share memory with stays theirs."""
    leaves = iter(cotangent)
    parts = [_like(leaf.value, next(leaves)) if differentiable(leaf.value) else None for leaf in flatten(problem.phi.output)]
    return rebuild(problem.phi.output, parts)


def _like(value: Any, v: NDArray[Any]) -> Any:
    return v if isinstance(value, np.ndarray) else v[()]
