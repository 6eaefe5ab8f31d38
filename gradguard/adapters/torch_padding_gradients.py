"""Derivatives with respect to what is padded: floating-point inputs, and what a lookup gave for padded tokens.

Token ids are never changed: models read their mask from them. The derivative with respect to their embeddings is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.torch_padded_batch import PaddedBatch

__all__ = ["Derivatives", "derivatives"]

INDEXED = {"EmbeddingBackward0": "_saved_indices", "IndexBackward0": "_saved_indices", "IndexSelectBackward0": "_saved_index"}
"""Autograd nodes that look rows up, and where they keep the rows' numbers."""


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """Of one number: by path of the input, the ratio at padded over real positions; and the ratios at outputs.

    ``zeros`` are the paths whose padded values are exactly 0.
    """

    inputs: dict[str, float]
    zeros: frozenset[str]
    outputs: tuple[float, ...] = ()

    def largest(self, *, zero: bool) -> float | None:
        """The largest ratio at inputs whose padded values are (or are not) exactly 0; None without one."""
        return max((r for p, r in self.inputs.items() if (p in self.zeros) == zero), default=None)


def derivatives(
    padded: PaddedBatch,
    value: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    leaves: dict[str, torch.Tensor],
    outputs: list[torch.Tensor],
) -> Derivatives:
    """Derivatives of ``value`` at leaves and lookups of padded inputs, and at outputs (B, T, ...)."""
    if not value.requires_grad:
        return Derivatives(inputs={}, zeros=frozenset())
    arrived: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    handles = []
    for path, node, rows in _lookups(padded, value):

        def arrive(gradients: Any, path: str = path, rows: torch.Tensor = rows) -> None:
            arrived.append((path, gradients[0].detach(), rows))

        handles.append(node.register_prehook(arrive))
    wanted = [*leaves.values(), *outputs]
    try:
        found = torch.autograd.grad(value, [*wanted, *parameters], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    arrived += [(p, g, leaf.detach()) for (p, leaf), g in zip(leaves.items(), found, strict=False) if g is not None]
    inputs: dict[str, float] = {}
    zeros: set[str] = set()
    for path, gradient, values in arrived:
        shown = ratio(padded, _shaped(padded, gradient))
        if shown is not None:
            inputs[path] = max(shown, inputs.get(path, 0.0))
        if not bool(padded.padded(_shaped(padded, values)).any()):
            zeros.add(path)
    ratios = [ratio(padded, g) for g in found[len(leaves) : len(wanted)] if g is not None]
    return Derivatives(inputs=inputs, zeros=frozenset(zeros), outputs=tuple(r for r in ratios if r is not None))


def ratio(padded: PaddedBatch, gradient: torch.Tensor) -> float | None:
    """The largest entry at padded positions over the largest at real ones (at most 1000); None where all are 0."""
    there, here = (float(part.abs().max()) for part in (padded.padded(gradient), padded.real(gradient)))
    return there / max(here, 1e-3 * there) if there or here else None


def _shaped(padded: PaddedBatch, tensor: torch.Tensor) -> torch.Tensor:
    """What was looked up with a flat index, as (B, T, ...)."""
    return tensor if padded.fits(tensor) else tensor.reshape(*padded.shape, *tensor.shape[1:])


def _lookups(padded: PaddedBatch, value: torch.Tensor) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """Nodes of the graph that look up padded tokens (or these and an offset), with the rows that they gave."""
    tokens = {p: padded.laid(t).reshape(-1) for p, t in padded.inputs.items() if not t.is_floating_point()}
    queue, seen = [value.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue.extend(parent for parent, _ in node.next_functions)
        saved = getattr(node, INDEXED.get(node.name(), ""), None)
        index = next((i for i in saved if i is not None), None) if isinstance(saved, tuple) else saved
        if index is None or index.dtype == torch.bool or index.numel() != padded.mask.numel():
            continue
        table = getattr(node.next_functions[0][0], "variable", None)
        flat = padded.laid(index).reshape(-1) if padded.fits(index) else index.reshape(-1)
        for path, ids in tokens.items():
            offset = flat.to(ids) - ids
            if table is not None and bool((offset == offset[0]).all()):
                yield path, node, table.detach()[index]
                break
