"""From what the user has (a module or a function, with inputs) to a :class:`TorchProblem` within a session."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradguard.adapters.torch_binding import Bound, bind
from gradguard.adapters.torch_candidates import (
    Candidate,
    Setup,
    choose_blocks,
    drawn_dtype,
    lowers,
    name_of,
    parameters_of,
    prepare,
)
from gradguard.adapters.torch_frames import user_error
from gradguard.adapters.torch_leaves import dtype_name
from gradguard.adapters.torch_modules import TorchModuleProblem
from gradguard.adapters.torch_precision import native_gradients
from gradguard.adapters.torch_session import Session
from gradguard.blocks import Block
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["adapt_torch", "reference_gradients"]


@contextmanager
def adapt_torch(
    f: Callable[..., Any],
    inputs: Any,
    *,
    loss: Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: Any = None,
    precision: str = "auto",
    seed: int = 0,
    modules: Sequence[tuple[str, torch.nn.Module]] | None = None,
    scalar: bool = False,
    where: str = "",
    constant_inputs: bool = False,
) -> Iterator[TorchModuleProblem]:
    """The problem of a module or a function on tensors at its inputs, for the length of a ``with``.

    ``modules`` names those whose parameters the function uses; without it they are looked for in its closure.
    ``scalar``: the result must be one number. ``constant_inputs``: inputs are blocks only where they require a
    gradient. On exit everything of the user's is as it was.

    Raises:
        UsageError: what the user gave cannot be checked; says what, where, and what to do.
    """
    setup = prepare(f, inputs, loss=loss, kwargs=kwargs, wrt=wrt, seed=seed, modules=modules, where=where)
    setup.constant_inputs = constant_inputs
    scalar = scalar or loss is not None
    with torch.inference_mode(False), torch.enable_grad():
        reason = ""
        if precision != "native":
            opened = _open(setup, lift=True, scalar=scalar)
            try:
                problem = next(opened)
            except UsageError as error:
                opened.close()
                if precision == "float64" or not lowers(setup):
                    raise
                reason = f"float64 is refused: {error.what.splitlines()[0]}"
            else:
                try:
                    yield problem
                finally:
                    opened.close()
                return
        opened = _open(setup, lift=False, scalar=scalar, reason=reason)
        try:
            yield next(opened)
        finally:
            opened.close()


def reference_gradients(
    reference: Callable[..., Any], f: Any, inputs: Any, *, loss: Any, kwargs: Any, wrt: Any, seed: int
) -> dict[str, torch.Tensor]:
    """The gradients of a plain implementation at the same inputs and parameters, in their own precision, by block name.

    Raises:
        UsageError: a reference module has other parameters, or does not run.
    """
    if isinstance(reference, torch.nn.Module) and isinstance(f, torch.nn.Module):
        reference = copy.deepcopy(reference)
        try:
            reference.load_state_dict(f.state_dict())
        except RuntimeError as error:
            raise UsageError(
                f"the reference has other parameters than the model: {error}", todo="give a module with the same parameters"
            ) from None
        for own, theirs in zip(reference.parameters(), f.parameters(), strict=True):
            own.data = own.data.to(theirs.dtype).copy_(theirs.data)
        reference.train(f.training)
    with adapt_torch(reference, inputs, loss=loss, kwargs=kwargs, wrt=wrt, precision="native", seed=seed) as problem:
        return native_gradients(problem)


def _open(setup: Setup, *, lift: bool, scalar: bool, reason: str = "") -> Generator[TorchModuleProblem]:
    """A generator: yields the problem once, restores on close."""
    for _ in range(6):
        candidates = choose_blocks(setup)
        outside = [c.tensor for c in setup.extra]
        if any(t.is_inference() for t in [*outside, *(c.tensor for c in candidates)]):
            raise UsageError(
                "a tensor was made under torch.inference_mode() and cannot carry a gradient",
                where=setup.where,
                todo="build the model and its inputs outside of inference_mode",
            )
        if any(t.is_meta for t in [*outside, *(c.tensor for c in candidates)]):
            raise UsageError(
                "a tensor is on the meta device: it has a shape and no values",
                where=setup.where,
                todo="build the model on a device, or call to_empty() and initialise its parameters",
            )
        modules, drawn = [m for _, m in setup.modules], drawn_dtype(setup)
        session = Session(modules, outside, lift=lift, seed=setup.seed, generators=setup.generators, drawn=drawn)
        with session:
            bound = bind(setup, candidates, session, clone=False)
            problem = _problem(setup, candidates, session, bound, scalar=scalar, reason=reason)
            try:
                leaves, missing = _first_pass(setup, problem, bound)
            except _NeedsCloneError:
                bound = bind(setup, candidates, session, clone=True)
                problem = _problem(setup, candidates, session, bound, scalar=scalar, reason=reason)
                leaves, missing = _first_pass(setup, problem, bound)
            if len(missing) <= setup.made:
                if missing:
                    made = "made in every call, so part of the function and no blocks"
                    problem.notes = (*problem.notes, f"{len(missing)} tensors that require a gradient are {made}")
                del leaves, missing
                yield problem
                return
        _sort(setup, missing, leaves)
    raise UsageError(
        "the function uses other parameters in every call", where=setup.where, todo="keep its parameters between calls"
    )


def _sort(setup: Setup, missing: list[Candidate], leaves: Sequence[torch.Tensor]) -> None:
    """Leaves that are not blocks yet become blocks; those of an earlier call that are not met again were made by it."""
    met = {id(t) for t in leaves}
    gone = [c for c in setup.extra if id(c.tensor) not in met]
    if not gone:
        setup.extra += missing
        return
    if any(isinstance(c.tensor, torch.nn.Parameter) for c in gone):
        raise UsageError(
            "the function makes new parameters in every call",
            where=setup.where,
            todo="make them once, outside of the call: nn.Parameter(...) in forward also cuts the gradient of what it copies",
        )
    setup.made = len(gone)
    setup.extra = [c for c in setup.extra if id(c.tensor) in met]


class _NeedsCloneError(Exception):
    """The function writes into an input that requires a gradient."""


def _problem(
    setup: Setup, candidates: list[Candidate], session: Session, bound: Bound, *, scalar: bool, reason: str
) -> TorchModuleProblem:
    blocks, leaves, originals = [], [], []
    for c in candidates:
        leaf = bound.leaves.get(id(c.tensor), c.tensor)
        native = session.native.get(id(c.tensor), c.tensor.dtype)
        blocks.append(
            Block(
                name=c.name,
                shape=tuple(leaf.shape),
                dtype=dtype_name(native),
                kind=c.kind,
                module=c.module,
                owner=c.owner,
                excluded=c.excluded,
            )
        )
        leaves.append(leaf)
        originals.append(session.original.get(id(leaf), c.tensor.detach()))
    lowest = next((b.dtype for b in blocks if b.dtype not in ("float64", "complex128")), "")
    path = f"lifted from {lowest}" if session.lift and lowest else f"native {lowest}" if lowest else "float64"
    notes = [reason] if reason else []
    problem = TorchModuleProblem(
        bound.call,
        blocks,
        leaves,
        session,
        originals=originals,
        seed=setup.seed,
        path=path,
        where=setup.where,
        notes=notes,
        scalar=scalar,
        modules=setup.modules,
    )
    problem.exchange, problem.handed, problem.natives = bound.exchange, bound.handed, bound.natives
    return problem


def _first_pass(
    setup: Setup, problem: TorchModuleProblem, bound: Bound
) -> tuple[list[torch.Tensor], list[Candidate]]:
    """Run forward and backward once; returns the leaves in the graph, and those of them that are not blocks yet."""
    try:
        leaves = problem.first_pass()
    except (UsageError, *INTERRUPTS):
        raise
    except Exception as error:
        if "a leaf Variable that requires grad" in str(error):
            raise _NeedsCloneError from None
        raise user_error(error, setup.where) from error
    known = {id(t) for t in problem.leaves} | {id(t) for t in bound.leaves.values()}
    excluded = set() if setup.wrt is None else {id(c.tensor) for c in [*parameters_of(setup), *setup.extra]}
    missing = [t for t in leaves if id(t) not in known and id(t) not in excluded]
    return leaves, [Candidate(name_of(t, setup, i), t, "captured") for i, t in enumerate(missing)]
