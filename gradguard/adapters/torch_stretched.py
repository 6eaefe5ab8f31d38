"""Predictions that are stretched to (N, N): asked again with one sample less, because N may be the number of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gradguard.adapters.observing_base import LossFacts
from gradguard.adapters.torch_batch_parts import mapped, tensors_of
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_graph import losses_of
from gradguard.adapters.torch_untouched import preserved_rng
from gradguard.errors import INTERRUPTS

__all__ = ["confirmed"]


def confirmed(session: Session, batch: Any, losses: Sequence[LossFacts]) -> tuple[LossFacts, ...]:
    """The losses, without those stretches that are not square any more for a batch of one sample less.

    (N, 1) against N features is meant, and looks the same as (N, 1) against (N,) labels while there are as many features as
    samples. A batch that cannot be cut says nothing.
    """
    sizes = {facts.broadcast[1][-1] for facts in losses if facts.broadcast}
    n = next(iter(sizes), 0)
    if len(sizes) != 1 or n < 3 or not any(t.ndim and t.shape[0] == n for t in tensors_of(batch).values()):
        return tuple(losses)
    less = mapped(batch, lambda _, t: t[:-1] if t.ndim and t.shape[0] == n else t)
    try:
        with preserved_rng(0), torch.enable_grad(), kept_buffers(session.model):
            again = losses_of(session.loss(less))
    except INTERRUPTS:
        raise
    except Exception:  # it takes no such batch
        return tuple(losses)
    if any(facts.broadcast and facts.broadcast[1][-1] == n - 1 for facts in again):
        return tuple(losses)
    return tuple(replace(facts, broadcast=()) if facts.broadcast else facts for facts in losses)
