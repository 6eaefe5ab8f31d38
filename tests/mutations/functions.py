"""Bugs of one function: cotangents, layouts, indices, blocks, and points that divide by zero. Numbers as in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function

from tests.cases.case import Checked

__all__ = [
    "bce_with_logits", "cumprod", "dropped_cotangent", "gather", "grouped_heads", "norm", "partial_block", "softplus",
    "storage_order", "storage_order_transposed", "swapped_branches", "swish", "untaken_branch",
]

BLOCK = 4
"""Columns that the blocked kernel of number 8 works on at a time."""


def on(function: type[Function], wrong: bool, *inputs: torch.Tensor, after: Callable[..., Any] | None = None) -> Checked:
    """``function.apply(*inputs, wrong)`` on leaves, and what comes after it."""

    def f(*tensors: torch.Tensor) -> Any:
        result = function.apply(*tensors, wrong)
        return after(result) if after else result

    # Positional names for the report come from the signature: *tensors are tensors[0], tensors[1], ...
    return Checked(f, tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs))


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class DroppedCotangent(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return (x.cos() if ctx.wrong else g * x.cos()), None


def dropped_cotangent(wrong: bool) -> Checked:
    return on(DroppedCotangent, wrong, values(4, 5))


class Swish(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        inner = x * s * (1 - s)
        return g * s + (inner if ctx.wrong else g * inner), None


def swish(wrong: bool) -> Checked:
    return on(Swish, wrong, values(4, 5))


class StorageOrder(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x * x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if ctx.wrong:  # reads the storage from its start, whatever the strides; an expanded one is shorter than it looks
            stored = torch.as_strided(g, (g.untyped_storage().nbytes() // g.element_size(),), (1,), 0)
            order = torch.arange(g.numel()) % len(stored)
            g = stored[order].reshape(g.shape)
        return 2 * x * g, None


def storage_order(wrong: bool) -> Checked:
    return on(StorageOrder, wrong, values(4, 5))


def storage_order_transposed(wrong: bool) -> Checked:
    return on(StorageOrder, wrong, values(4, 5), after=lambda y: y.T.reshape(-1))


class Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.wrong, ctx.shape = wrong, x.shape
        return x[index]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (index,) = ctx.saved_tensors
        gx = g.new_zeros(ctx.shape)
        if ctx.wrong:
            for row, target in enumerate(index.tolist()):
                gx[target] = g[row]  # the last one wins
        else:
            gx.index_add_(0, index, g)
        return gx, None, None


def gather(wrong: bool) -> Checked:
    return on(Gather, wrong, values(6, 3), torch.tensor([0, 2, 2, 5]))


class PartialBlock(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        gx = torch.zeros_like(x)
        columns = x.shape[1]
        last = columns // BLOCK * BLOCK if ctx.wrong else columns
        for start in range(0, last, BLOCK):
            here = slice(start, start + BLOCK)
            gx[:, here] = g[:, here] * x[:, here].exp()
        return gx, None


def partial_block(wrong: bool) -> Checked:
    return on(PartialBlock, wrong, values(3, 2 * BLOCK + 1))


class GroupedHeads(Function):
    """Scores of H query heads against G key heads; query head h belongs to key head h // (H / G)."""

    @staticmethod
    def forward(ctx: Any, queries: torch.Tensor, keys: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(queries, keys)
        ctx.wrong = wrong
        return torch.einsum("hqd,hkd->hqk", queries, keys.repeat_interleave(len(queries) // len(keys), 0))

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        queries, keys = ctx.saved_tensors
        heads, groups = len(queries), len(keys)
        expanded = keys.repeat_interleave(heads // groups, 0)
        gk = torch.zeros_like(keys)
        for head in range(heads):
            group = head % groups if ctx.wrong else head // (heads // groups)
            gk[group] += g[head].T @ queries[head]
        return torch.einsum("hqk,hkd->hqd", g, expanded), gk, None


def grouped_heads(wrong: bool) -> Checked:
    return on(GroupedHeads, wrong, values(4, 3, 2), values(2, 5, 2, seed=1))


class CumulativeProduct(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        y = torch.cumprod(x, 0)
        ctx.save_for_backward(x, y)
        ctx.wrong = wrong
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, y = ctx.saved_tensors
        if ctx.wrong:
            return (g * y).flip(0).cumsum(0).flip(0) / x, None
        gx = torch.zeros_like(x)
        for i in range(len(x)):
            rest = x.clone()
            rest[i] = 1
            gx[i] = (g * torch.cumprod(rest, 0))[i:].sum()
        return gx, None


def cumprod(wrong: bool) -> Checked:
    return on(CumulativeProduct, wrong, torch.tensor([2.0, 0.0, 3.0, -1.0], dtype=torch.float64))


class Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        y = x.square().sum(-1).sqrt()
        ctx.save_for_backward(x, y)
        ctx.wrong = wrong
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, y = ctx.saved_tensors
        direction = x / y[..., None] if ctx.wrong else torch.where(y[..., None] > 0, x / y[..., None], 0.0)
        return g[..., None] * direction, None


def norm(wrong: bool) -> Checked:
    return on(Norm, wrong, torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))


def untaken_branch(wrong: bool) -> Checked:
    def safe(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)

    def unsafe(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x.sqrt(), 0.0)

    x = torch.tensor([0.5, -0.7, 2.0], dtype=torch.float64)
    return Checked(unsafe if wrong else safe, (x.requires_grad_(),))


class LogisticLoss(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, labels: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x, labels)
        ctx.wrong = wrong
        return x.clamp(min=0) - x * labels + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, labels = ctx.saved_tensors
        slope = x.sigmoid() - labels
        return g * (torch.where(x == 0, 0.0, slope) if ctx.wrong else slope), None, None


def bce_with_logits(wrong: bool) -> Checked:
    x = torch.tensor([0.0, 1.5, -0.3, 0.0], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    return Checked(lambda x: LogisticLoss.apply(x, labels, wrong), (x.requires_grad_(),))


class SwappedBranches(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return (torch.where(x > 0, 0.1 * g, g) if ctx.wrong else torch.where(x > 0, g, 0.1 * g)), None


def swapped_branches(wrong: bool) -> Checked:
    return on(SwappedBranches, wrong, values(4, 5))


class Softplus(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return torch.nn.functional.softplus(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * (x.exp() / (1 + x.exp()) if ctx.wrong else x.sigmoid()), None


def softplus(wrong: bool) -> Checked:
    return on(Softplus, wrong, torch.tensor([0.5, -2.0, 12.0, 3.0], dtype=torch.float16))
