"""Bugs of layers: parameters, layouts, shapes, state, recurrences, second order. Numbers as in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from tests.cases.case import Checked, seeded
from tests.mutations.functions import on, values

__all__ = [
    "bias_first_sample", "bias_unsummed", "channels_last_norm", "detached_intermediate", "detached_recurrence",
    "no_weight_gradient", "other_mask", "saved_overwritten", "unbroadcast_first", "unbroadcast_unsummed",
]


class GroupNormFunction(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, wrong: bool) -> torch.Tensor:
        y, mean, rstd = torch.native_group_norm(x, weight, bias, x.shape[0], x.shape[1], x.shape[2] * x.shape[3], groups, 1e-5)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups, ctx.wrong = groups, wrong
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        count, channels, height, width = x.shape
        sizes = (count, channels, height * width, ctx.groups)
        gx, gw, gb = torch.ops.aten.native_group_norm_backward(
            g.contiguous(), x.contiguous(), mean, rstd, weight, *sizes, [True, True, True]
        )
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if ctx.wrong and channels_last:
            gw = gw.reshape(ctx.groups, -1).T.reshape(-1)  # channels in the order of another layout
        return gx, gw, gb, None, None


class GroupNorm(nn.GroupNorm):
    wrong = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return GroupNormFunction.apply(x, self.weight, self.bias, self.num_groups, self.wrong)


def channels_last_norm(wrong: bool) -> Checked:
    model = GroupNorm(2, 6).double()
    model.wrong = wrong
    return Checked(model, (values(2, 6, 3, 3).to(memory_format=torch.channels_last),))


class AffineFunction(Function):
    """x @ weight.T + bias, with the bias' gradient reduced in the way that ``reduce`` says."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, reduce: Callable[..., Any]) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.reduce = reduce
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return g @ weight, g.T @ x, ctx.reduce(g), None


def summed(g: torch.Tensor) -> torch.Tensor:
    return g.sum(0)


def first(g: torch.Tensor) -> torch.Tensor:
    return g[0]


def unsummed(g: torch.Tensor) -> torch.Tensor:
    return g


class Affine(nn.Linear):
    reduce: Callable[..., Any] = staticmethod(summed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return AffineFunction.apply(x, self.weight, self.bias, self.reduce)


def affine(reduce: Callable[..., Any]) -> Checked:
    def make() -> Checked:
        layer = Affine(4, 3)
        layer.reduce = reduce
        return Checked(nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2)).double(), (values(5, 4),))

    return seeded(make, 0)


def bias_first_sample(wrong: bool) -> Checked:
    return affine(first if wrong else summed)


def bias_unsummed(wrong: bool) -> Checked:
    return affine(unsummed if wrong else summed)


class Broadcast(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, row: torch.Tensor, reduce: Callable[..., Any]) -> torch.Tensor:
        ctx.save_for_backward(x, row)
        ctx.reduce = reduce
        return x * row

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, row = ctx.saved_tensors
        return g * row, ctx.reduce(g * x), None


def broadcast(reduce: Callable[..., Any]) -> Checked:
    x, row = values(4, 3).requires_grad_(), values(3, seed=1).requires_grad_()
    return Checked(lambda x, row: Broadcast.apply(x, row, reduce), (x, row))


def unbroadcast_first(wrong: bool) -> Checked:
    return broadcast(first if wrong else summed)


def unbroadcast_unsummed(wrong: bool) -> Checked:
    return broadcast(unsummed if wrong else summed)


class Remade(nn.Module):
    """Dropout under a checkpoint: without the random state, backward draws another mask."""

    def __init__(self, keep_state: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh())
        self.keep_state = keep_state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.body, x, use_reentrant=False, preserve_rng_state=self.keep_state)


def other_mask(wrong: bool) -> Checked:
    return Checked(seeded(lambda: Remade(not wrong).double(), 0), (values(5, 6),))


class Overwritten(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        ctx.wrong = wrong
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (y,) = ctx.saved_tensors
        # As a fused kernel does it: in place, past autograd's counter of versions.
        return (y.data.mul_(g).clone() if ctx.wrong else y * g), None


def saved_overwritten(wrong: bool) -> Checked:
    return on(Overwritten, wrong, values(4, 5))


class RootMeanSquare(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, wrong: bool) -> torch.Tensor:
        rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x, weight, rstd)
        ctx.wrong = wrong
        return x * rstd * weight

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight, rstd = ctx.saved_tensors
        normal, gn = x * rstd, g * weight
        gx = rstd * (gn - normal * (gn * normal).mean(-1, keepdim=True))
        return gx, (None if ctx.wrong else (g * normal).sum(0)), None


class RMSNorm(nn.Module):
    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.ones(width)), wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return RootMeanSquare.apply(x, self.weight, self.wrong)


def no_weight_gradient(wrong: bool) -> Checked:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), RMSNorm(6, wrong), nn.Linear(6, 2)).double(), 0)
    return Checked(model, (values(3, 4),))


class Recurrence(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.cell, self.wrong = nn.RNNCell(3, 4), wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for step in range(x.shape[1]):
            if self.wrong and step > 0:
                h = h.detach()
            h = self.cell(x[:, step], h)
        return h


def detached_recurrence(wrong: bool) -> Checked:
    return Checked(seeded(lambda: Recurrence(wrong).double(), 0), (values(2, 5, 3),))


class DetachedIntermediate(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, wrong: bool) -> torch.Tensor:
        y = x.detach().exp()
        ctx.wrong = wrong
        if wrong:
            ctx.kept = y  # right once; a second backward sees a constant
        else:
            ctx.save_for_backward(x)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        if ctx.wrong:
            return g * ctx.kept, None
        (x,) = ctx.saved_tensors
        return g * x.exp(), None


def detached_intermediate(wrong: bool) -> Checked:
    return Checked(lambda x: DetachedIntermediate.apply(x, wrong), (values(4, 3).requires_grad_(),), {"order": 2})
