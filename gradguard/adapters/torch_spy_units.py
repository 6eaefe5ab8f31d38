"""Units of activations in a look: modules and functions alike, the derivative of each unit over all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from gradguard.adapters.observing_base import LayerUnits

__all__ = ["CONTRACTIONS", "ELEMENTWISE", "NORMALISATIONS", "Source", "UnitSums", "address"]

Source = tuple[str, str, int | None]
"""The block that made a value, the module that owns it, and the axis of its units."""

FLAT = 1e-7
"""A derivative below which a unit is held at its limit: tanh beyond about 9.5, sigmoid beyond about 16."""

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
NORMALISATIONS = {"batch_norm", "group_norm", "layer_norm", "rms_norm", "instance_norm"}
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
CONTRACTIONS = {
    "linear",
    "matmul",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "einsum",
    "__matmul__",
    "__rmatmul__",
    "mv",
    *CHANNELS_FIRST,
    *NORMALISATIONS,
}


def address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage is; -1 where it has none (inside vmap and other transforms)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
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
        """The sums as means, transferred now."""
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


class UnitSums:
    """Activations of a pass, each with the weight that feeds it.

    ``blocks`` names parameters by ``id``; ``order`` and ``matrices`` collect blocks in the order of their use.
    """

    def __init__(self, model: torch.nn.Module, blocks: Mapping[int, str]) -> None:
        self.blocks = blocks
        self.weights = {blocks[id(p)]: p for p in model.parameters()}
        self.units: dict[tuple[str, str, str], Units] = {}
        self.order: dict[str, None] = {}
        self.matrices: dict[str, None] = {}
        self._made: dict[int, Source] = {}
        self._last: tuple[str, str, int | None, torch.Size | None] = ("", "", None, None)

    def begin(self) -> None:
        """A pass of the whole model: nothing in it was made by the last one, whose memory others have taken."""
        self._made.clear()
        self._last = ("", "", None, None)

    def enclosed(self, path: str, blocks: list[str], value: torch.Tensor) -> None:
        """A module whose own products are not seen from outside (``blocks``: its matrices) feeds what follows."""
        block = blocks[0] if blocks else ""
        self.matrices.update(dict.fromkeys(blocks))
        self._made[address(value)] = (block, path, -1)
        self._last = (block, path, -1, value.shape)

    def source(self, z: torch.Tensor) -> Source | None:
        """What made this value: a weight, its module, and the axis of the units."""
        return self._made.get(address(z))

    def use(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The tensors among the arguments; parameters among them are noted in the order of their use."""
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        for tensor in given:
            base = tensor if id(tensor) in self.blocks else tensor._base
            block = self.blocks.get(id(base)) if base is not None else None
            if block is not None:
                self.order.setdefault(block)
        return given

    def contraction(self, name: str, args: Any, kwargs: Any, result: Any, here: str) -> None:
        """A product, convolution or normalisation: its weight feeds the activation that reads its result."""
        if not isinstance(result, torch.Tensor):
            return
        given = self.use(args, kwargs)
        views = [a if id(a) in self.blocks or a._base is None else a._base for a in given]  # w.T is a view of w
        matrices = [a for a in views if id(a) in self.blocks and a.ndim >= 2]
        self.matrices.update({self.blocks[id(m)]: None for m in matrices})
        axis = 1 if name in CHANNELS_FIRST else -1
        block = self.blocks[id(matrices[0])] if matrices else ""
        if not matrices and name in NORMALISATIONS:
            block = self._last[0]  # a normalisation after a layer: that layer feeds the activation
        entry = (block, here, axis)
        self._made[address(result)] = entry
        self._last = (*entry, result.shape)

    def activation(self, kind: str, args: Any, kwargs: Any, here: str, made: Source | None) -> None:
        """Add the values that an activation is about to take, before it may write over them."""
        z = args[0].detach()
        if z.numel() == 0 or not z.is_floating_point() or z.ndim < 1:
            return
        block, module, axis = made if made is not None else self._last[:3]
        if made is None and self._last[3] != z.shape:
            axis = None
        if axis is None:
            axis = 1 if z.ndim == 4 else -1
        axis = axis if -z.ndim <= axis < z.ndim else -1
        options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input", "out")}
        more = tuple(a for a in args[1:] if not isinstance(a, bool))
        # Hooks of our own: those around the pass (checkpointing counts what it saves) must not see these tensors.
        with torch.enable_grad(), saved_tensors_hooks(torch.Tensor.detach, torch.Tensor.detach):
            point = z.to(torch.float32).clone().requires_grad_()
            value = ELEMENTWISE[kind](point, *more, **options)
            slope = torch.autograd.grad(value.sum(), point)[0].abs()
        rows = z.shape[axis]
        flat = slope.movedim(axis, 0).reshape(rows, -1)
        values = value.detach().movedim(axis, 0).reshape(rows, -1)
        found = self._sums(kind, block, module, here, rows, z.device)
        found.count += flat.shape[1]
        found.slope = torch.maximum(found.slope, flat.amax(dim=1).double())
        found.flat += (flat < FLAT).sum(dim=1)
        found.zeros += (values == 0).sum(dim=1)
        found.squares += values.double().square().sum(dim=1)
        found.size += values.double().abs().sum(dim=1)

    def _sums(self, kind: str, block: str, module: str, here: str, rows: int, device: torch.device) -> Units:
        key = (block, here, kind)
        found = self.units.get(key)
        if found is None or found.slope.shape[0] != rows:
            slope, flat, zeros, squares, size = torch.zeros(5, rows, dtype=torch.float64, device=device).unbind()
            found = self.units[key] = Units(
                layer=here or kind,
                kind=kind,
                depth=len(self.units),
                block=block,
                module=module,
                count=0,
                slope=slope,
                flat=flat,
                zeros=zeros,
                squares=squares,
                size=size,
                pruned=self._pruned(block, rows, device),
            )
        return found

    def _pruned(self, block: str, rows: int, device: torch.device) -> torch.Tensor:
        """Units whose incoming weights are all exactly 0 while others' are not: pruned, not dead."""
        weight = self.weights.get(block)
        if weight is None or weight.ndim < 2 or weight.shape[0] != rows:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        empty = (weight.detach().reshape(rows, -1) == 0).all(dim=1)
        return empty & ~empty.all()

    def facts(self) -> tuple[LayerUnits, ...]:
        """Every activation that was seen."""
        return tuple(units.facts() for units in self.units.values() if units.count)
