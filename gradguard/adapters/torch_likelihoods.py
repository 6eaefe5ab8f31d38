"""Predictions and labels of likelihoods written by hand, and other losses that leave no node of their own in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.torch_tape import axis_of, kind_of, parents, saved, shape

__all__ = ["Prediction", "constant_factor", "likelihood_of", "margin_zeros", "weighed_softmax"]

TRANSPARENT = {
    "Mean", "Sum", "Neg", "Squeeze", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Add", "ToCopy", "Alias",
    "Select", "Slice",
}
"""What a mean negative log-likelihood passes on its way to the scalar."""
BETWEEN_LOG_AND_CHOICE = {"Add", "Clamp", "ClampMin", "Squeeze", "View"}
MARGINS = {"Relu", "Threshold", "ClampMin", "Clamp", "Softplus"}


@dataclass(frozen=True)
class Prediction:
    """Predictions and labels that an elementary loss saved for its backward, and which loss it was."""

    kind: str
    predicted: torch.Tensor
    labels: torch.Tensor
    own_weights: bool = True
    """Some weights belong to one class each. Where scores are products of outputs (contrastive losses), none does."""
    node: Any = None
    """The node of the graph that made the loss, or a logarithm of probabilities."""
    sign: float = 1.0
    """-1 where it made a logarithm of probabilities, which is to rise."""


def constant_factor(node: Any) -> torch.Tensor | None:
    """The factor of a product that needs no gradient, where it is the only one that does not, and no scalar."""
    if kind_of(node) != "Mul" or len(parents(node)) != 1:
        return None
    factor = saved(node, "self" if node.next_functions[0][0] is None else "other")
    return factor if isinstance(factor, torch.Tensor) and factor.numel() > 1 else None


def summands(loss: torch.Tensor, limit: int = 200) -> Iterator[Any]:
    """The nodes that reach the loss through sums, means, signs, scalars and non-negative weights only."""
    queue: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while queue and len(seen) < limit:
        node = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        kind = kind_of(node)
        scaled = kind in ("Mul", "Div") and len(parents(node)) == 1
        factor = saved(node, "self" if node.next_functions[0][0] is None else "other") if scaled else None
        weight = scaled and (not isinstance(factor, torch.Tensor) or factor.numel() == 1 or bool((factor >= 0).all()))
        if kind in TRANSPARENT or kind.startswith(("Squeeze", "Sub", "Rsub")) or weight:
            queue.extend(parents(node))


def likelihood_of(loss: torch.Tensor) -> Prediction | None:
    """``log_softmax(z).gather(1, y)``, ``log_softmax(z)[arange(n), y]`` or ``(y * log_softmax(z))``, however it is averaged.

    The sign is not asked for: whether the likelihood is raised or lowered is for the rules to judge. None where a factor of
    either sign (an advantage, a reward) stands between the logarithm and the loss.
    """
    for node in summands(loss):
        kind = kind_of(node)
        if kind == "Gather":
            found = _gathered(node)
        elif kind == "Index":
            found = _indexed(node)
        elif kind == "Log":
            above = _next_choice(node)
            found = None if above is None else (_gathered(above) if kind_of(above) == "Gather" else _indexed(above))
        elif kind == "Mul":
            found = _one_hot(node)
        else:
            continue
        if found is not None:
            return found
    return None


def _next_choice(node: Any) -> Any:
    """The gather or index below a logarithm, past a small constant that is added; None where something else is there."""
    for _ in range(4):
        above = parents(node)
        if len(above) != 1:
            return None
        node = above[0]
        if kind_of(node) in ("Gather", "Index"):
            return node
        if kind_of(node) not in BETWEEN_LOG_AND_CHOICE:
            return None
    return None


def _log_probabilities(node: Any) -> tuple[torch.Tensor, int] | None:
    """The result of a softmax or log_softmax as logarithms, and its axis."""
    kind, result, dim = kind_of(node), saved(node, "result"), axis_of(node)
    if kind not in ("LogSoftmax", "Softmax") or not isinstance(result, torch.Tensor) or dim is None:
        return None
    log_p = result.detach() if kind == "LogSoftmax" else result.detach().clamp(min=1e-30).log()
    return log_p, dim % result.ndim


def _gathered(node: Any) -> Prediction | None:
    source = _log_probabilities(parents(node)[0]) if len(parents(node)) == 1 else None
    index, dim = saved(node, "index"), axis_of(node)
    if source is None or not isinstance(index, torch.Tensor) or dim is None:
        return None
    log_p, axis = source
    dim = dim % log_p.ndim
    if dim != axis or index.shape[dim] != 1 or index.numel() * log_p.shape[dim] != log_p.numel():
        return None
    rows = log_p.movedim(dim, -1).reshape(-1, log_p.shape[dim])
    return Prediction("nll", rows, index.detach().reshape(-1), node=node, sign=-1.0)


def _indexed(node: Any) -> Prediction | None:
    source = _log_probabilities(parents(node)[0]) if len(parents(node)) == 1 else None
    indices = saved(node, "indices")
    if source is None or not isinstance(indices, tuple | list) or not indices:
        return None
    log_p, axis = source
    whole = all(isinstance(i, torch.Tensor) and i.dtype in (torch.int64, torch.int32) and i.ndim == 1 for i in indices)
    if not whole or len(indices) != log_p.ndim or axis != log_p.ndim - 1:
        return None
    rows = log_p[tuple(i.detach() for i in indices[:-1])]
    labels = indices[-1].detach()
    return Prediction("nll", rows, labels, node=node, sign=-1.0) if rows.ndim == 2 and len(rows) == len(labels) else None


def _one_hot(node: Any) -> Prediction | None:
    factor = constant_factor(node)
    source = _log_probabilities(parents(node)[0]) if factor is not None and kind_of(parents(node)[0]) == "LogSoftmax" else None
    if factor is None or source is None or factor.shape != source[0].shape:
        return None
    log_p, axis = source
    hot = factor.detach().movedim(axis, -1).reshape(-1, factor.shape[axis])
    if not bool(((hot == 0) | (hot == 1)).all()) or not bool((hot.sum(dim=1) == 1).all()):
        return None
    return Prediction("nll", log_p.movedim(axis, -1).reshape(hot.shape), hot.argmax(dim=1), node=node, sign=-1.0)


def weighed_softmax(node: Any) -> Any:
    """The product in ``constant - probabilities * x``, which is what ``kl_div`` is made of; None where it is not that."""
    if kind_of(node) != "Sub" or len(parents(node)) != 1 or node.next_functions[0][0] is not None:
        return None
    product = parents(node)[0]
    factor = constant_factor(product)
    if factor is None or factor.ndim < 2 or factor.shape != shape(node) or bool((factor < 0).any()):
        return None
    return product if bool(((factor.sum(dim=-1) - 1).abs() < 1e-3).all()) else None


def margin_zeros(node: Any) -> float:
    """The share of labels 0 in ``relu(1 - y * f)`` or ``softplus(-y * f)``, where they take the sample out; else 0."""
    kind = kind_of(node)
    if kind == "SoftMarginLoss":
        return _zeros(saved(node, "target"), 1.0)
    if kind not in MARGINS or (kind == "Clamp" and (saved(node, "min") != 0 or saved(node, "max") is not None)):
        return 0.0
    sign = 1.0
    for _ in range(6):
        above = parents(node)
        if len(above) != 1:
            return 0.0
        node = above[0]
        kind, factor = kind_of(node), constant_factor(node)
        if factor is not None:
            return _zeros(factor, -sign)
        turned = kind in ("Neg", "Rsub") or (kind == "Sub" and node.next_functions[0][0] is None)
        if not turned and kind not in ("Add", "Sub") and not kind.startswith(("Squeeze", "View", "Mul")):
            return 0.0
        sign = -sign if turned else sign
    return 0.0


def _zeros(factor: Any, one: float) -> float:
    """The share of zeros among values that are 0 and ``one`` only, and both."""
    if not isinstance(factor, torch.Tensor) or factor.numel() < 2:
        return 0.0
    zeros = factor == 0
    if not bool((zeros | (factor == one)).all()) or bool(zeros.all()):
        return 0.0
    return float(zeros.float().mean())
