"""Variants of tensors: made as NumPy arrays, written back with the tensor's dtype, device and ``requires_grad``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gradguard.adapters.variants import Variant, variants_of
from gradguard.errors import UsageError

__all__ = ["tensor_of", "torch_variants"]


def torch_variants(inputs: Any) -> Iterator[Variant]:
    """The variants of a container of tensors; parameters and sparse tensors among them stay as they are."""
    return variants_of(inputs, _able, _read, _write)


def _able(value: Any) -> bool:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return plain and value.layout == torch.strided and value.is_leaf


def _read(value: torch.Tensor) -> Any:
    low = value.detach().resolve_conj().resolve_neg()
    return (low.double() if low.is_floating_point() else low).cpu().numpy()


def _write(array: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(array).to(like.device, like.dtype).requires_grad_(like.requires_grad)


def tensor_of(array: Any, dtype: str, layout: str, *, requires_grad: bool) -> torch.Tensor:
    """A tensor of an array's values in a memory layout: contiguous, transposed, strided, expanded or channels_last.

    Raises:
        UsageError: torch has no such dtype.
    """
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype):
        raise UsageError(f"torch has no dtype {dtype!r}", todo="for example float64, float32 or bfloat16")
    plain = torch.tensor(array, dtype=wanted)
    if layout == "expanded" and plain.dim() and plain.numel():
        plain = plain[:1].expand(plain.shape)
    elif layout == "channels_last" and plain.dim() == 4:
        plain = plain.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed" and plain.dim() >= 2:
        axes = list(range(plain.dim()))[::-1]
        plain = plain.permute(axes).contiguous().permute(axes)
    elif layout == "strided" and plain.dim():
        wide = torch.zeros((*plain.shape[:-1], 2 * plain.shape[-1]), dtype=wanted)
        wide[..., ::2] = plain
        plain = wide[..., ::2]
    return plain.detach().requires_grad_(requires_grad)
