"""With ``units="every"``: the largest input of every ReLU that a layer with weights feeds, on every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradguard.adapters.observing_base import LayerUnits
from gradguard.adapters.torch_compiled import Hook, left_alone, unseen
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_untouched import clean

__all__ = ["Peaks"]


class Peaks:
    """A hook on each such layer; a unit that any step saw above 0 is alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.modules = {clean(name): module for name, module in model.named_modules()}
        self.largest: dict[str, torch.Tensor] = {}
        self._handles: dict[str, Any] = {}

    def follow(self, units: Sequence[LayerUnits]) -> None:
        """The layers of a look that are not followed yet."""
        for one in units:
            if one.kind == "relu" and one.module in self.modules and one.module not in self._handles:
                hook = self._hook(one.module, len(one.slope))
                self._handles[one.module] = self.modules[one.module].register_forward_hook(hook)

    def remove(self) -> None:
        """No hook is left."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def _hook(self, path: str, channels: int) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if unseen() or not torch.is_grad_enabled():
                return
            value = first_tensor(output)
            if value is None or value.ndim < 2 or value.numel() == 0:
                return
            axis = 1 if value.ndim == 4 and value.shape[1] == channels else value.ndim - 1
            if value.shape[axis] != channels:
                return
            peak = value.detach().amax(dim=[i for i in range(value.ndim) if i != axis])
            old = self.largest.get(path)
            self.largest[path] = peak if old is None else torch.maximum(old, peak)

        left_alone(hook)
        return Hook(hook)

    def alive(self, units: Sequence[LayerUnits]) -> tuple[LayerUnits, ...]:
        """The units with what every step saw."""
        result = []
        for one in units:
            peak = self.largest.get(one.module)
            if one.kind == "relu" and peak is not None and peak.shape[0] == len(one.slope):
                one = replace(one, slope=np.maximum(one.slope, (peak > 0).cpu().numpy().astype(np.float64)))
            result.append(one)
        return tuple(result)
