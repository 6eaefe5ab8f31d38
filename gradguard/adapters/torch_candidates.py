"""The function with its inputs before anything runs, and which of its tensors are blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gradguard.adapters.nesting import argument_names, flatten
from gradguard.adapters.torch_leaves import capture, differentiable, parameter_places
from gradguard.adapters.torch_lift import LIFT
from gradguard.blocks import select_blocks
from gradguard.errors import UsageError

__all__ = ["Candidate", "Setup", "choose_blocks", "drawn_dtype", "lowers", "name_of", "parameters_of", "prepare"]


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
    """What is known of a check before anything runs: the function with its inputs, and the tensors that could be blocks."""

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


def prepare(
    f: Callable[..., Any], inputs: Any, *, loss: Any, kwargs: Any, wrt: Any, seed: int, modules: Any, where: str
) -> Setup:
    """What the user gave, taken apart; nothing is called yet.

    Raises:
        UsageError: ``f`` is no function, or an argument is given twice.
    """
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


def choose_blocks(setup: Setup) -> list[Candidate]:
    """The blocks: what ``wrt`` names, or every parameter and input that requires a gradient.

    A function none of whose inputs requires one has them all as blocks; a module has them as constants.

    Raises:
        UsageError: ``wrt`` matches nothing, or a parameter of a lazy module has no values yet.
    """
    module_given = isinstance(setup.function, torch.nn.Module)
    parameters = parameters_of(setup)
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


def parameters_of(setup: Setup) -> list[Candidate]:
    """Every parameter of the modules, tied ones once."""
    result: dict[int, Candidate] = {}
    for label, module in setup.modules:
        prefix = f"{label}." if label and len(setup.modules) > 1 else ""
        for key, own in parameter_places(module).items():
            found = Candidate(prefix + own.name, own.tensor, "parameter", prefix + own.path, own.owner, own.excluded)
            result.setdefault(key, found)
    return list(result.values())


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


def name_of(tensor: torch.Tensor, setup: Setup, index: int) -> str:
    """The name of a tensor that was found in the graph: its variable's in a closure, or a number."""
    for name, captured in capture(setup.function).tensors:
        if captured is tensor:
            return name
    return f"captured[{len(setup.extra) + index}]"


def lowers(setup: Setup) -> bool:
    """Whether anything of the user's is below float64, so that a native run could differ from a lifted one."""
    tensors = [c.tensor for c in setup.inputs]
    for _, module in setup.modules:
        tensors += [*module.parameters(), *module.buffers()]
    floating = [t for t in tensors if differentiable(t)]
    return not floating or any(t.dtype in LIFT for t in floating)


def drawn_dtype(setup: Setup) -> torch.dtype | None:
    """The precision that the user's own model draws random numbers in: that of most of what it is given."""
    tensors = [c.tensor for c in setup.inputs]
    for _, module in setup.modules:
        tensors += [*module.parameters(), *module.buffers()]
    dtypes = Counter(t.dtype for t in tensors if t.is_floating_point())
    most = max(dtypes, key=lambda dtype: dtypes[dtype], default=torch.get_default_dtype())
    return most if most in LIFT else None
