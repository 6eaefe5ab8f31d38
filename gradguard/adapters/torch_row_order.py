"""Predictions and labels that were flattened in different orders: ``view`` where ``transpose`` or ``permute`` was due."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gradguard.adapters.torch_likelihoods import Prediction

__all__ = ["row_order"]

DEPTH = 3


def row_order(made: Prediction, output: torch.Tensor | None, batch: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes of output and labels where the loss compares their rows in different orders; None where it does not.

    The loss got ``output.reshape(-1, C)`` and ``labels.reshape(-1)`` of labels (B, T) in the batch, but the output is
    (T, B, C), or (B, C, T). Said only where the shapes leave no doubt (T and B, or C and T, differ) and both were seen to
    be flattened as they are.
    """
    if made.kind != "nll" or output is None or output.ndim != 3 or not output.is_floating_point():
        return None
    p, y = made.predicted, made.labels.reshape(-1)
    if p.ndim != 2 or p.numel() != output.numel() or len(p) != len(y):
        return None
    a, b, c = output.shape
    classes = p.shape[1]
    for labels in _integers(batch, DEPTH):
        if labels.ndim != 2 or labels.numel() != len(y):
            continue
        transposed = c == classes and tuple(labels.shape) == (b, a) and a != b
        classes_first = b == classes and tuple(labels.shape) == (a, c) and c != classes
        if not (transposed or classes_first) or not torch.equal(labels.reshape(-1).to(y), y):
            continue
        flat = output.detach().reshape(-1, classes)
        if torch.allclose(flat.log_softmax(1).to(p), p, atol=1e-5) or torch.allclose(flat.to(p), p, atol=1e-5):
            return tuple(output.shape), tuple(labels.shape)
    return None


def _integers(value: Any, depth: int) -> Iterator[torch.Tensor]:
    """The integer tensors of a batch, also in lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point() and value.dtype != torch.bool:
            yield value
    elif isinstance(value, dict):
        yield from _integers(list(value.values()), depth)
    elif isinstance(value, list | tuple) and depth:
        for one in value:
            yield from _integers(one, depth - 1)
