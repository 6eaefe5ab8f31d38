"""Layers with a hand-written backward, in which a fault can be planted; without one they are right.

The fault is in the ``autograd.Function`` itself, so that what is wrong is what a user's own kernel would get wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["FAULTS", "Fault", "FaultyConv2d", "FaultyEmbedding", "FaultyLayerNorm", "FaultyLinear", "FaultyScale"]

FAULTS = ("block x1.01", "block x1.0005", "entry zeroed", "entry x1.1", "block x1.1", "entry sign", "block sign")


@dataclass(frozen=True)
class Fault:
    """What a backward does wrong to the gradient of one of its parameters: a factor, on one entry or on all of them."""

    kind: str
    parameter: str
    entry: int = 0

    @property
    def factor(self) -> float:
        """What the gradient is multiplied by."""
        what = self.kind.split(" ", 1)[1]
        return {"zeroed": 0.0, "sign": -1.0}[what] if what in ("zeroed", "sign") else float(what.removeprefix("x"))

    def spoil(self, parameter: str, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """The gradient as the faulty backward returns it."""
        if parameter != self.parameter or gradient is None:
            return gradient
        if self.kind.startswith("block"):
            return gradient * self.factor
        spoiled = gradient.clone()
        spoiled.view(-1)[self.entry] *= self.factor
        return spoiled


def spoil(fault: Fault | None, parameter: str, gradient: torch.Tensor | None) -> torch.Tensor | None:
    return gradient if fault is None else fault.spoil(parameter, gradient)


class LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, fault: Fault | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.fault = fault
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        flat_g, flat_x = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            g @ weight,
            spoil(ctx.fault, "weight", flat_g.T @ flat_x),
            spoil(ctx.fault, "bias", flat_g.sum(0)),
            None,
        )


class ConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: Any, fault: Fault | None) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.fault = padding, fault
        return nn.functional.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gx = nn.grad.conv2d_input(x.shape, weight, g, padding=ctx.padding)
        gw = nn.grad.conv2d_weight(x, weight.shape, g, padding=ctx.padding)
        return gx, spoil(ctx.fault, "weight", gw), spoil(ctx.fault, "bias", g.sum((0, 2, 3))), None, None


class LayerNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, fault: Fault | None) -> Any:
        mean = x.mean(-1, keepdim=True)
        rstd = torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + eps)
        normal = (x - mean) * rstd
        ctx.save_for_backward(normal, rstd, weight)
        ctx.fault = fault
        return normal * weight + bias

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        normal, rstd, weight = ctx.saved_tensors
        along = tuple(range(g.dim() - 1))
        gn = g * weight
        gx = rstd * (gn - gn.mean(-1, keepdim=True) - normal * (gn * normal).mean(-1, keepdim=True))
        return gx, spoil(ctx.fault, "weight", (g * normal).sum(along)), spoil(ctx.fault, "bias", g.sum(along)), None, None


class EmbeddingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, weight: torch.Tensor, fault: Fault | None) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.fault = weight.shape, fault
        return weight[tokens]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (tokens,) = ctx.saved_tensors
        gw = g.new_zeros(ctx.shape).index_add(0, tokens.reshape(-1), g.reshape(-1, g.shape[-1]))
        return None, spoil(ctx.fault, "weight", gw), None


class ScaleFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, fault: Fault | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.fault = fault
        return x * weight

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return g * weight, spoil(ctx.fault, "weight", (g * x).sum(tuple(range(g.dim() - 1)))), None


class FaultyLinear(nn.Linear):
    fault: Fault | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LinearFunction.apply(x, self.weight, self.bias, self.fault)


class FaultyConv2d(nn.Conv2d):
    fault: Fault | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ConvFunction.apply(x, self.weight, self.bias, self.padding, self.fault)


class FaultyLayerNorm(nn.LayerNorm):
    fault: Fault | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LayerNormFunction.apply(x, self.weight, self.bias, self.eps, self.fault)


class FaultyEmbedding(nn.Embedding):
    fault: Fault | None = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return EmbeddingFunction.apply(tokens, self.weight, self.fault)


class FaultyScale(nn.Module):
    fault: Fault | None = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.randn(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ScaleFunction.apply(x, self.weight, self.fault)
