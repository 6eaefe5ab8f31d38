"""From what the user has (a module or a function, with inputs) to a :class:`TorchProblem` within a session."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gradguard.adapters.nesting import argument_names, flatten, rebuild
from gradguard.adapters.torch_backwards import Handed
from gradguard.adapters.torch_frames import is_users
from gradguard.adapters.torch_leaves import (
    capture,
    differentiable,
    dtype_name,
    own_copy,
    parameter_places,
)
from gradguard.adapters.torch_lift import LIFT, lifted_dtype
from gradguard.adapters.torch_modules import TorchModuleProblem
from gradguard.adapters.torch_precision import native_gradients
from gradguard.adapters.torch_session import Session
from gradguard.blocks import Block, select_blocks
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["adapt_torch"]


@dataclass
class Candidate:
    """A tensor that could be a block."""

    name: str
    tensor: torch.Tensor
    kind: str
    module: str | None = None
    owner: str = ""
    excluded: str = ""


@dataclass
class Setup:
    """What is known before anything runs."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Callable[[Any], Any] | None
    modules: list[tuple[str, torch.nn.Module]]
    inputs: list[Candidate]
    extra: list[Candidate] = field(default_factory=list)
    where: str = ""
    wrt: Any = None
    seed: int = 0
    constant_inputs: bool = False
    generators: tuple[Any, ...] = ()
    made: int = 0
    """How many leaves each call makes itself (``x.clone().requires_grad_()``): part of the function, and no blocks."""


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
    setup = _setup(f, inputs, loss=loss, kwargs=kwargs, wrt=wrt, seed=seed, modules=modules, where=where)
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
                if precision == "float64" or not _lowers(setup):
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


def _setup(
    f: Callable[..., Any], inputs: Any, *, loss: Any, kwargs: Any, wrt: Any, seed: int, modules: Any, where: str
) -> Setup:
    is_module = isinstance(f, torch.nn.Module)
    if not callable(f):
        raise UsageError(
            f"check_gradients takes a module or a function, got {type(f).__name__}",
            todo="pass the function itself, not its result",
        )
    function = f.forward if isinstance(f, torch.nn.Module) else f
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(inputs, Mapping) and all(isinstance(k, str) for k in inputs):
        named = dict(inputs)
        parts = list(named.items())
    else:
        args = inputs if type(inputs) is tuple else (inputs,)
        parts = list(zip(argument_names(function, len(args)), args, strict=True))
    constants = dict(kwargs or {})
    clash = sorted(set(constants) & {name for name, _ in parts})
    if clash:
        raise UsageError(f"{', '.join(clash)} given both in inputs and in kwargs", todo="give each argument once")
    captured = capture(f)
    if modules is None:
        modules = [("", f)] if is_module else list(captured.modules)
    found = [
        Candidate(leaf.name, leaf.value, "input")
        for name, part in parts
        for leaf in flatten(part, name)
        if isinstance(leaf.value, torch.Tensor)
    ]
    name = type(f).__name__ if is_module else getattr(f, "__qualname__", type(f).__name__)
    return Setup(
        function=f,
        args=args,
        kwargs={**named, **constants},
        loss=loss,
        modules=list(modules),
        inputs=found,
        where=where or f"calling {name}",
        wrt=wrt,
        seed=seed,
        generators=captured.generators,
    )


def _lowers(setup: Setup) -> bool:
    """Whether anything of the user's is below float64, so that a native run could differ from a lifted one."""
    tensors = [c.tensor for c in setup.inputs]
    for _, module in setup.modules:
        tensors += [*module.parameters(), *module.buffers()]
    floating = [t for t in tensors if differentiable(t)]
    return not floating or any(t.dtype in LIFT for t in floating)


def _drawn(setup: Setup) -> torch.dtype | None:
    """The precision that the user's own model draws random numbers in: that of most of what it is given."""
    tensors = [c.tensor for c in setup.inputs]
    for _, module in setup.modules:
        tensors += [*module.parameters(), *module.buffers()]
    dtypes = Counter(t.dtype for t in tensors if t.is_floating_point())
    most = max(dtypes, key=lambda dtype: dtypes[dtype], default=torch.get_default_dtype())
    return most if most in LIFT else None


def _parameters(setup: Setup) -> list[Candidate]:
    """Every parameter of the modules, tied ones once."""
    result: dict[int, Candidate] = {}
    for label, module in setup.modules:
        prefix = f"{label}." if label and len(setup.modules) > 1 else ""
        for key, own in parameter_places(module).items():
            found = Candidate(prefix + own.name, own.tensor, "parameter", prefix + own.path, own.owner, own.excluded)
            result.setdefault(key, found)
    return list(result.values())


def _choose(setup: Setup) -> list[Candidate]:
    """The blocks, as design.md's section 4 says."""
    module_given = isinstance(setup.function, torch.nn.Module)
    parameters = _parameters(setup)
    inputs = [c for c in setup.inputs if differentiable(c.tensor)]
    lazy = next((c for c in parameters if isinstance(c.tensor, torch.nn.parameter.UninitializedParameter)), None)
    if lazy is not None:
        raise UsageError(
            f"parameter {lazy.name} is not initialised yet (a lazy module)",
            where=setup.where,
            todo="run the model once on its inputs before the check",
        )
    known = {id(c.tensor) for c in parameters}
    extra = [c for c in setup.extra if id(c.tensor) not in known]
    everything = _distinct([*parameters, *extra, *(c for c in inputs if id(c.tensor) not in known)])
    if setup.wrt is not None:
        chosen = set(select_blocks([c.name for c in everything], setup.wrt))
        return [c for c in everything if c.name in chosen]
    wanted = [c for c in everything if c.kind == "input" and c.tensor.requires_grad]
    if not wanted and not module_given and not setup.constant_inputs:
        wanted = [c for c in everything if c.kind == "input"]
    return [c for c in everything if (c.kind != "input" and c.tensor.requires_grad) or any(c is w for w in wanted)]


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Each tensor once; an input whose name a parameter has is called ``input.name``."""
    result: list[Candidate] = []
    seen: set[int] = set()
    names: set[str] = set()
    for c in candidates:
        if id(c.tensor) in seen:
            continue
        seen.add(id(c.tensor))
        name = c.name if c.name not in names else f"input.{c.name}"
        names.add(name)
        result.append(replace(c, name=name))
    return result


def _open(setup: Setup, *, lift: bool, scalar: bool, reason: str = "") -> Generator[TorchModuleProblem]:
    """A generator: yields the problem once, restores on close."""
    for _ in range(6):
        candidates = _choose(setup)
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
        session = Session(
            [m for _, m in setup.modules], outside, lift=lift, seed=setup.seed, generators=setup.generators, drawn=_drawn(setup)
        )
        with session:
            bound = _bind(setup, candidates, session, clone=False)
            problem = _problem(setup, candidates, session, bound, scalar=scalar, reason=reason)
            try:
                leaves, missing = _first_pass(setup, problem, bound)
            except _NeedsCloneError:
                bound = _bind(setup, candidates, session, clone=True)
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


@dataclass
class Bound:
    """The call on our own copies of the inputs."""

    call: Callable[[], Any]
    leaves: dict[int, torch.Tensor]
    exchange: dict[int, torch.Tensor]
    handed: list[Handed]
    """The floating-point inputs as the last call got them."""
    natives: list[tuple[torch.Tensor, torch.Tensor]]
    """Our copy of each input, and the user's own tensor."""


def _bind(setup: Setup, candidates: list[Candidate], session: Session, *, clone: bool) -> Bound:
    chosen = {id(c.tensor) for c in candidates}
    copies: dict[int, torch.Tensor] = {}
    constants: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    exchange: dict[int, torch.Tensor] = {}
    handed: list[Handed] = []
    names = {id(c.tensor): c.name for c in setup.inputs}
    before: dict[int, torch.Tensor] = {}
    for c in setup.inputs:
        key = id(c.tensor)
        if key in copies:
            continue
        if key in session.native:  # an input that is a parameter, too
            copies[key] = c.tensor
            continue
        dtype = lifted_dtype(c.tensor.dtype) if session.lift else c.tensor.dtype
        copy = own_copy(c.tensor, dtype)
        if key in chosen:
            copy.requires_grad_(True)
        else:
            saved = copy.clone() if copy.layout == torch.strided else copy
            constants.append((copy, saved, copy._version))
            before[id(copy)] = saved
        copies[key] = copy
    for c in candidates:
        if id(c.tensor) not in copies and not c.tensor.requires_grad:
            c.tensor.requires_grad_(True)  # named in wrt; the session takes it back

    def mine(tree: Any) -> Any:
        leaves = [leaf.value for leaf in flatten(tree, "")]
        if not any(isinstance(v, torch.Tensor) for v in leaves):
            return tree
        return rebuild(tree, [_pass(v) if isinstance(v, torch.Tensor) else v for v in leaves])

    def _pass(tensor: torch.Tensor) -> torch.Tensor:
        own = copies.get(id(tensor), tensor)
        now = exchange.get(id(own), own)
        given = now.clone() if clone and now.requires_grad else now
        if now is own:
            handed.append(Handed(names.get(id(tensor), ""), given, own, before.get(id(own), own)))
        return given

    def call() -> Any:
        handed.clear()
        for i, (tensor, saved, version) in enumerate(constants):
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(saved)
                constants[i] = (tensor, saved, tensor._version)
        result = setup.function(*(mine(a) for a in setup.args), **{k: mine(v) for k, v in setup.kwargs.items()})
        return setup.loss(result) if setup.loss is not None else result

    natives = {id(c.tensor): (copies[id(c.tensor)], c.tensor) for c in setup.inputs if id(c.tensor) not in session.native}
    return Bound(call, copies, exchange, handed, list(natives.values()))


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
        raise _user_error(error, setup.where) from error
    known = {id(t) for t in problem.leaves} | {id(t) for t in bound.leaves.values()}
    excluded = set() if setup.wrt is None else {id(c.tensor) for c in _parameters(setup)} | {id(c.tensor) for c in setup.extra}
    missing = [t for t in leaves if id(t) not in known and id(t) not in excluded]
    return leaves, [Candidate(_name_of(t, setup, i), t, "captured") for i, t in enumerate(missing)]


def _name_of(tensor: torch.Tensor, setup: Setup, index: int) -> str:
    for name, captured in capture(setup.function).tensors:
        if captured is tensor:
            return name
    return f"captured[{len(setup.extra) + index}]"


def _user_error(error: Exception, where: str) -> UsageError:
    """The user's own exception as ours: its text, and the last line of theirs that raised it."""
    several = "; a tuple is passed as arguments, a dict as keywords, anything else as one argument"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
    line = f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else where
    return UsageError(
        f"the model raised {type(error).__name__}: {error}",
        where=f"{where}; {line}" if frames else where,
        todo="call the model on these inputs without gradguard; it must run there first"
        + (several if isinstance(error, TypeError) and not frames else ""),
    )
