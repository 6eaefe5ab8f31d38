"""Custom autograd functions at work: what each one's own backward returns, writes, and makes of other cotangents.

The experiments run inside the backward pass, on the function's own cotangent: they see exactly the function that is
wrong, before the engine reduces, casts or accumulates what it returned. A model without custom functions pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.torch_cotangents import (
    Experiment,
    difference,
    expanded,
    far,
    largest,
    linear_limit,
    noise_limit,
    scaled,
    transposed,
    uniform,
)
from gradguard.errors import INTERRUPTS

__all__ = ["FunctionWatch", "custom_nodes"]

MOST = 64
"""Calls of one function that are looked at."""


def custom_nodes(outputs: Iterable[torch.Tensor]) -> list[Any]:
    """The nodes of custom (Python) functions behind some tensors, in the order in which forward called them."""
    todo = list(dict.fromkeys(t.grad_fn for t in outputs if t.grad_fn is not None))
    seen: set[Any] = set(todo)
    found: list[Any] = []
    while todo:
        node = todo.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not _internal(node):
            found.append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return sorted(found, key=lambda node: int(node._sequence_nr()))


def _internal(node: Any) -> bool:
    """torch's own machinery (checkpoint, parallel wrappers, compiled graphs) is not under test, and must not run twice."""
    origin = str(type(node)._forward_cls.__module__)
    return origin == "torch" or origin.startswith("torch.")


def name_of(node: Any) -> str:
    """``Swish`` for the node ``SwishBackward``."""
    return str(type(node)._forward_cls.__name__)


@dataclass
class FunctionWatch:
    """Watches the custom functions of one graph during one backward pass; collects faults.

    ``blocks``: the id of a leaf -> its block's name. Each of ``faults`` comes with the index of its node. ``snapshots``: saved
    tensors are read, too, to see which of them is written into. That is only done once something is: a checkpoint
    recomputes them when they are read, and allows it once.
    """

    nodes: Sequence[Any]
    blocks: dict[int, str]
    lifted: bool
    experiments: bool = True
    snapshots: bool = False
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    raised: tuple[int, BaseException] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The nodes' ``apply`` goes through us; afterwards it is as it was."""
        counted: dict[str, int] = {}
        watched = []
        for index, node in enumerate(self.nodes):
            counted[name_of(node)] = counted.get(name_of(node), 0) + 1
            if counted[name_of(node)] <= MOST:
                node.apply = self._apply(index, node, node.apply)
                watched.append(node)
        try:
            yield
        finally:
            for node in watched:
                del node.apply

    def _apply(self, index: int, node: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply(*given: Any) -> Any:
            before = [copied(g) for g in given]
            saved = saved_tensors(node) if self.snapshots else ()
            kept = [copied(t) for t in saved]
            try:
                result = original(*given)
            except INTERRUPTS:
                raise
            except Exception as error:
                self.raised = (index, error)
                raise
            writes = self._written(index, node, given, before, saved, kept)
            shapes = self._returned(index, node, result)
            if self.experiments and not writes and not shapes:
                self._experiment(index, node, original, given, result)
            return result

        return apply

    def _add(self, index: int, node: Any, kind: str, what: str, **columns: Any) -> None:
        self.faults.append((index, Fault(kind=kind, what=what, function=name_of(node), **columns)))

    def _written(
        self, index: int, node: Any, given: Sequence[Any], before: Sequence[Any], saved: Sequence[Any], kept: Sequence[Any]
    ) -> bool:
        writes = False
        for label, now, then in [("grad_output", given, before), ("saved tensor", saved, kept)]:
            for position, (a, b) in enumerate(zip(now, then, strict=True)):
                if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and not same(a, b):
                    writes = True
                    detail = "its values after backward are not those before it"
                    self._add(index, node, "write", f"{label} {position}", detail=detail)
        return writes

    def _returned(self, index: int, node: Any, result: Any) -> bool:
        """Compare what backward returned with what the engine expects."""
        returned = as_tuple(result)
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        positions = [i for i, needed in enumerate(node.needs_input_grad) if needed]
        if len(edges) != len(positions) or len(returned) < len(node.needs_input_grad):
            return False
        found = False
        for position, (following, number) in zip(positions, edges, strict=True):
            gradient = returned[position]
            if not isinstance(gradient, torch.Tensor):
                continue
            wanted = metadata(following, number)
            if wanted is None:
                continue
            shape, dtype = wanted
            block = self.blocks.get(id(getattr(following, "variable", None)), "")
            if tuple(gradient.shape) != shape:
                found = True
                self._add(
                    index, node, "shape", f"argument {position}", block=block,
                    detail=f"backward returned shape {tuple(gradient.shape)} for an argument of shape {shape}",
                )
            elif not self.lifted and gradient.dtype != dtype:
                self._add(
                    index, node, "dtype", f"argument {position}", block=block,
                    detail=f"backward returned {gradient.dtype} for an argument of {dtype}; the engine casts it", harmless=True,
                )
        return found

    def _experiment(self, index: int, node: Any, original: Callable[..., Any], given: Sequence[Any], result: Any) -> None:
        if any(isinstance(g, torch.Tensor) and g.layout != torch.strided for g in given):
            return
        base = tensors_of(result)
        names = self._names(node)

        def run(cotangents: Sequence[Any]) -> list[torch.Tensor | None]:
            return tensors_of(original(*cotangents))

        try:
            again = run([copied(g) for g in given])
        except INTERRUPTS:
            raise
        except Exception as error:  # it frees what it saved: it can be run once only
            self.skipped["linearity"] = f"{name_of(node)}.backward cannot be run twice: {type(error).__name__}: {error}"
            return
        for fault in examine(given, base, again, run, names):
            self.faults.append((index, replace(fault, function=name_of(node))))

    def _names(self, node: Any) -> list[str]:
        """For each position that backward returns, the block that the argument is, or nothing."""
        edges = iter([edge for edge in node.next_functions if edge[0] is not None])
        names = []
        for needed in node.needs_input_grad:
            following = next(edges, (None, 0))[0] if needed else None
            names.append(self.blocks.get(id(getattr(following, "variable", None)), ""))
        return names


def examine(
    given: Sequence[Any],
    base: Sequence[torch.Tensor | None],
    again: Sequence[torch.Tensor | None],
    run: Callable[[Sequence[Any]], list[torch.Tensor | None]],
    names: Sequence[str],
) -> list[Fault]:
    """What is wrong with one backward as a function of its cotangents: linear, and blind to their layout."""
    worst = Experiment(names)
    size, where = worst.of(again, base)
    limit = linear_limit(base)
    if size > limit:
        return [
            Fault(kind="second", what="a second backward", block=where, size=size, limit=limit,
                  detail=f"run twice on the same cotangent, it differs by {size:.2g} of the largest entry")
        ]
    power = far(given)
    faults = []
    for what, factor in (("-g", -1.0), (f"2^{power} g", 2.0**power), (f"2^-{power} g", 2.0**-power)):
        size, where = worst.of(run(scaled(given, factor)), base, factor)
        if size > limit:
            faults.append(Fault(kind="linearity", what=what, block=where, size=size, limit=limit))
    zero = largest(run(scaled(given, 0.0)))
    if zero > 0:
        detail = f"backward of a cotangent of zeros returns {zero:.2g}"
        faults.append(Fault(kind="linearity", what="g = 0", size=zero, limit=0.0, detail=detail))
    if faults:
        return faults
    ones = uniform(given)
    from_ones = run(ones)
    tried: list[tuple[str, str, Sequence[Any], Sequence[torch.Tensor | None]]] = [
        ("layout", "expanded", expanded(given), from_ones),
        ("layout", "transposed", transposed(given), base),
        ("linearity", "g + h", added(given, ones), added(base, from_ones)),
    ]
    for kind, what, cotangents, expected in tried:
        if kind == "layout" and not differs(cotangents, given):
            continue
        try:
            found = run(cotangents)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            detail = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            faults.append(Fault(kind="refused", what=what, detail=detail, harmless=True))
            continue
        size, where = worst.of(found, expected)
        if size > limit:
            allowed = noise_limit(run, given, base, limit)
            if size > allowed:
                faults.append(Fault(kind=kind, what=what, block=where, size=size, limit=allowed))
    return faults


def added(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """a + b, tensor by tensor; what is no tensor stays."""
    return [x + y if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x for x, y in zip(a, b, strict=True)]


def differs(cotangents: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether one of them has other strides than it had: some have only one layout."""
    return any(isinstance(g, torch.Tensor) and g.stride() != h.stride() for g, h in zip(cotangents, given, strict=True))


def copied(value: Any) -> Any:
    """A copy of a tensor with its own memory and the same strides; anything else as it is."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in every entry; NaN equals NaN."""
    if a.layout != torch.strided:
        return True
    return bool(torch.equal(a, b)) or (a.shape == b.shape and difference(a, b) == 0.0)


def saved_tensors(node: Any) -> tuple[Any, ...]:
    """What the function saved; nothing where it cannot be read (hooks that recompute, freed buffers)."""
    try:
        saved = tuple(node.saved_tensors)
    except INTERRUPTS:
        raise
    except Exception:  # a hook of the user's, or already freed: nothing to compare
        return ()
    return saved


def as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def tensors_of(result: Any) -> list[torch.Tensor | None]:
    """What a backward returned, detached; None where it returned no tensor."""
    found: list[torch.Tensor | None] = []
    for value in as_tuple(result):
        if isinstance(value, torch.Tensor):
            found.append((value if value.layout == torch.strided else value.to_dense()).detach().clone())
        else:
            found.append(None)
    return found


def metadata(node: Any, number: int) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and dtype that a node expects in one of its positions."""
    variable = getattr(node, "variable", None)
    if isinstance(variable, torch.Tensor):
        return tuple(variable.shape), variable.dtype
    try:
        wanted = node._input_metadata[number]
        return tuple(int(n) for n in wanted.shape), wanted.dtype
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # nested shapes, older torch
        return None
