"""With which factor the loss of predictions and labels enters what is minimised, read from the graph.

The factor is the derivative of the total with respect to that loss. Of either sign, it weighs samples by a reward or an
advantage, and what looks like labels are actions. Below 0 for all of them, predictions are driven away from their labels.
"""

from __future__ import annotations

from typing import Any

import torch

from gradguard.adapters.torch_batch_parts import tensors_of
from gradguard.adapters.torch_graph import WEIGHTED
from gradguard.adapters.torch_likelihoods import Prediction
from gradguard.adapters.torch_tape import kind_of, parents

__all__ = ["factors_of", "negated", "rewarded"]

ROUNDING = 1e-3
"""A factor below this part of the largest one has no sign of its own."""


def factors_of(loss: torch.Tensor, made: Prediction) -> torch.Tensor | None:
    """The derivative of the total with respect to the loss of each sample, or of all; None where no node made that."""
    if made.node is None:
        return None
    edge = torch.autograd.graph.GradientEdge(made.node, 0)
    (found,) = torch.autograd.grad(loss, [edge], torch.ones_like(loss), retain_graph=True, allow_unused=True)
    return None if found is None else made.sign * found


def rewarded(factors: torch.Tensor | None) -> bool:
    """Whether some samples are to be more likely and others less: no labels are told apart from rewards."""
    if factors is None or not factors.numel():
        return False
    least = ROUNDING * float(factors.abs().max())
    return bool((factors > least).any()) and bool((factors < -least).any())


def negated(loss: torch.Tensor, made: Prediction, batch: Any, factors: torch.Tensor | None, *, maximised: bool = False) -> bool:
    """Whether all that is minimised is this one loss with a factor below 0, the same for all samples.

    Numbers as labels must be the batch's own: to be far from another output may be meant.
    """
    if factors is None or not factors.numel() or not alone(loss, made.node) or not given(made, batch):
        return False
    factors = -factors if maximised else factors
    used = factors[factors != 0]  # of a matrix of classes only the chosen ones are used
    return bool(used.numel()) and bool((used == used[0]).all()) and bool(used[0] < 0)


def alone(loss: torch.Tensor, node: Any, limit: int = 400) -> bool:
    """Whether a total depends on weights by this node only."""
    queue, seen = [loss.grad_fn], {node}
    while queue and len(seen) < limit:
        here = queue.pop(0)
        if here in seen:
            continue
        if kind_of(here) in WEIGHTED or "AccumulateGrad" in kind_of(here):
            return False
        seen.add(here)
        queue.extend(parents(here))
    return not queue


def given(made: Prediction, batch: Any) -> bool:
    """Whether labels are classes, or numbers that stand in the batch, whatever their order and shape."""
    if not made.labels.is_floating_point():
        return True
    labels = made.labels.reshape(-1).sort().values
    parts = (part.detach().to(labels).reshape(-1) for part in tensors_of(batch).values() if part.numel() == labels.numel())
    return any(torch.allclose(part.sort().values, labels, rtol=1e-4) for part in parts)
