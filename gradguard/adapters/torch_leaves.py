"""Which tensors a torch function depends on, and what the user calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from gradguard.adapters.nesting import flatten
from gradguard.adapters.torch_session import is_generator

__all__ = ["Captured", "capture", "differentiable", "dtype_name", "graph_leaves", "own_copy", "parameter_places"]


@dataclass(frozen=True)
class Captured:
    """Modules and tensors that a function reaches through its closure, defaults, globals or bound object."""

    modules: tuple[tuple[str, torch.nn.Module], ...] = ()
    tensors: tuple[tuple[str, torch.Tensor], ...] = ()
    generators: tuple[Any, ...] = ()


def differentiable(tensor: torch.Tensor) -> bool:
    """Whether a tensor's dtype can carry a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def own_copy(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A detached copy with the same strides (dense where entries share memory), so that kernels see the same layout."""
    source = tensor.detach()
    if source.layout != torch.strided:
        return source.clone().to(dtype)
    source = source.resolve_conj().resolve_neg()
    shared = any(stride == 0 and extent > 1 for stride, extent in zip(source.stride(), source.shape, strict=True))
    if shared or source.is_contiguous():
        return source.to(dtype, copy=True).contiguous()
    copy = torch.empty_strided(source.shape, source.stride(), dtype=dtype, device=source.device)
    return copy.copy_(source)


def graph_leaves(outputs: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], dict[int, set[int]]]:
    """The leaves that require a gradient in the graph behind some tensors, in the order in which they are met.

    And, by the id of a leaf, the rows that an embedding leaves without a gradient by design: its padding index.
    """
    found: dict[int, torch.Tensor] = {}
    frozen: dict[int, set[int]] = {}
    todo: list[Any] = []
    for output in outputs:
        if output.grad_fn is not None:
            todo.append(output.grad_fn)
        elif output.requires_grad:
            found.setdefault(id(output), output)
    seen: set[Any] = set(todo)
    while todo:
        node = todo.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor):
            found.setdefault(id(variable), variable)
        padding = getattr(node, "_saved_padding_idx", None)
        if padding is not None and 0 <= int(padding) < 1 << 62:
            for following, _ in node.next_functions:
                weight = getattr(following, "variable", None)
                if isinstance(weight, torch.Tensor):
                    frozen.setdefault(id(weight), set()).add(int(padding))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return list(found.values()), frozen


@dataclass(frozen=True)
class Owned:
    """A parameter with its name, the path of the module that owns it, that module's class, and why it is not compared."""

    tensor: torch.Tensor
    name: str
    path: str
    owner: str
    excluded: str = ""


def parameter_places(root: torch.nn.Module) -> dict[int, Owned]:
    """The parameters of a module and those inside it by id, tied ones once."""
    places: dict[int, Owned] = {}
    for path, module in root.named_modules():
        excluded = ""
        if getattr(module, "scale_grad_by_freq", False):
            excluded = "scale_grad_by_freq: its gradient is declared not to be the derivative"
        elif getattr(module, "max_norm", None) is not None and isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
            excluded = "max_norm: the forward pass rewrites it"
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{path}.{name}" if path else name
                places.setdefault(id(parameter), Owned(parameter, full, path, type(module).__name__, excluded))
    return places


def capture(function: Callable[..., Any]) -> Captured:
    """What a function reaches besides its arguments; looks a few levels deep, runs nothing."""
    modules: dict[int, tuple[str, torch.nn.Module]] = {}
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    generators: dict[int, Any] = {}
    seen: set[int] = set()

    def visit(name: str, value: Any, depth: int) -> None:
        if id(value) in seen or depth > 5:
            return
        seen.add(id(value))
        if isinstance(value, torch.nn.Module):
            modules.setdefault(id(value), (name, value))
        elif isinstance(value, torch.Tensor):
            tensors.setdefault(id(value), (name, value))
        elif is_generator(value):
            generators.setdefault(id(value), value)
        else:
            for label, inner in _reachable(value):
                visit(label or name, inner, depth + 1)

    for label, inner in _reachable(function):
        visit(label, inner, 0)
    inside = {id(child) for _, module in modules.values() for child in module.modules() if child is not module}
    roots = tuple(entry for key, entry in modules.items() if key not in inside)
    return Captured(modules=roots, tensors=tuple(tensors.values()), generators=tuple(generators.values()))


def _reachable(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"args[{i}]", v) for i, v in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, MethodType):
        yield "self", value.__self__
        yield "", value.__func__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
        yield from ((name, v) for name, v in zip(_default_names(value), value.__defaults__ or (), strict=False))
        yield from (value.__kwdefaults__ or {}).items()
        for name in _global_names(value.__code__):
            if name in value.__globals__:
                found = value.__globals__[name]
                if not isinstance(found, type) and type(found).__name__ != "module":
                    yield name, found
        if hasattr(value, "__wrapped__"):
            yield "", value.__wrapped__
    elif isinstance(value, Mapping | list | tuple):
        if len(value) <= 1000:
            yield from ((leaf.name, leaf.value) for leaf in flatten(value))
    elif hasattr(value, "__dict__") and not isinstance(value, type) and type(value).__module__.partition(".")[0] not in _PLAIN:
        yield from vars(value).items()
        call = type(value).__dict__.get("__call__")
        if isinstance(call, FunctionType):
            yield "", call


_PLAIN = {"torch", "numpy", "pandas", "builtins", "logging", "threading", "pytest", "_pytest", "gradguard"}


def _default_names(function: FunctionType) -> tuple[str, ...]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return names[len(names) - len(function.__defaults__ or ()) :]


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
