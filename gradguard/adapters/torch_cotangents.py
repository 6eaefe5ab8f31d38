"""Cotangents on purpose: scaled, uniform, expanded, transposed; and how far two results are apart.

Multiplying by a power of two (or by -1) is exact in floating point, and so is every linear backward of it: those
comparisons need no tolerance to speak of. Sums and layouts round differently; their limit is measured, from cotangents
multiplied by 3, 5 and 7, which a linear backward differs on by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.torch_leaves import differentiable

__all__ = [
    "Experiment", "difference", "expanded", "far", "largest", "linear_limit", "noise_limit", "other_layout", "scaled",
    "transposed", "uniform",
]

Run = Callable[[Sequence[Any]], "list[torch.Tensor | None]"]

POWERS = {torch.float64: 30, torch.complex128: 30, torch.float32: 12, torch.complex64: 12, torch.bfloat16: 12}
ROUNDINGS = {torch.float64: 1e4, torch.complex128: 1e4, torch.float32: 1e3, torch.complex64: 1e3}
NOISE = 1e3
"""Sums may differ by this many times what cotangents x 3, 5 and 7 differ by."""
SLACK = {torch.float64: 1e4, torch.complex128: 1e4}
"""Roundings of the largest gradient of all that a position may be apart by: what cancels to 0 is nothing but these."""
HUGE, TINY = 1e100, 1e-30


def cotangents(given: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors among them that carry a gradient."""
    return [g for g in given if isinstance(g, torch.Tensor) and differentiable(g)]


def far(given: Sequence[Any]) -> int:
    """The power of two that cotangents can be multiplied by, and divided, without leaving their dtype's range."""
    return min((POWERS.get(g.dtype, 2) for g in cotangents(given)), default=30)


def mapped(given: Sequence[Any], change: Callable[[torch.Tensor], torch.Tensor]) -> list[Any]:
    return [change(g) if isinstance(g, torch.Tensor) and differentiable(g) else g for g in given]


def scaled(given: Sequence[Any], factor: float) -> list[Any]:
    """factor * g, with the layout of g."""
    return mapped(given, lambda g: g * factor)


def uniform(given: Sequence[Any]) -> list[Any]:
    """A constant cotangent of the size of g's entries, contiguous."""
    return mapped(given, lambda g: torch.full(g.shape, size_of(g), dtype=g.dtype, device=g.device))


def expanded(given: Sequence[Any]) -> list[Any]:
    """The same constant as one number, expanded: as ``sum().backward()`` makes it."""
    return mapped(given, lambda g: torch.full((), size_of(g), dtype=g.dtype, device=g.device).expand(g.shape))


def size_of(g: torch.Tensor) -> float:
    """The mean magnitude, as a power of two so that it is exact in every dtype; 1 for zeros."""
    mean = float(g.abs().double().mean()) if g.numel() else 0.0
    return 2.0 ** round(float(torch.tensor(mean).log2())) if TINY < mean < HUGE else 1.0


def transposed(given: Sequence[Any]) -> list[Any]:
    """The same values in memory of another order: channels last in 4-D, else reversed strides."""
    return mapped(given, other_layout)


def other_layout(g: torch.Tensor) -> torch.Tensor:
    """A copy with other strides: contiguous where g is not; channels_last, reversed, or every second place where it is."""
    if g.dim() == 0:
        return g.clone()
    if not g.is_contiguous():
        return g.contiguous()
    if g.dim() in (4, 5):
        other = g.contiguous(memory_format=torch.channels_last if g.dim() == 4 else torch.channels_last_3d)
        if not other.is_contiguous():
            return other
    if g.dim() >= 2:
        turned = list(range(g.dim()))[::-1]
        other = g.permute(turned).contiguous().permute(turned)
        if not other.is_contiguous():
            return other
    wide = torch.zeros((*g.shape[:-1], 2 * g.shape[-1]), dtype=g.dtype, device=g.device)
    other = wide[..., ::2]
    return other.copy_(g)


def largest(results: Sequence[torch.Tensor | None]) -> float:
    """The largest finite magnitude of all."""
    finite = [torch.nan_to_num(r.abs().double(), nan=0.0, posinf=0.0).max() for r in results if r is not None and r.numel()]
    return float(torch.stack([f.cpu() for f in finite]).max()) if finite else 0.0


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of entries; 0 where both are not finite, infinite where one of them is not."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    good, fine = torch.isfinite(x), torch.isfinite(y)
    if bool((good != fine).any()):
        return float("inf")
    return float(torch.where(good, (x - y).abs(), torch.zeros((), dtype=torch.float64, device=x.device)).max())


class Experiment:
    """Compares the results of two backwards, position by position, relative to the largest entry of that position."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def of(
        self, found: Sequence[torch.Tensor | None], base: Sequence[torch.Tensor | None], factor: float = 1.0
    ) -> tuple[float, str]:
        """The largest relative difference of ``found`` from ``factor * base``, and the name of its position.

        A position that is nothing but rounding of the others does not count; one where base is not finite neither.
        """
        whole = largest(base)
        worst, name = 0.0, ""
        for position, (a, b) in enumerate(zip(found, base, strict=False)):
            if a is None or b is None:
                if (a is None) != (b is None) and largest([a, b]) > 0:
                    return float("inf"), self._name(position)
                continue
            size = largest([b])
            out_of_range = not bool(torch.isfinite(b).all()) or size > HUGE or size < TINY
            if out_of_range and (size >= TINY or not b.numel() or largest([a]) < TINY):
                continue
            slack = SLACK.get(b.dtype, 64.0) * torch.finfo(b.dtype).eps * whole
            relative = (difference(a / factor if factor != 1.0 else a, b) - slack) / max(size, TINY)
            if relative > worst:
                worst, name = relative, self._name(position)
        return worst, name

    def _name(self, position: int) -> str:
        return self.names[position] if position < len(self.names) else ""


def linear_limit(results: Sequence[torch.Tensor | None]) -> float:
    """What rounding may do to an exact comparison, relative to the largest entry."""
    low = [r for r in results if r is not None]
    return max((ROUNDINGS.get(r.dtype, 64.0) * torch.finfo(r.dtype).eps for r in low if differentiable(r)), default=1e-12)


def noise_limit(run: Run, given: Sequence[Any], base: Sequence[torch.Tensor | None], least: float) -> float:
    """What rounding does to sums inside a backward, measured on cotangents x 3, 5 and 7."""
    compare = Experiment([])
    found = [compare.of(run(scaled(given, factor)), base, factor)[0] for factor in (3.0, 5.0, 7.0)]
    return max(least, NOISE * max(found))
