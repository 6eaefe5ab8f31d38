"""Operators that have no float64 kernel, made of others that have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["WIDE"]


def grouped_mm(
    first: torch.Tensor,
    second: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Products of matrices by group, as ``aten._grouped_mm``; ``offs`` (G,) is where each group ends.

    (T, K) x (G, K, N) -> (T, N): groups of rows. (G, M, K) x (K, T) -> (M, T): groups of columns. (M, T) x (T, N) ->
    (G, M, N): groups of what is summed over. (G, M, K) x (G, K, N) -> (G, M, N). What belongs to no group is 0.
    """
    if offs is None:
        result = first @ second
    else:
        ends = offs.tolist()
        groups = list(zip([0, *ends[:-1]], ends, strict=True))
        if first.dim() == 2 and second.dim() == 2:
            result = torch.stack([first[:, start:end] @ second[start:end] for start, end in groups])
        elif first.dim() == 2:
            result = first.new_zeros(first.shape[0], second.shape[-1])
            for matrix, (start, end) in zip(second, groups, strict=True):
                result[start:end] = first[start:end] @ matrix
        else:
            result = first.new_zeros(first.shape[1], second.shape[1])
            for matrix, (start, end) in zip(first, groups, strict=True):
                result[:, start:end] = matrix @ second[:, start:end]
    return result if bias is None else result + bias


def _known(name: str, replacement: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """The operator of that name, where this torch has it."""
    packet = getattr(torch.ops.aten, name, None)
    return {packet.default: replacement} if packet is not None else {}


WIDE: dict[Any, Callable[..., Any]] = _known("_grouped_mm", grouped_mm)
"""Operator -> what computes the same in any precision."""
