"""The entropy of attention weights in a look, per head: softmax, fused attention, and ``nn.MultiheadAttention``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from gradguard.adapters.observing_base import AttentionFacts
from gradguard.adapters.torch_tape import kind_of, parents

__all__ = ["AttentionSums"]

MASKED = -1e8
"""Attention scores below this are masks, not scores."""
FEWEST = 4
"""Keys below which the entropy of a row says little."""
PASSED = {"View", "UnsafeView", "ReshapeAlias", "Add", "Mul", "Div", "MaskedFill", "Clone", "Squeeze", "Unsqueeze", "ToCopy"}
"""What may stand between a score and the linear layer that made it."""
SAMPLES = 8
"""Samples of a batch that are enough."""


class AttentionSums:
    """Entropy over the logarithm of the number of keys, for each layer and pass."""

    def __init__(self) -> None:
        self.single: dict[str, bool] = {}
        """Layers with a softmax over the one output of a linear layer, and whether that was so in every call."""
        self.rows: dict[str, list[tuple[np.ndarray[Any, Any], int, int]]] = {}

    def scores(self, here: str, scores: torch.Tensor) -> None:
        """Scores (..., heads, queries, keys) of a softmax over the last axis; rows with few keys are left out."""
        scores = scores[: min(SAMPLES, scores.shape[0])].float()
        if scores.ndim == 3:
            scores = scores.unsqueeze(1)
        elif scores.ndim > 4:
            scores = scores.reshape(-1, *scores.shape[-3:])
        keep = torch.isfinite(scores) & (scores > MASKED)
        keys = keep.sum(dim=-1)
        logits = scores.masked_fill(~keep, -math.inf)
        p = torch.softmax(logits, dim=-1).nan_to_num(0.0)
        entropy = -(p * p.clamp_min(1e-30).log()).sum(-1) / keys.clamp_min(2).double().log()
        wide = keys >= FEWEST
        counts = wide.sum(dim=(0, 2))
        if not bool((counts > 0).all()):
            return
        mean = (entropy * wide).sum(dim=(0, 2)) / counts
        self.rows.setdefault(here, []).append((mean.double().cpu().numpy(), int(counts.sum()), int(keys.max())))

    def softmax(self, here: str, args: Any, kwargs: Any) -> None:
        """A softmax over the last of at least three axes."""
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if args[0].ndim >= 3 and isinstance(dim, int):
            self.single[here] = self.single.get(here, True) and one_score(args[0], dim)
        if args[0].ndim >= 3 and dim in (-1, args[0].ndim - 1) and args[0].shape[-1] >= FEWEST:
            self.scores(here, args[0].detach())

    def dot_product(self, here: str, args: Any, kwargs: Any) -> None:
        """``scaled_dot_product_attention``: the scores again, from queries and keys."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key = given["query"].detach(), given["key"].detach()
        if query.ndim < 3 or key.shape[-2] < FEWEST:
            return
        query, key = query[:SAMPLES].float(), key[:SAMPLES].float()
        if query.ndim == 4 and key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-1, -2) * scale
        mask = given.get("attn_mask")
        if isinstance(mask, torch.Tensor):
            mask = mask.detach()
            mask = mask[:SAMPLES] if mask.ndim == scores.ndim and mask.shape[0] > SAMPLES else mask
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if given.get("is_causal"):
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        self.scores(here, scores)

    def multi_head(self, here: str, args: Any, kwargs: Any) -> None:
        """Ask the same call for its weights, without dropout."""
        options = dict(kwargs) | {"training": False, "need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            _, weights = functional.multi_head_attention_forward(*args, **options)
        if weights is not None and weights.ndim == 4 and weights.shape[-1] >= FEWEST:
            self.scores(here, weights.clamp_min(1e-38).log().masked_fill(weights == 0, -80.0))

    def facts(self) -> tuple[AttentionFacts, ...]:
        """The mean entropy of each layer's heads over its rows."""
        result = []
        for layer, rows in self.rows.items():
            same = [r for r in rows if r[0].shape == rows[0][0].shape]
            weights = np.array([r[1] for r in same], dtype=np.float64)
            entropy = sum(r[0] * w for r, w in zip(same, weights, strict=True)) / weights.sum()
            result.append(
                AttentionFacts(layer=layer, entropy=np.asarray(entropy), rows=int(weights.sum()), keys=max(r[2] for r in same))
            )
        return tuple(result)


def one_score(scores: torch.Tensor, dim: int) -> bool:
    """(B, T, 1) made by a linear layer with one output: along that axis there is nothing to choose from, along T there is."""
    last = dim in (-1, scores.ndim - 1) and scores.shape[-1] == 1
    node = scores.grad_fn
    if not last or node is None or not any(n > 1 for n in scores.shape[1:-1]):
        return False
    for _ in range(6):
        kind = kind_of(node)
        if kind in ("Addmm", "Mm", "Linear", "MkldnnLinear"):
            return True
        above = parents(node)
        if kind not in PASSED or len(above) != 1:
            return False
        node = above[0]
    return False
