"""Sees a pass from inside: modules by hooks, functional activations, attention and codebooks by a function mode.

Used in looks only, never on every step of a user's loop. What cannot be looked at is noted; the user's pass goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradguard.adapters.observing_base import AttentionFacts, CodeFacts, LayerUnits, ModuleFacts
from gradguard.adapters.torch_compiled import Hook, is_scripted, left_alone, unseen
from gradguard.adapters.torch_spy_attention import AttentionSums
from gradguard.adapters.torch_spy_choices import Choices
from gradguard.adapters.torch_spy_cuts import Cuts, tensors_in
from gradguard.adapters.torch_spy_units import CONTRACTIONS, ELEMENTWISE, Source, UnitSums

__all__ = ["Spy", "bad_rows", "first_tensor"]

BETWEEN = 64
"""Operations that may stand between an activation of the loop's own and the next part of the model."""
KEPT_CALLS = 512
"""Outputs kept for one layer that is called again and again."""


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first floating-point tensor of an output: itself, or in a tuple, list, dict or dataclass."""
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for one in value:
            found = first_tensor(one)
            if found is not None:
                return found
    return None


class Spy(TorchFunctionMode):
    """Watches passes of one model; ``installed()`` around them, then the attributes hold what was seen.

    Or ``hook()`` and ``unhook()`` for passes that no block encloses; whoever calls them enters the function mode.
    """

    def __init__(self, model: torch.nn.Module, clean: Callable[[str], str], *, keep_outputs: bool = False) -> None:
        super().__init__()
        self.model = model
        self.paths = {module: clean(name) for name, module in model.named_modules()}
        self.owners = {path: type(module).__name__ for module, path in self.paths.items()}
        blocks = {id(p): clean(n) for n, p in model.named_parameters()}
        self.names = set(blocks.values())
        self.units = UnitSums(model, blocks)
        self.attention = AttentionSums()
        self.choices = Choices(blocks)
        self.cuts = Cuts(blocks)
        self.stack: list[str] = []
        self.modules: dict[str, ModuleFacts] = {}
        self.module_order: list[str] = []
        self.low_precision = False
        self.float16 = False
        self.keep_outputs = keep_outputs
        self.outputs: dict[str, list[torch.Tensor]] = {}
        self.sequences: list[tuple[str, torch.Tensor, int]] = []
        self.root_output: torch.Tensor | None = None
        self.root_outputs: Any = None
        self.root_input: Any = None
        self.first_bad: tuple[str, str, str, tuple[str, ...], tuple[int, ...]] | None = None
        self.nan = False
        """A NaN was seen; without one, ``first_bad`` may be a mask of infinities that is meant."""
        self.failures: set[str] = set()
        self.outside = False
        """Functions that are called outside of the model's modules are looked at as well."""
        self.left: Callable[[torch.nn.Module, Any], None] | None = None
        """Called with each module that was called from outside, and its output."""
        self._outside: tuple[str, Any, Any, Source] | None = None
        self._waiting: dict[Any, tuple[str, Any, Any, Source]] = {}
        self._sums: dict[str, tuple[int, float, float]] = {}
        self._handles: list[Any] = []

    @property
    def order(self) -> list[str]:
        """Parameter blocks in the order in which the pass uses them."""
        return list(self.units.order)

    @property
    def matrices(self) -> dict[str, None]:
        """Those of them that products and convolutions use."""
        return self.units.matrices

    @contextmanager
    def installed(self) -> Iterator[Spy]:
        """Hooks on every module and the function mode, removed afterwards whatever happens."""
        self.outside = False
        self.hook()
        try:
            with self:
                yield self
        finally:
            self.unhook()

    def hook(self) -> None:
        """Hooks on every module; also where a call raises, its end is seen."""
        for module in self.model.modules():
            if is_scripted(module):
                continue
            self._handles.append(module.register_forward_pre_hook(Hook(self.enter), with_kwargs=True))
            self._handles.append(module.register_forward_hook(Hook(self._leave), with_kwargs=True, always_call=True))
        self.stack.clear()

    def unhook(self) -> None:
        """No hook is left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.stack.clear()

    # modules

    def enter(self, module: torch.nn.Module, args: Any, kwargs: Any = None) -> Any:
        """A module's call begins. (A hook that was removed while the call began is called once more, without ``kwargs``.)"""
        if unseen() or not self._handles:
            return None
        if not self.stack:
            self.outside = module is not self.model  # a method of the model calls its parts, and functions between them
            self.root_input = (args, kwargs)
            self._safely(self.cuts.given, args, kwargs)
            self._safely(self._feed, args, kwargs)
            if not self.outside:
                self.units.begin()
        path = self.paths.get(module, "")
        self.stack.append(path)
        if self.keep_outputs and isinstance(module, torch.nn.RNNBase) and args and isinstance(args[0], torch.Tensor):
            return self._kept_sequence(module, path, args, kwargs)
        return None

    def _kept_sequence(self, module: torch.nn.RNNBase, path: str, args: Any, kwargs: Any) -> Any:
        sequence = args[0]
        if sequence.requires_grad:
            sequence.retain_grad()
        else:
            sequence = sequence.detach().clone().requires_grad_()
        axis = 0 if sequence.ndim == 2 or not module.batch_first else 1
        self.sequences.append((path, sequence, axis))
        return (sequence, *args[1:]), kwargs

    def _leave(self, module: torch.nn.Module, args: Any, *rest: Any) -> None:
        if unseen() or not self._handles:
            return
        kwargs, output = rest
        if self.stack:
            self.stack.pop()
        value = first_tensor(output)
        self._safely(self._see_output, module, args, kwargs, value)
        if not self.stack:
            self.root_output, self.root_outputs = value, output
            self.cuts.output(value)
            if self.left is not None:
                self.left(module, output)

    def _see_output(self, module: torch.nn.Module, args: Any, kwargs: Any, value: torch.Tensor | None) -> None:
        path = self.paths.get(module, "")
        facts = self.modules.get(path)
        if facts is None:
            facts = ModuleFacts(path=path, owner=type(module).__name__, depth=len(self.module_order))
            self.module_order.append(path)
        own = [(f"{path}.{key}".lstrip("."), p) for key, p in module.named_parameters(recurse=False)]
        self.units.order.update({block: None for block, _ in own if block in self.names and block not in self.units.order})
        if value is not None and isinstance(module, torch.nn.RNNBase | torch.nn.MultiheadAttention):
            self.units.enclosed(path, [block for block, p in own if p.ndim >= 2], value)
        graph = value is not None and value.requires_grad
        self.modules[path] = ModuleFacts(
            path=path,
            owner=facts.owner,
            depth=facts.depth,
            calls=facts.calls + 1,
            graph_calls=facts.graph_calls + graph,
        )
        if value is None or value.numel() == 0:
            return
        self.low_precision = self.low_precision or value.dtype in (torch.float16, torch.bfloat16)
        self.float16 = self.float16 or value.dtype == torch.float16
        with torch.no_grad():
            detached = value.detach()
            squares = float(detached.float().square().mean())
            count, total, spread = self._sums.get(path, (0, 0.0, 0.0))
            here = (
                float(detached.float().std(dim=0, correction=0).square().mean())
                if detached.ndim > 1 and detached.shape[0] > 1
                else squares
            )
            self._sums[path] = (count + 1, total + squares, spread + here)
            if not math.isfinite(squares) and not bool(torch.isfinite(detached).all()):
                self._note_bad(module, path, args, kwargs, detached)
        if self.keep_outputs and value.requires_grad and value.grad_fn is not None:
            self._keep(path, value)

    def _keep(self, name: str, value: torch.Tensor) -> None:
        seen = self.outputs.setdefault(name, [])
        if len(seen) < KEPT_CALLS:
            seen.append(value)

    def _note_bad(self, module: torch.nn.Module, path: str, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        """Remember the first module whose output is not finite: whether it is born there, in a parameter, or in the input.

        A NaN that is born of finite values takes the place of infinities before it: those may be a mask.
        """
        first_nan = not self.nan and bool(torch.isnan(output).any())
        self.nan = self.nan or first_nan
        if self.first_bad is not None and not first_nan:
            return
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        bad = next((t for t in given if spoiled(t)), None)
        if self.first_bad is not None and (bad is not None or any(not bool(torch.isfinite(t).all()) for t in given)):
            return
        where, rows = "output", bad_rows(output)
        name, owner = path, type(module).__name__
        parent = self.stack[-1] if self.stack else None
        if bad is not None and parent is not None:  # what made it is the code around this call
            name, owner, rows = parent, self.owners.get(parent, ""), bad_rows(bad)
        elif bad is not None:
            where, rows = "input", bad_rows(bad)
        else:
            for key, parameter in module.named_parameters(recurse=False):
                if not bool(torch.isfinite(parameter).all()):
                    where, name, rows = "parameter", f"{path}.{key}".lstrip("."), ()
                    break
        self.first_bad = (name, owner, where, tuple(self.module_order[-6:]), rows)

    # functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (not self.stack and not self.outside) or unseen():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        plain = name.rstrip("_") if not name.startswith("__") else name
        if args and isinstance(args[0], torch.Tensor):
            self._safely(self._before, plain, args, kwargs)
        result = func(*args, **kwargs)
        self._safely(self._after, plain, args, kwargs, result)
        return result

    def _safely(self, see: Callable[..., None], *given: Any) -> None:
        """What cannot be looked at (transforms, subclasses of tensors) is noted; the user's pass goes on."""
        try:
            with torch._C.DisableTorchFunction():  # other modes are not to take our own operations for the pass'
                see(*given)
        except Exception as error:
            what = given[0] if isinstance(given[0], str) else self.here or "a call"
            self.failures.add(f"{what}: {type(error).__name__}")

    @property
    def here(self) -> str:
        """The module that is under way; empty outside of all."""
        return self.stack[-1] if self.stack else ""

    def _before(self, name: str, args: Any, kwargs: Any) -> None:
        kind = name
        if name in ("clamp", "clamp_min"):
            low = kwargs.get("min", args[1] if len(args) > 1 else None)
            high = kwargs.get("max", args[2] if len(args) > 2 else None)
            if not isinstance(low, int | float) or low != 0 or high is not None or not args[0].requires_grad:
                return
            kind, args, kwargs = "relu", args[:1], {}
        if kind in ELEMENTWISE:
            source = self.units.source(args[0])
            if self.stack:
                self.units.activation(kind, args, kwargs, self.here, source)
            elif source is not None and source[0]:
                self._outside = (kind, (args[0].detach(), *args[1:]), kwargs, source)

    def _after(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if self.keep_outputs and name in ELEMENTWISE and isinstance(result, torch.Tensor) and result.grad_fn is not None:
            self._keep(f"{self.here}:{name}", result)
        self.cuts.after(name, args, kwargs, result)
        if self._outside is not None:
            if isinstance(result, torch.Tensor) and result.grad_fn is not None:
                self._waiting[result.grad_fn] = self._outside
            self._outside = None
        if name in CONTRACTIONS:
            self._feed(args, kwargs)
            self.units.contraction(name, args, kwargs, result, self.here)
        elif name == "embedding":
            self.units.use(args, kwargs)
            self.choices.used(name, self.here, args)
        elif name == "softmax" and isinstance(args[0], torch.Tensor):
            self.attention.softmax(self.here, args, kwargs)
        elif name == "scaled_dot_product_attention":
            self.attention.dot_product(self.here, args, kwargs)
        elif name == "multi_head_attention_forward":
            self.attention.multi_head(self.here, args, kwargs)
        elif name in ("argmin", "argmax", "topk", "max", "min"):
            self.choices.chosen(name, args, kwargs, result)
        elif name in ("eq", "__eq__"):
            self.choices.compared(self.here, args)
        elif name in ("one_hot", "__getitem__", "index_select", "getitem"):
            self.choices.used(name, self.here, args)

    def _feed(self, args: Any, kwargs: Any) -> None:
        """What the model is given: an activation of the loop's own before it is one of the net; those of a loss are not."""
        queue: list[Any] = [t.grad_fn for t in tensors_in((*args, *kwargs.values()))] if self._waiting else []
        seen: set[Any] = set()
        while queue and self._waiting and len(seen) < BETWEEN:
            node = queue.pop(0)
            if node is None or node in seen:
                continue
            seen.add(node)
            found = self._waiting.pop(node, None)
            if found is not None:
                kind, given, options, source = found
                self.units.activation(kind, given, options, "", source)
            queue.extend(parent for parent, _ in node.next_functions)

    # what was seen

    @property
    def cut(self) -> tuple[str, ...]:
        """Modules whose gradient ends at a cut that the pass goes on from."""
        return tuple(self.cuts.found)

    def module_facts(self) -> tuple[ModuleFacts, ...]:
        """Every module that was called, in the order of its first return."""
        result = []
        for path, facts in self.modules.items():
            count, total, spread = self._sums.get(path, (0, math.nan, math.nan))
            rms = math.sqrt(total / count) if count and total >= 0 else math.nan
            relative = math.sqrt(spread / total) if count and total > 0 and math.isfinite(total) else math.nan
            result.append(
                ModuleFacts(
                    path=path,
                    owner=facts.owner,
                    depth=facts.depth,
                    calls=facts.calls,
                    graph_calls=facts.graph_calls,
                    rms=rms,
                    spread=relative,
                )
            )
        return tuple(result)

    def unit_facts(self) -> tuple[LayerUnits, ...]:
        """Every activation, in the order of its first call."""
        return self.units.facts()

    def attention_facts(self) -> tuple[AttentionFacts, ...]:
        """Every layer with attention."""
        return self.attention.facts()

    def code_facts(self) -> tuple[CodeFacts, ...]:
        """Every codebook and router."""
        return self.choices.facts()


def spoiled(tensor: torch.Tensor) -> bool:
    """NaN, or an infinity that is no mask: masks are added to scores and are minus infinity."""
    return not bool((tensor.detach() < math.inf).all())


def bad_rows(tensor: torch.Tensor) -> tuple[int, ...]:
    """Indices along the first axis of what is not finite, at most eight."""
    if tensor.ndim < 1:
        return ()
    bad = ~torch.isfinite(tensor.detach().reshape(tensor.shape[0], -1)).all(dim=1)
    return tuple(int(i) for i in bad.nonzero().reshape(-1)[:8])


left_alone(Spy.enter, Spy._leave, Spy.__torch_function__)
