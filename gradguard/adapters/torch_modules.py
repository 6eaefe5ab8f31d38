"""Each module of a model alone, on the input that it had in the whole, with a fresh cotangent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.backward_base import BackwardFacts, Fault
from gradguard.adapters.base import Cut, Node
from gradguard.adapters.nesting import flatten, rebuild
from gradguard.adapters.precision_base import PrecisionFacts
from gradguard.adapters.torch_backwards import Handed, backward_facts
from gradguard.adapters.torch_comparisons import TorchComparable
from gradguard.adapters.torch_detach import CutMode, Moment, as_cuts, changed, holding
from gradguard.adapters.torch_entrywise import Batching, entry_differences
from gradguard.adapters.torch_forward_mode import forward_mode_faults
from gradguard.adapters.torch_layouts import layout_faults
from gradguard.adapters.torch_leaves import differentiable, dtype_name, parameter_places
from gradguard.adapters.torch_nodes import NodeCall, record_nodes
from gradguard.adapters.torch_precision import precision_facts
from gradguard.adapters.torch_problem import TorchProblem
from gradguard.adapters.torch_second_order import second_order
from gradguard.blocks import Block, Tangent
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["Called", "TorchModuleProblem"]


@dataclass
class Called:
    """One call of a module: its arguments as they were, detached."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class TorchModuleProblem(TorchComparable):
    """A problem that knows the modules it is made of, and where values leave its graph."""

    def __init__(self, *args: Any, modules: Sequence[tuple[str, torch.nn.Module]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.roots = list(modules)
        self._batching: Batching | None = None
        self._leaf_modules = 0
        self._nodes: list[NodeCall] = []
        self.handed: list[Handed] = []
        self.natives: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._recorded: dict[str, Called] = {}
        self.children: dict[str, torch.nn.Module] = {}
        for label, root in self.roots:
            prefix = label if label and len(self.roots) > 1 else ""
            for path, module in root.named_modules():
                self.children.setdefault(".".join(p for p in (prefix, path) if p), module)

    def at(self, nudge: Tangent | None, size: float) -> Self:
        """The same problem at x + size * u; what was recorded at this point is not taken along."""
        other = super().at(nudge, size)
        other._batching, other._recorded, other._nodes = None, {}, []
        return other

    # -- Modular --------------------------------------------------------------------------------------------------

    def calls(self) -> dict[str, str | None]:
        """The modules that one pass calls, in order of their first call, each with the module that called it."""
        paths = {id(module): path for path, module in self.children.items()}
        stack: list[str] = []
        found: dict[str, str | None] = {}

        def enter(module: torch.nn.Module, args: Any) -> None:
            path = paths.get(id(module))
            if path is not None:
                found.setdefault(path, stack[-1] if stack else None)
                stack.append(path)

        def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
            if id(module) in paths and stack:
                stack.pop()

        with self._hooked(self.children, enter, leave):
            self.session.call(self.call, self.habits, grad=True)
        self.counts.forwards += self.share
        return found

    @contextmanager
    def _hooked(
        self, paths: Iterable[str], enter: Callable[..., None], leave: Callable[..., None] | None = None
    ) -> Iterator[None]:
        """The point, with forward hooks on some modules; none of them is left behind."""
        hooks = []
        self._place(None, 0.0)
        try:
            for path in paths:
                module = self.children[path]
                hooks.append(self.session.own(module.register_forward_pre_hook(enter)))
                if leave is not None:
                    hooks.append(self.session.own(module.register_forward_hook(leave, always_call=True)))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.session.reset(self.habits)

    def module_class(self, path: str) -> str:
        """The name of a module's class."""
        module = self.children.get(path)
        return type(module).__name__ if module is not None else ""

    # -- Nodal ----------------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[Node, ...]:
        """The custom autograd functions that one pass calls."""
        self._nodes = record_nodes(self)
        return tuple(node.facts for node in self._nodes)

    def node_problem(self, index: int, batch: int | None = None) -> TorchModuleProblem | None:
        """One of them alone, on its recorded arguments, or on as many samples of them as ``batch`` says."""
        node = self._nodes[index]
        args: tuple[Any, ...] | None = node.args
        if batch is not None:
            made = iter(node.facts.origins)
            kept = [isinstance(a, torch.Tensor) and a.requires_grad and bool(next(made, "")) for a in node.args]
            args = resized(node.args, batch, [a for a, k in zip(node.args, kept, strict=True) if k])
        if args is None:
            return None
        blocks, leaves = [], []
        for position, argument in enumerate(args):
            if isinstance(argument, torch.Tensor) and argument.requires_grad:
                label = f"{node.facts.name} argument {position}"
                blocks.append(Block(name=label, shape=tuple(argument.shape), dtype=dtype_name(argument.dtype), kind="input"))
                leaves.append(argument)

        def call() -> Any:
            return node.function.apply(
                *[a.view_as(a) if isinstance(a, torch.Tensor) and a.requires_grad else a for a in args]
            )

        alone = TorchModuleProblem(
            call,
            blocks,
            leaves,
            self.session,
            originals=[leaf.detach().clone() for leaf in leaves],
            seed=self.seed + 2,
            path=self.path,
            where=f"custom function {node.facts.name} alone",
            counts=self.counts,
            share=self._share_of_node(index),
            habits=self.habits,
        )
        alone.integers = _integers(node.args)
        try:
            alone.first_pass()
        except INTERRUPTS:
            raise
        except Exception:  # a function that only works within the whole: no verdict of its own
            return None
        return alone

    def record(self, paths: Sequence[str]) -> dict[str, Called]:
        """The first call of each of some modules in one forward pass at the point."""
        found: dict[str, Called] = {}
        hooks = []

        def remember(path: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if path not in found:
                    found[path] = Called(_own(args), _own(kwargs))

            return hook

        self._place(None, 0.0)
        try:
            for path in paths:
                module = self.children.get(path)
                if module is not None:
                    hooks.append(self.session.own(module.register_forward_pre_hook(remember(path), with_kwargs=True)))
            self.session.call(self.call, self.habits, grad=True)
            self.counts.forwards += self.share
        finally:
            for hook in hooks:
                hook.remove()
            self.session.reset(self.habits)
        return found

    def expect(self, paths: Sequence[str]) -> None:
        """Record several modules in one pass, ahead of :meth:`module_problem`; an adapter may do nothing."""
        self._recorded = self.record(paths)

    def module_problem(self, path: str, batch: int | None = None) -> TorchModuleProblem | None:
        """The module alone, on its recorded input: its parameters and differentiable inputs are the blocks.

        ``batch``: on that many samples of its input instead.
        """
        module = self.children.get(path)
        if module is None:
            return None
        called = self._recorded.pop(path, None) or self.record([path]).get(path)
        given = None if called is None else (called.args, called.kwargs)
        if given is not None and batch is not None:
            given = resized(given, batch, [])
        if given is None:
            return None
        args, kwargs = given
        blocks: list[Block] = []
        leaves: list[torch.Tensor] = []
        originals: list[torch.Tensor] = []
        by_leaf = {id(leaf): k for k, leaf in enumerate(self.leaves)}
        for key in parameter_places(module):
            k = by_leaf.get(key)
            if k is None:
                continue
            blocks.append(self.blocks[k])
            leaves.append(self.leaves[k])
            originals.append(self.originals[k])
        inputs: dict[int, torch.Tensor] = {}
        for position, (_, value) in enumerate(flatten((args, kwargs), "")):
            if isinstance(value, torch.Tensor) and differentiable(value) and value.requires_grad and id(value) not in inputs:
                inputs[id(value)] = value
                label = f"{path or 'the model'} input[{position}]"
                blocks.append(
                    Block(name=label, shape=tuple(value.shape), dtype=dtype_name(value.dtype), kind="input", module=path)
                )
                leaves.append(value)
                originals.append(value.detach().clone())
        if not blocks:
            return None

        def call() -> Any:
            return module(*_fresh(args), **_fresh(kwargs))

        alone = TorchModuleProblem(
            call,
            blocks,
            leaves,
            self.session,
            originals=originals,
            seed=self.seed + 1,
            path=self.path,
            where=f"module {path or 'root'} ({type(module).__name__}) alone",
            counts=self.counts,
            share=self._share_of(module),
            modules=[(path, module)],
            habits=self.habits,
        )
        alone.integers = _integers((args, kwargs))
        alone.children = {p: m for p, m in self.children.items() if p == path or p.startswith(f"{path}." if path else "")}
        try:
            alone.first_pass()
        except UsageError:
            return None
        except INTERRUPTS:
            raise
        except Exception:  # a module that only works within the whole: no verdict of its own
            return None
        return alone

    def _share_of_node(self, index: int) -> float:
        """A custom function costs its module's share, split among the functions that the module calls."""
        path = self._nodes[index].facts.module
        beside = sum(1 for node in self._nodes if node.facts.module == path)
        return (self._share_of(self.children[path]) if path in self.children else self.share) / max(beside, 1)

    def _share_of(self, module: torch.nn.Module) -> float:
        """What a pass of the module costs of a pass of the whole, by its share of the modules without children."""
        if not self._leaf_modules:
            self._leaf_modules = sum(1 for _, root in self.roots for m in root.modules() if not m._modules)
        own = sum(1 for m in module.modules() if not m._modules)
        return self.share * min(1.0, own / max(self._leaf_modules, 1))

    # -- Entrywise ------------------------------------------------------------------------------------------------

    def differences(self, block: int, indices: Sequence[int], step: float, budget: int) -> tuple[NDArray[np.float64], str, str]:
        """phi(+step e_k) and phi(-step e_k), minus phi(0), shape (n, 2); the path that ran, and why not the other."""
        self._ensure()
        if self._batching is None or self._batching.block != block:
            self._batching = Batching(self, block, budget)
        return entry_differences(self, self._batching, indices, step)

    # -- Backwards ------------------------------------------------------------------------------------------------

    def backward_facts(self, *, writes_only: bool = False) -> BackwardFacts:
        """Experiments on the backward of one pass: linear, blind to layout, and does it write where it must not?"""
        return backward_facts(self, writes_only=writes_only)

    def layout_faults(self) -> tuple[tuple[Fault, ...], str]:
        """What changes when every input comes in another memory order; and what could not be tried."""
        return layout_faults(self)

    def second_order(self) -> TorchProblem | str:
        """The gradient as a function of its own; or why there is none."""
        return second_order(self)

    def forward_mode_faults(self) -> tuple[tuple[Fault, ...], int, str]:
        """The custom functions whose jvp and backward disagree, how many have both, and why others were not compared."""
        return forward_mode_faults(self)

    def precision_facts(self, reference: Any = None) -> PrecisionFacts | str:
        """The native gradient beside the lifted one; or why there is none."""
        return precision_facts(self, reference)

    # -- Cuttable -------------------------------------------------------------------------------------------------

    def _pass_with(self, mode: CutMode) -> list[Moment]:
        self.session.reset(self.habits)
        with self.habits.mode(), torch.enable_grad(), mode:
            self.call()
        self.counts.forwards += self.share
        return mode.moments

    def cuts(self) -> tuple[Cut, ...]:
        """The places where a value that depends on the blocks leaves the graph."""
        self._ensure()
        self._place(None, 0.0)
        self._moments = self._pass_with(CutMode())
        if not self._moments:
            return ()
        scales = {i: max(rms, 0.1) for i, rms in enumerate(self._rms)}
        self._place(Tangent(seed=self.seed + 5, scales=scales), 0.5)
        moved = self._pass_with(CutMode())
        self._place(None, 0.0)
        self.session.reset(self.habits)
        return as_cuts(changed(self._moments, moved))

    @contextmanager
    def held(self) -> Iterator[TorchModuleProblem]:
        """The same problem with every detached value held fixed at what it is at the point."""
        moments = self._moments
        original = self.call

        def call() -> Any:
            with holding(moments):
                return original()

        other = TorchModuleProblem(
            call,
            self.blocks,
            self.leaves,
            self.session,
            originals=self.originals,
            seed=self.seed,
            path=self.path,
            where=self.where,
            counts=self.counts,
            share=self.share,
            scalar=self.scalar,
        )
        other._offset = self._offset
        yield other


def resized(tree: Any, batch: int, kept: Sequence[torch.Tensor]) -> Any | None:
    """A container whose tensors along the batch have that many samples; None where that is how many they have.

    The batch is the first extent of the first tensor that requires a gradient and is not in ``kept`` (weights).
    """
    values = [value for _, value in flatten(tree, "")]
    inputs = [v for v in values if isinstance(v, torch.Tensor) and v.dim() and not any(v is k for k in kept)]
    size = next((v.shape[0] for v in inputs if v.requires_grad), 0)
    if size in (0, batch):
        return None

    def of_size(value: Any) -> Any:
        if not any(value is v for v in inputs) or value.shape[0] != size:
            return value
        rows = torch.arange(batch, device=value.device) % size
        return value.detach()[rows].requires_grad_(value.requires_grad)

    return rebuild(tree, [of_size(v) for v in values])


def _integers(tree: Any) -> list[torch.Tensor]:
    """The integer tensors in a container."""
    values = [value for _, value in flatten(tree, "")]
    return [v for v in values if isinstance(v, torch.Tensor) and v.dtype in (torch.int32, torch.int64)]


def _own(tree: Any) -> Any:
    """A container with detached copies of its tensors; those that can carry a gradient require one."""
    leaves = []
    for _, value in flatten(tree, ""):
        if isinstance(value, torch.Tensor):
            copy = value.detach().clone()
            leaves.append(copy.requires_grad_(True) if differentiable(value) and value.requires_grad else copy)
        else:
            leaves.append(value)
    return rebuild(tree, leaves)


def _fresh(tree: Any) -> Any:
    """The container with tensors that the module may write into: copies that keep the graph."""
    return rebuild(tree, [v.clone() if isinstance(v, torch.Tensor) else v for _, v in flatten(tree, "")])
