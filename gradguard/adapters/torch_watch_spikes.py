"""On every step of a watched loop: is a gradient not finite, or far above what it was? From a few small tensors only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["Sentinel", "SpikeDetector"]

SMALL = 4096
"""Entries of a tensor that is small enough to be read on every step."""
MOST = 8
"""Tensors that are read: what is not finite in one place spreads to the layers before it."""


class SpikeDetector:
    """The z-score of a gradient norm against its own exponential moving average and variance.

    Kumar et al. 2025 (ZClip): decay 0.97, a spike beyond 2.5; the moments take a spike in as if it lay at the limit.
    The first 25 norms only make the moments.
    """

    DECAY = 0.97
    LIMIT = 2.5
    WARM = 25

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.variance = 0.0

    def spike(self, norm: float) -> bool:
        """Whether this norm is one."""
        self.count += 1
        if self.count <= self.WARM:
            delta = norm - self.mean
            self.mean += delta / self.count
            self.variance += (delta * (norm - self.mean) - self.variance) / self.count
            return False
        limit = self.mean + self.LIMIT * math.sqrt(self.variance)
        taken = min(norm, limit)
        self.variance = self.DECAY * self.variance + (1 - self.DECAY) * (taken - self.mean) ** 2
        self.mean = self.DECAY * self.mean + (1 - self.DECAY) * taken
        return norm > limit


class Sentinel:
    """The norm of a few small gradients of one optimizer, first layers to last."""

    def __init__(self, params: Sequence[torch.nn.Parameter]) -> None:
        small = [p for p in params if p.numel() <= SMALL] or sorted(params, key=lambda p: p.numel())[:1]
        spread = max(1, (len(small) - 1) // (MOST - 1))
        self.params = [*small[::spread][: MOST - 1], *small[-1:]]
        self.detector = SpikeDetector()
        self.late: list[torch.Tensor] = []

    def see(self, scale: torch.Tensor | None, *, read_late: bool) -> str:
        """``"nonfinite"``, ``"spike"`` or ``""``; on devices where reading waits, what was seen since the last reading."""
        grads = [p.grad.detach() for p in self.params if p.grad is not None and p.grad.layout == torch.strided]
        grads = [g for g in grads if not hasattr(g, "full_tensor") and g.device == grads[0].device]
        if not grads:
            return ""
        norm = torch.stack([n.float() for n in torch._foreach_norm(grads)]).norm()
        self.late.append(norm if scale is None else norm / scale)
        if norm.device.type != "cpu" and not (read_late or len(self.late) >= SMALL):
            return ""
        found = ""
        for value in torch.stack(self.late).tolist():
            if not math.isfinite(value):
                found = "nonfinite"
            elif self.detector.spike(value) and not found:
                found = "spike"
        self.late.clear()
        return found
