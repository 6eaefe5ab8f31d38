"""Tensors inside a batch, whatever containers it is made of: found, replaced, and cut to one sample and some positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["SameRows", "mapped", "one_sample", "tensors_of"]


def mapped(batch: Any, change: Callable[[str, torch.Tensor], Any], path: str = "batch") -> Any:
    """The batch with ``change(path, tensor)`` in the place of every tensor; what is no container stays itself."""
    if isinstance(batch, torch.Tensor):
        return change(path, batch)
    if isinstance(batch, Mapping):
        items = {k: mapped(v, change, f"{path}[{k!r}]") for k, v in batch.items()}
        if type(batch) is dict:
            return items
        try:
            return type(batch)(items)  # type: ignore[call-arg]  # a mapping of the user's that takes a dict, or does not
        except TypeError:
            return items
    if isinstance(batch, list | tuple):
        parts = [mapped(v, change, f"{path}[{i}]") for i, v in enumerate(batch)]
        if isinstance(batch, list):
            return parts
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = [f.name for f in dataclasses.fields(batch) if f.init]
        return dataclasses.replace(batch, **{n: mapped(getattr(batch, n), change, f"{path}.{n}") for n in fields})
    return batch


def tensors_of(batch: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by its path, ``batch[0]`` or ``batch['input_ids']``."""
    found: dict[str, torch.Tensor] = {}

    def keep(path: str, tensor: torch.Tensor) -> torch.Tensor:
        found[path] = tensor
        return tensor

    mapped(batch, keep)
    return found


class SameRows:
    """Whether all samples, along the first axis of what a model is given, are the same over all batches."""

    def __init__(self) -> None:
        self._first: dict[str, torch.Tensor] = {}
        self._count = 0
        self._same = True
        self.alike = True
        """Whether the samples of each batch are the same, as far as is known."""

    @property
    def count(self) -> int:
        """The number of samples; 0 where they differ, or nothing has a first axis of samples."""
        return self._count if self._same else 0

    def add(self, given: Any) -> None:
        """One batch's inputs; what has another first extent than the first tensor (positions) is not of samples."""
        every = tensors_of(given)
        found = {path: t.detach() for path, t in every.items() if t.ndim and t.shape[0]}
        if any(t.layout != torch.strided for t in every.values()):  # rows of a sparse matrix are not compared
            self._same = self.alike = False
        if not found or not (self._same or self.alike):
            return
        n = next(iter(found.values())).shape[0]
        rows = {path: t for path, t in found.items() if t.shape[0] == n}
        self.alike = self.alike and all(bool((t == t[:1]).all()) for t in rows.values())
        if not self._first:
            self._first = {path: t[:1].clone() for path, t in rows.items()}
        self._count += n
        fitting = all(p in rows and rows[p].shape[1:] == one.shape[1:] for p, one in self._first.items())
        self._same = fitting and all(bool((rows[p] == one).all()) for p, one in self._first.items())


def one_sample(batch: Any, row: int, shape: tuple[int, int], keep: slice) -> Any:
    """The batch of one sample, with only the positions ``keep``; ``shape`` is (B, T), also found transposed."""
    samples, positions = shape

    def cut(path: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim and tensor.shape[0] == samples:
            tensor = tensor[row : row + 1]
            return tensor[:, keep] if tensor.ndim > 1 and tensor.shape[1] == positions else tensor
        if tensor.ndim > 1 and tuple(tensor.shape[:2]) == (positions, samples):
            return tensor[keep, row : row + 1]
        return tensor

    return mapped(batch, cut)
