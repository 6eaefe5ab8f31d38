"""The leaves of a problem, moved along tangents and back: the only place that writes into the user's tensors."""

from __future__ import annotations

import torch

from gradguard.adapters.torch_session import Session
from gradguard.blocks import SIGNIFICANT, Tangent, draw, window_slices

__all__ = ["TorchPlacement", "real_view"]

DENSE_BYTES = 1 << 22
"""Tangents are kept as float64 up to this size in all, else as one byte an entry."""


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as real pairs (..., 2), a real one as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class TorchPlacement:
    """Leaves, the values that they have at the point, and where they are now.

    ``originals`` are the user's own tensors, never written to. ``frozen``: rows of a block that no tangent moves.
    """

    session: Session
    leaves: list[torch.Tensor]
    originals: list[torch.Tensor]
    frozen: dict[int, list[int]]

    def __init__(self, leaves: list[torch.Tensor], originals: list[torch.Tensor], session: Session) -> None:
        self.leaves = leaves
        self.originals = originals
        self.session = session
        self.frozen = {}
        self._offset: tuple[Tangent, float] | None = None
        self._tangents: dict[int, tuple[Tangent, list[torch.Tensor | None]]] = {}
        self._rms = [self._root_mean_square(t) for t in self.originals]

    def _direction(self, tangent: Tangent) -> list[torch.Tensor | None]:
        """u, one tensor per block in the shape of its real view: float where small, one byte an entry where large."""
        cached = self._tangents.get(id(tangent))
        if cached is not None and cached[0] is tangent:
            return cached[1]
        if len(self._tangents) > 1 or sum(t.numel() for t in self.originals) * 8 > DENSE_BYTES:
            self._tangents.clear()
        dense = sum(self.originals[i].numel() for i in tangent.blocks) * 8 <= DENSE_BYTES
        result: list[torch.Tensor | None] = [None] * len(self.leaves)
        for i, scale in tangent.scales.items():
            target = real_view(self.leaves[i].data)
            pattern = torch.from_numpy(draw(tangent.seed, i, target.numel())).to(target.device).reshape(target.shape)
            if dense or tangent.relative is not None:
                pattern = pattern.to(target.dtype) * (scale / SIGNIFICANT)
                if tangent.relative is not None:
                    size = real_view(self.originals[i]).to(target.dtype).abs()
                    pattern *= torch.clamp(size / (self._rms[i] or 1.0), min=tangent.relative, max=1.0)
            if i in self.frozen:
                pattern[self.frozen[i]] = 0
            if i in tangent.windows:
                inside = window_slices(tangent.windows[i], self.leaves[i].dim())
                part = torch.zeros_like(pattern)
                part[inside] = pattern[inside]
                pattern = part
            result[i] = pattern
        for chosen in tangent.entries:
            target = real_view(self.leaves[chosen.block].data)
            single = torch.zeros(target.numel(), dtype=target.dtype, device=target.device)
            where = torch.tensor(chosen.indices, device=target.device)
            step = 2 if self.leaves[chosen.block].is_complex() else 1
            single[where * step] = torch.tensor(chosen.values, dtype=target.dtype, device=target.device)
            base = result[chosen.block]
            single = single.reshape(target.shape)
            if chosen.block in self.frozen:
                single[self.frozen[chosen.block]] = 0
            result[chosen.block] = single if base is None else base + single
        self._tangents[id(tangent)] = (tangent, result)
        return result

    def _add(self, i: int, direction: torch.Tensor, tangent: Tangent, t: float) -> None:
        data = real_view(self.leaves[i].data)
        alpha = t * tangent.scales[i] / SIGNIFICANT if direction.dtype == torch.int8 else t
        data.add_(direction, alpha=alpha)

    def _place(self, tangent: Tangent | None, t: float) -> None:
        """Set the leaves to x + offset + t u."""
        direction = self._direction(tangent) if tangent is not None else []
        offset = self._direction(self._offset[0]) if self._offset is not None else []
        with torch.no_grad():
            # Another problem on the same leaves (a point nearby, a module alone) may have left them elsewhere.
            elsewhere = self.session.moved
            moved = [
                i for i, leaf in enumerate(self.leaves) if id(leaf) in elsewhere or (direction and direction[i] is not None)
            ]
            if moved:
                torch._foreach_copy_([self.leaves[i].data for i in moved], [self.originals[i] for i in moved])
                elsewhere.difference_update(id(self.leaves[i]) for i in moved)
            if self._offset is not None:
                for i, u in enumerate(offset):
                    if u is not None:
                        self._add(i, u, self._offset[0], self._offset[1])
                        elsewhere.add(id(self.leaves[i]))
            if tangent is not None and t != 0.0:
                active = [i for i, u in enumerate(direction) if u is not None]
                floats = [(i, u) for i, u in enumerate(direction) if u is not None and u.dtype != torch.int8]
                if floats:
                    torch._foreach_add_([real_view(self.leaves[i].data) for i, _ in floats], [u for _, u in floats], alpha=t)
                for i in active:
                    u = direction[i]
                    if u is not None and u.dtype == torch.int8:
                        self._add(i, u, tangent, t)
                elsewhere.update(id(self.leaves[i]) for i in active)

    @staticmethod
    def _root_mean_square(tensor: torch.Tensor) -> float:
        if not tensor.numel():
            return 0.0
        values = real_view(tensor.detach())
        norm = float(torch.linalg.vector_norm(values.float() if values.element_size() < 4 else values))
        return float(norm / values.numel() ** 0.5)
