"""The text of a module of scenarios, for tests that write it into a folder: small, torch, one right and several wrong."""

from __future__ import annotations

MODELS = '''
import gradguard as gg
import torch
from torch import nn


class Product(torch.autograd.Function):
    """x @ w.T, whose weight gradient is FACTOR times too large."""

    @staticmethod
    def forward(ctx, x, w, factor):
        ctx.save_for_backward(x, w)
        ctx.factor = factor
        return x @ w.T

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, ctx.factor * (g.T @ x), None


class ScaledLinear(nn.Module):
    def __init__(self, inputs, outputs, factor):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.factor = factor

    def forward(self, x):
        return Product.apply(x, self.weight, self.factor)


def build(*factors):
    torch.manual_seed(0)
    sizes = [4, *([6] * (len(factors) - 1)), 3]
    layers = []
    for i, factor in enumerate(factors):
        layers += [ScaledLinear(sizes[i], sizes[i + 1], factor), nn.Tanh()]
    batch = torch.randn(8, 4), torch.randint(3, (8,))
    loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    return gg.Scenario(model=nn.Sequential(*layers[:-1]), batches=[batch], loss=loss)
'''

RIGHT = """
@gg.scenario
def right():
    return build(1.0, 1.0)
"""

WRONG = """
@gg.scenario
def wrong():
    return build(1.0, 1.01)
"""


def scenario(name: str, *factors: float) -> str:
    """One more scenario with these factors, one a layer."""
    return f"\n@gg.scenario\ndef {name}():\n    return build({', '.join(map(str, factors))})\n"
