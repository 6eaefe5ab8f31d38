"""A gradient beside what common mistakes would have made of the right one; costs no forwards, or those of phi."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.torch_placement import real_view
from gradguard.adapters.torch_problem import TorchProblem
from gradguard.blocks import SIGNIFICANT, Tangent, axis_name

__all__ = ["TorchComparable"]


class TorchComparable(TorchProblem):
    """A problem whose gradients can be compared with transposed, moved and partial ones."""

    def values_by_slice(self, tangent: Tangent, steps: NDArray[np.float64], axis: int) -> NDArray[np.float64] | None:
        """phi(t) - phi(0) split by the outputs' index along an axis, shape (S, extent); None where there is no such axis."""
        self._ensure()
        if any(base.dim() <= axis for base in self._base) or len({base.shape[axis] for base in self._base}) != 1:
            return None
        result = np.empty((len(steps), self._base[0].shape[axis]))
        for s, t in enumerate(steps):
            self._place(tangent, float(t))
            result[s] = self._change_by_slice(axis)
        self._place(None, 0.0)
        return result

    def _change_by_slice(self, axis: int) -> NDArray[np.float64]:
        assert self._cotangents is not None
        total: torch.Tensor | None = None
        for v, now, base in zip(self._cotangents, self._plain_outputs(), self._base, strict=True):
            weights = real_view(v).double()
            change = real_view(now).double() - real_view(base).double()
            part = torch.where(weights != 0, change, torch.zeros_like(change)) * weights
            part = part.movedim(axis, 0).reshape(part.shape[axis], -1).sum(dim=1)
            total = part if total is None else total + part
        assert total is not None
        return total.cpu().numpy()

    def variants(self, block: int, tangent: Tangent) -> dict[str, float]:
        """<g', u> for gradients g' that are a common mistake away from g: transposed, rows moved, and the like."""
        g, u = self._ensure()[block], self._direction(tangent)[block]
        if g is None or u is None or g.is_complex() or g.dim() < 1 or g.shape != u.shape:
            return {}
        g, u = g.double(), u.double() * (tangent.scales[block] / SIGNIFICANT if u.dtype == torch.int8 else 1.0)
        found: dict[str, torch.Tensor] = {}
        for axis in range(g.dim()):
            what = axis_name(axis, g.dim())
            found[f"{what} reversed"] = g.flip(axis)
            found[f"{what} moved by one"] = g.roll(1, axis)
            found[f"{what} moved back by one"] = g.roll(-1, axis)
        if g.dim() >= 2:
            found["transposed"] = g.reshape(*g.shape[:-2], g.shape[-1], g.shape[-2]).transpose(-1, -2)
        return {name: float((other * u).sum()) for name, other in found.items()}

    def repeated_indices(self) -> frozenset[int]:
        """The values that the integer inputs hold more than once."""
        found: set[int] = set()
        for tensor in self.integers:
            values, counts = torch.unique(tensor, return_counts=True)
            found.update(int(k) for k in values[counts > 1][:1000])
        return frozenset(found)

    def slice_shares(self, block: int, tangent: Tangent, axis: int, index: int) -> NDArray[np.float64]:
        """<g_j, u_index> for every slice j along an axis, shape (extent,): which stands where ``index`` should?"""
        g, u = self._ensure()[block], self._direction(tangent)[block]
        if g is None or u is None or g.is_complex() or g.dim() < 1:
            return np.zeros(0)
        factor = tangent.scales[block] / SIGNIFICANT if u.dtype == torch.int8 else 1.0
        flat = g.double().movedim(axis, 0).reshape(g.shape[axis], -1)
        return (flat @ (u.select(axis, index).double().reshape(-1) * factor)).cpu().numpy()
