"""Random architectures by seed, from 10 parameters to a million, of layers in which a fault can be planted."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.cases.case import Case, Checked, seeded
from tests.cases.faulty import (
    Fault,
    FaultyConv2d,
    FaultyEmbedding,
    FaultyLayerNorm,
    FaultyLinear,
    FaultyScale,
)

__all__ = ["SIZES", "Trial", "architecture_cases", "planted", "trial"]

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
ACTIVATIONS = (nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ReLU, nn.Softplus)


@dataclass
class Trial:
    """A model, its inputs and its loss, and what was planted in it.

    ``block`` is the parameter whose gradient is wrong, ``error`` the size of the fault relative to the block's gradient,
    ``largest`` the largest entry of any gradient.
    """

    model: nn.Module
    inputs: Any
    loss: Callable[[Any], torch.Tensor] | None
    parameters: int
    family: str
    fault: Fault | None = None
    block: str = ""
    error: float = 0.0
    largest: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        return {"loss": self.loss} if self.loss is not None else {}


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Attention(nn.Module):
    """One head, causal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (FaultyLinear(width, width) for _ in range(3))
        self.out = FaultyLinear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        return self.out(mixed)


class Recurrent(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.into, self.back = FaultyLinear(inputs, width), FaultyLinear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], self.back.in_features)
        for step in range(x.shape[1]):
            h = torch.tanh(self.into(x[:, step]) + self.back(h))
        return h


def trial(seed: int, size: int | None = None, *, scale: float = 1.0) -> Trial:
    """A random architecture of about ``size`` parameters (random from SIZES without one), right in every part.

    ``scale`` multiplies the loss: with 1e-12 every gradient is far below 1e-8.
    """
    choose = random.Random(seed)
    size = size or choose.choice(SIZES)
    families = [mlp, scaled] if size < 100 else [mlp, scaled, residual, convolution, attention, recurrent]
    family = choose.choice(families)
    model, inputs, classes = seeded(lambda: family(choose, size), seed)
    if choose.random() < 0.5:
        model = model.double()
        inputs = inputs.double() if inputs.is_floating_point() else inputs
    parameters = sum(p.numel() for p in model.parameters())
    return Trial(model, inputs, _loss(choose, seed, scale, classes), parameters, family.__name__)


def planted(seed: int, kind: str, size: int | None = None, *, scale: float = 1.0) -> Trial:
    """The same architecture with one fault of that kind in the backward of one layer, in a block that has a gradient."""
    found = trial(seed, size, scale=scale)
    gradients = _gradients(found)
    layers = {name: m for name, m in found.model.named_modules() if hasattr(m, "fault")}
    places = [
        (name, parameter)
        for name, layer in layers.items()
        for parameter, _ in layer.named_parameters(recurse=False)
        if _has_gradient(gradients, _join(name, parameter))
    ]
    choose = random.Random(seed + 1)
    name, parameter = choose.choice(places)
    gradient = gradients[_join(name, parameter)].reshape(-1)
    rms = float(gradient.square().mean().sqrt())
    large = torch.nonzero(gradient.abs() >= 0.1 * rms).reshape(-1).tolist()
    entry = choose.choice(large)
    fault = Fault(kind, parameter, entry)
    layers[name].fault = fault
    wrong = fault.spoil(parameter, gradient.clone()) - gradient
    found.fault, found.block = fault, _join(name, parameter)
    found.error = float(wrong.norm() / gradient.norm())
    found.largest = max(float(g.abs().max()) for g in gradients.values())
    return found


def architecture_cases(count: int = 40) -> list[Case]:
    """Unharmed architectures, as rows of the corpus of right cases."""

    def make(seed: int) -> Callable[[], Checked]:
        def arguments() -> Checked:
            found = trial(seed, SIZES[seed % 5])
            return Checked(found.model, found.inputs, found.options)

        return arguments

    return [Case(f"architecture {seed}", make(seed), seed=seed) for seed in range(count)]


def mlp(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    depth = choose.randint(1, 2 if size < 100 else 6)
    width = max(2, round((size / depth) ** 0.5))
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [FaultyLinear(width, width), choose.choice(ACTIVATIONS)()]
    return nn.Sequential(*layers[:-1]), torch.randn(4, width), width


def scaled(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    width = max(2, round(size**0.5 / 1.5)) if size >= 100 else 3
    layers = [FaultyScale(width), choose.choice(ACTIVATIONS)(), FaultyLinear(width, width), FaultyScale(width)]
    return nn.Sequential(*layers), torch.randn(3, width), width


def residual(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    depth = choose.randint(1, 4)
    width = max(3, round((size / depth / 4) ** 0.5))
    blocks = [
        Residual(
            FaultyLayerNorm(width), FaultyLinear(width, 2 * width), choose.choice(ACTIVATIONS)(), FaultyLinear(2 * width, width)
        )
        for _ in range(depth)
    ]
    return nn.Sequential(*blocks, FaultyLayerNorm(width), FaultyLinear(width, 5)), torch.randn(4, width), 5


def convolution(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    depth = choose.randint(1, 3)
    width = max(2, round((size / depth / 9) ** 0.5))
    layers: list[nn.Module] = [FaultyConv2d(3, width, 3, padding=1), choose.choice(ACTIVATIONS)()]
    for _ in range(depth - 1):
        layers += [FaultyConv2d(width, width, 3, padding=1), choose.choice((nn.Tanh, nn.ReLU))()]
    head = FaultyLinear(width, 4)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), torch.randn(2, 3, 6, 6), 4


def attention(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    depth = choose.randint(1, 3)
    width = max(4, round((size / depth / 5) ** 0.5))
    words = max(5, min(1000, size // (4 * width)))
    blocks = [Residual(FaultyLayerNorm(width), Attention(width)) for _ in range(depth)]
    model = nn.Sequential(FaultyEmbedding(words, width), *blocks, FaultyLayerNorm(width), FaultyLinear(width, 6))
    return model, torch.randint(0, words, (2, 7)), 6


def recurrent(choose: random.Random, size: int) -> tuple[nn.Module, torch.Tensor, int]:
    width = max(3, round((size / 2) ** 0.5))
    return nn.Sequential(Recurrent(width, width), FaultyLinear(width, 3)), torch.randn(3, 5, width), 3


def _loss(choose: random.Random, seed: int, scale: float, classes: int) -> Callable[[Any], torch.Tensor] | None:
    kind = choose.choice(("squares", "cross-entropy", "cotangent") if scale == 1.0 else ("squares", "cross-entropy"))
    if kind == "cotangent":
        return None
    if kind == "squares":
        return lambda out: scale * (out - 0.3).square().mean()
    labels = torch.randint(0, classes, (1000,), generator=torch.Generator().manual_seed(seed))

    def cross_entropy(out: torch.Tensor) -> torch.Tensor:
        flat = out.reshape(-1, out.shape[-1])
        return scale * functional.cross_entropy(flat, labels[: len(flat)])

    return cross_entropy


def _gradients(found: Trial) -> dict[str, torch.Tensor]:
    """The right gradients in float64; with a random cotangent in place of a loss."""
    model = copy.deepcopy(found.model).double()
    inputs = found.inputs.double() if found.inputs.is_floating_point() else found.inputs
    output = model(inputs)
    value = found.loss(output) if found.loss else (output * torch.linspace(-1, 1.3, output.numel()).reshape(output.shape)).sum()
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))


def _has_gradient(gradients: dict[str, torch.Tensor], name: str) -> bool:
    """Whether it is there: not zero, nor only rounding (a key's bias in attention, a bias before a normalisation)."""
    norms = {n: float(g.norm()) for n, g in gradients.items()}
    return norms[name] > 1e-9 * max(norms.values())


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
