"""Sees a pass from inside: modules by hooks, functional activations, attention and codebooks by a function mode.

Used in looks only, never on every step of a user's loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradguard.adapters.observing_base import AttentionFacts, CodeFacts, LayerUnits, ModuleFacts

__all__ = ["Spy", "first_tensor"]

FLAT = 1e-7
"""A derivative below which a unit is held at its limit: tanh beyond about 9.5, sigmoid beyond about 16."""

MASKED = -1e8
"""Attention scores below this are masks, not scores."""

ELEMENTWISE: dict[str, Callable[..., torch.Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "celu": functional.celu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "threshold": functional.threshold,
    "logsigmoid": functional.logsigmoid,
}
CONTRACTIONS = {"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "__matmul__", "__rmatmul__", "mv"}
CHANNELS_FIRST = {
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "batch_norm",
    "group_norm",
    "instance_norm",
}


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


def address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage is; -1 where it has none (inside vmap and other transforms)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return -1


@dataclass
class Units:
    """Sums over samples for one activation; on the device of the model."""

    layer: str
    kind: str
    depth: int
    block: str
    module: str
    count: int
    slope: torch.Tensor
    flat: torch.Tensor
    zeros: torch.Tensor
    squares: torch.Tensor
    size: torch.Tensor
    pruned: torch.Tensor

    def facts(self) -> LayerUnits:
        n = max(1, self.count)

        def numbers(tensor: torch.Tensor) -> Any:
            return tensor.detach().to("cpu", torch.float64).numpy()

        return LayerUnits(
            layer=self.layer,
            kind=self.kind,
            depth=self.depth,
            block=self.block,
            module=self.module,
            samples=self.count,
            slope=numbers(self.slope),
            flat=numbers(self.flat) / n,
            zeros=numbers(self.zeros) / n,
            rms=np.sqrt(numbers(self.squares) / n),
            size=numbers(self.size) / n,
            pruned=self.pruned.cpu().numpy(),
        )


class Spy(TorchFunctionMode):
    """Watches passes of one model; ``installed()`` around them, then the attributes hold what was seen."""

    def __init__(self, model: torch.nn.Module, clean: Callable[[str], str], *, keep_outputs: bool = False) -> None:
        super().__init__()
        self.model = model
        self.paths = {module: clean(name) for name, module in model.named_modules()}
        self.blocks = {id(p): clean(n) for n, p in model.named_parameters()}
        self.names = set(self.blocks.values())
        self.stack: list[str] = []
        self.units: dict[tuple[str, str, str], Units] = {}
        self.attention: dict[str, list[tuple[np.ndarray[Any, Any], int, int]]] = {}
        self.codes: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self.code_blocks: dict[tuple[str, str], str] = {}
        self.modules: dict[str, ModuleFacts] = {}
        self.order: list[str] = []
        self.matrices: dict[str, None] = {}
        self.module_order: list[str] = []
        self.low_precision = False
        self.keep_outputs = keep_outputs
        self.outputs: dict[str, list[torch.Tensor]] = {}
        self.sequences: list[tuple[str, torch.Tensor, int]] = []
        self.root_output: torch.Tensor | None = None
        self.root_outputs: Any = None
        self.root_input: Any = None
        self.first_bad: tuple[str, str, str, tuple[str, ...], tuple[int, ...]] | None = None
        self.failures: set[str] = set()
        self.cut: list[str] = []
        self._detached: dict[int, tuple[str, ...]] = {}
        self._made: dict[int, tuple[str, str, int | None]] = {}
        self._last: tuple[str, str, int | None, torch.Size | None] = ("", "", None, None)
        self._choices: dict[int, int] = {}
        self._sums: dict[str, tuple[int, float, float]] = {}

    @contextmanager
    def installed(self, *, root: bool = True) -> Iterator[Spy]:
        """Hooks on every module and the function mode, removed afterwards whatever happens.

        Without ``root`` the model itself gets none: its own call is under way, and ``leave_root`` ends it.
        """
        handles = []
        for module in self.model.modules():
            if module is self.model and not root:
                continue
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        self.stack[:] = [] if root else [""]
        try:
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()
            self.stack.clear()

    def leave_root(self, args: Any, output: Any) -> None:
        """The model's own call ends; for ``installed(root=False)``."""
        self._leave(self.model, args, {}, output)

    # modules

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        path = self.paths.get(module, "")
        if not self.stack:
            self.root_input = (args, kwargs)
        self.stack.append(path)
        for given in args:
            if isinstance(given, torch.Tensor) and not given.requires_grad and given.is_floating_point():
                before = self._detached.get(address(given), ())
                self.cut.extend(m for m in before if m not in self.cut)
        if self.keep_outputs and isinstance(module, torch.nn.RNNBase) and args and isinstance(args[0], torch.Tensor):
            sequence = args[0]
            if sequence.requires_grad:
                sequence.retain_grad()
            else:
                sequence = sequence.detach().clone().requires_grad_()
            axis = 0 if sequence.ndim == 2 or not module.batch_first else 1
            self.sequences.append((path, sequence, axis))
            return (sequence, *args[1:]), kwargs
        return None

    def _leave(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.stack:
            self.stack.pop()
        path = self.paths.get(module, "")
        value = first_tensor(output)
        facts = self.modules.get(path)
        if facts is None:
            facts = ModuleFacts(path=path, owner=type(module).__name__, depth=len(self.module_order))
            self.module_order.append(path)
        for key, _ in module.named_parameters(recurse=False):
            block = f"{path}.{key}".lstrip(".")
            if block not in self.order and block in self.names:
                self.order.append(block)
        if value is not None and isinstance(module, torch.nn.RNNBase | torch.nn.MultiheadAttention):
            self._inside(module, path, value)
        graph = value is not None and value.requires_grad
        self.modules[path] = ModuleFacts(
            path=path,
            owner=facts.owner,
            depth=facts.depth,
            calls=facts.calls + 1,
            graph_calls=facts.graph_calls + graph,
        )
        if not self.stack:
            self.root_output, self.root_outputs = value, output
        if value is None or value.numel() == 0:
            return
        self.low_precision = self.low_precision or value.dtype in (torch.float16, torch.bfloat16)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            detached = value.detach()
            squares = float(detached.float().square().mean())
            count, total, spread = self._sums.get(path, (0, 0.0, 0.0))
            here = (
                float(detached.float().std(dim=0, correction=0).square().mean())
                if detached.ndim > 1 and detached.shape[0] > 1
                else squares
            )
            self._sums[path] = (count + 1, total + squares, spread + here)
            if self.first_bad is None and not math.isfinite(squares) and not bool(torch.isfinite(detached).all()):
                self._note_bad(module, path, args, kwargs, detached)
        if self.keep_outputs and value.requires_grad and value.grad_fn is not None:
            seen = self.outputs.setdefault(path, [])
            if len(seen) < 512:
                seen.append(value)

    def _inside(self, module: torch.nn.Module, path: str, value: torch.Tensor) -> None:
        """A module whose own products are not seen from here feeds what follows."""
        block = next((f"{path}.{k}".lstrip(".") for k, p in module.named_parameters(recurse=False) if p.ndim >= 2), "")
        self.matrices.update(
            {f"{path}.{k}".lstrip("."): None for k, p in module.named_parameters(recurse=False) if p.ndim >= 2}
        )
        self._made[address(value)] = (block, path, -1)
        self._last = (block, path, -1, value.shape)

    def _note_bad(self, module: torch.nn.Module, path: str, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        """Remember the first module whose output is not finite: whether it is born there, in a parameter, or in the input."""
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        bad = [t for t in given if not bool(torch.isfinite(t).all())]
        where, rows = "output", bad_rows(output)
        name, owner = path, type(module).__name__
        if bad:
            where, rows = "input", bad_rows(bad[0])
        else:
            for key, parameter in module.named_parameters(recurse=False):
                if not bool(torch.isfinite(parameter).all()):
                    where, name, rows = "parameter", f"{path}.{key}".lstrip("."), ()
                    break
        self.first_bad = (name, owner, where, tuple(self.module_order[-6:]), rows)

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

    # functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = name.rstrip("_") if not name.startswith("__") else name
        if self.stack and args and isinstance(args[0], torch.Tensor):
            self._safely(self._before, plain, args, kwargs)
        result = func(*args, **kwargs)
        if self.stack:
            self._safely(self._after, plain, args, kwargs, result)
        return result

    def _safely(self, see: Callable[..., None], *given: Any) -> None:
        """What cannot be looked at (transforms, subclasses of tensors) is noted; the user's pass goes on."""
        try:
            see(*given)
        except Exception as error:
            self.failures.add(f"{given[0]}: {type(error).__name__}")

    def _before(self, name: str, args: Any, kwargs: Any) -> None:
        if name in ELEMENTWISE:
            self._activation(name, args, kwargs)
        elif name in ("clamp", "clamp_min"):
            low = kwargs.get("min", args[1] if len(args) > 1 else None)
            high = kwargs.get("max", args[2] if len(args) > 2 else None)
            if isinstance(low, int | float) and low == 0 and high is None and args[0].requires_grad:
                self._activation("relu", args[:1], {})

    def _after(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if self.keep_outputs and name in ELEMENTWISE and isinstance(result, torch.Tensor) and result.grad_fn is not None:
            seen = self.outputs.setdefault(f"{self.stack[-1]}:{name}", [])
            if len(seen) < 512:
                seen.append(result)
        if name in CONTRACTIONS or name in CHANNELS_FIRST or name == "layer_norm" or name == "rms_norm":
            self._contraction(name, args, kwargs, result)
        elif name == "embedding":
            self._use(args, kwargs)
            self._code(name, args)
        elif name == "softmax" and isinstance(args[0], torch.Tensor) and args[0].ndim >= 3:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, args[0].ndim - 1) and args[0].shape[-1] >= 4:
                self._attention(args[0].detach())
        elif name == "scaled_dot_product_attention":
            self._dot_product(args, kwargs)
        elif name == "multi_head_attention_forward":
            self._multi_head(args, kwargs)
        elif name in ("argmin", "argmax") and isinstance(result, torch.Tensor) and result.ndim >= 1:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if isinstance(dim, int):
                self._choices[address(result)] = int(args[0].shape[dim])
        elif name == "topk" and isinstance(result, tuple) and len(result) == 2:
            self._choices[address(result[1])] = int(args[0].shape[-1])
        elif name == "detach" and args[0].requires_grad:
            self._detached[address(result)] = tuple(self.modules)
        elif name in ("one_hot", "__getitem__", "index_select", "getitem"):
            self._code(name, args)

    def _use(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The tensors among the arguments; parameters among them are noted in the order of their use."""
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        for tensor in given:
            base = tensor if id(tensor) in self.blocks else tensor._base
            block = self.blocks.get(id(base)) if base is not None else None
            if block is not None and block not in self.order:
                self.order.append(block)
        return given

    def _contraction(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if not isinstance(result, torch.Tensor):
            return
        given = self._use(args, kwargs)
        views = [a if id(a) in self.blocks or a._base is None else a._base for a in given]  # w.T is a view of w
        matrices = [a for a in views if id(a) in self.blocks and a.ndim >= 2]
        self.matrices.update({self.blocks[id(m)]: None for m in matrices})
        axis = 1 if name in CHANNELS_FIRST else -1
        block = self.blocks[id(matrices[0])] if matrices else ""
        if not matrices and name in ("batch_norm", "group_norm", "layer_norm", "rms_norm", "instance_norm"):
            block = self._last[0]  # a normalisation after a layer: that layer feeds the activation
        entry = (block, self.stack[-1], axis)
        self._made[address(result)] = entry
        self._last = (*entry, result.shape)

    def _activation(self, kind: str, args: Any, kwargs: Any) -> None:
        z = args[0].detach()
        if z.numel() == 0 or not z.is_floating_point() or z.ndim < 1:
            return
        made = self._made.get(address(z))
        block, module, axis = made if made is not None else self._last[:3]
        if made is None and self._last[3] != z.shape:
            axis = None
        if axis is None:
            axis = 1 if z.ndim == 4 else -1
        axis = axis if -z.ndim <= axis < z.ndim else -1
        options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input", "out")}
        more = tuple(a for a in args[1:] if not isinstance(a, bool))
        with torch.enable_grad():
            point = z.to(torch.float32).clone().requires_grad_()
            value = ELEMENTWISE[kind](point, *more, **options)
            slope = torch.autograd.grad(value.sum(), point)[0].abs()
        rows = z.shape[axis]
        flat = slope.movedim(axis, 0).reshape(rows, -1)
        values = value.detach().movedim(axis, 0).reshape(rows, -1)
        here = self.stack[-1]
        key = (block, here, kind)
        found = self.units.get(key)
        pruned = self._pruned(block, rows, z.device)
        if found is None or found.slope.shape[0] != rows:
            zeros = torch.zeros(rows, dtype=torch.float64, device=z.device)
            found = Units(
                here or kind,
                kind,
                len(self.units),
                block,
                module,
                0,
                zeros.clone(),
                zeros.clone(),
                zeros.clone(),
                zeros.clone(),
                zeros.clone(),
                pruned,
            )
            self.units[key] = found
        found.count += flat.shape[1]
        found.slope = torch.maximum(found.slope, flat.amax(dim=1).double())
        found.flat += (flat < FLAT).sum(dim=1)
        found.zeros += (values == 0).sum(dim=1)
        found.squares += values.double().square().sum(dim=1)
        found.size += values.double().abs().sum(dim=1)

    def _pruned(self, block: str, rows: int, device: torch.device) -> torch.Tensor:
        """Units whose incoming weights are all exactly 0 while others' are not: pruned, not dead."""
        weight = next((p for p in self.model.parameters() if self.blocks.get(id(p)) == block), None) if block else None
        if weight is None or weight.ndim < 2 or weight.shape[0] != rows:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        empty = (weight.detach().reshape(rows, -1) == 0).all(dim=1)
        return empty & ~empty.all()

    def _attention(self, scores: torch.Tensor) -> None:
        """Entropy per head of softmax over the last axis, over the rows with at least four keys."""
        scores = scores[: min(8, scores.shape[0])].float()
        if scores.ndim == 3:
            scores = scores.unsqueeze(1)
        elif scores.ndim > 4:
            scores = scores.reshape(-1, *scores.shape[-3:])
        keep = torch.isfinite(scores) & (scores > MASKED)
        keys = keep.sum(dim=-1)
        logits = scores.masked_fill(~keep, -math.inf)
        p = torch.softmax(logits, dim=-1).nan_to_num(0.0)
        entropy = -(p * p.clamp_min(1e-30).log()).sum(-1) / keys.clamp_min(2).double().log()
        wide = keys >= 4
        counts = wide.sum(dim=(0, 2))
        if not bool((counts > 0).all()):
            return
        mean = (entropy * wide).sum(dim=(0, 2)) / counts
        name = self.stack[-1]
        self.attention.setdefault(name, []).append((mean.double().cpu().numpy(), int(counts.sum()), int(keys.max())))

    def _dot_product(self, args: Any, kwargs: Any) -> None:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key = given["query"].detach(), given["key"].detach()
        if query.ndim < 3 or key.shape[-2] < 4:
            return
        query, key = query[:8].float(), key[:8].float()
        if query.ndim == 4 and key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-1, -2) * scale
        mask = given.get("attn_mask")
        if isinstance(mask, torch.Tensor):
            mask = mask.detach()
            mask = mask[:8] if mask.ndim == scores.ndim and mask.shape[0] > 8 else mask
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if given.get("is_causal"):
            scores = scores.masked_fill(
                torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1), -math.inf
            )
        self._attention(scores)

    def _multi_head(self, args: Any, kwargs: Any) -> None:
        """Ask the same call for its weights, without dropout."""
        options = dict(kwargs) | {"training": False, "need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            _, weights = functional.multi_head_attention_forward(*args, **options)
        if weights is not None and weights.ndim == 4 and weights.shape[-1] >= 4:
            self._attention(weights.clamp_min(1e-38).log().masked_fill(weights == 0, -80.0))

    def _code(self, name: str, args: Any) -> None:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        tensors += [i for a in args if isinstance(a, tuple) for i in a if isinstance(i, torch.Tensor)]
        index = next((t for t in tensors if t.dtype == torch.int64 and address(t) in self._choices), None)
        if index is None:
            return
        size = self._choices[address(index)]
        table = next((t for t in tensors if t.is_floating_point() and t.ndim == 2 and t.shape[0] == size), None)
        if table is None and name != "one_hot":
            return
        block = self.blocks.get(id(table), "") if table is not None else ""
        key = (self.stack[-1], "experts" if name == "one_hot" else "codes")
        counts = self.codes.setdefault(key, np.zeros(size))
        self.code_blocks[key] = block
        found = torch.bincount(index.detach().reshape(-1).cpu(), minlength=size).numpy()
        if found.shape == counts.shape:
            counts += found

    # what was seen

    def unit_facts(self) -> tuple[LayerUnits, ...]:
        return tuple(units.facts() for units in self.units.values() if units.count)

    def attention_facts(self) -> tuple[AttentionFacts, ...]:
        result = []
        for layer, rows in self.attention.items():
            same = [r for r in rows if r[0].shape == rows[0][0].shape]
            weights = np.array([r[1] for r in same], dtype=np.float64)
            entropy = sum(r[0] * w for r, w in zip(same, weights, strict=True)) / weights.sum()
            result.append(
                AttentionFacts(layer=layer, entropy=np.asarray(entropy), rows=int(weights.sum()), keys=max(r[2] for r in same))
            )
        return tuple(result)

    def code_facts(self) -> tuple[CodeFacts, ...]:
        return tuple(
            CodeFacts(layer=layer, kind=kind, counts=counts, block=self.code_blocks.get((layer, kind), ""))
            for (layer, kind), counts in self.codes.items()
        )


def bad_rows(tensor: torch.Tensor) -> tuple[int, ...]:
    """Indices along the first axis of what is not finite, at most eight."""
    if tensor.ndim < 1:
        return ()
    bad = ~torch.isfinite(tensor.detach().reshape(tensor.shape[0], -1)).all(dim=1)
    return tuple(int(i) for i in bad.nonzero().reshape(-1)[:8])
