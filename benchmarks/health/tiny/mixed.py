"""More hand-written torch modules: mixers, graphs, gates, capsules, latent attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.health.tiny.batches import CLASSES
from benchmarks.health.tiny.plain import Built, entropy, pictured

__all__ = ["MIXED"]


def patches(x: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, 16, 16) as patches (B, 16, 48)."""
    return functional.unfold(x, 4, stride=4).transpose(1, 2)


class Mixer(nn.Module):
    """Across positions, then across channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.across = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.along = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.along(self.norm2(x))


class Gated(nn.Module):
    """A block of gMLP: the gate mixes positions, and starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.into, self.out = nn.Linear(24, 48), nn.Linear(24, 24)
        self.across = nn.Conv1d(16, 16, 1)
        nn.init.normal_(self.across.weight, std=1e-6)
        nn.init.ones_(self.across.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, gate = functional.gelu(self.into(self.norm(x))).chunk(2, -1)
        return x + self.out(kept * self.across(self.norm2(gate)))


class Pooled(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Linear(48, 24), nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(patches(x)))).mean(1))


def mixer() -> Built:
    return Pooled(Mixer(), Mixer()), pictured(), entropy


def gmlp() -> Built:
    return Pooled(Gated(), Gated(), Gated()), pictured(), entropy


class Perceiver(nn.Module):
    """A few latent vectors look at all patches, then at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(6, 24) * 0.02)
        self.place = nn.Parameter(torch.randn(16, 24) * 0.02)
        self.embed = nn.Linear(48, 24)
        self.cross = nn.MultiheadAttention(24, 4, batch_first=True)
        self.norm = nn.LayerNorm(24)
        self.inner = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, norm_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.embed(patches(x)) + self.place
        latents = self.latents.expand(len(x), -1, -1)
        latents = latents + self.cross(self.norm(latents), seen, seen, need_weights=False)[0]
        return self.head(self.inner(latents).mean(1))


def perceiver() -> Built:
    return Perceiver(), pictured(), entropy


class Capsules(nn.Module):
    """Eight small capsules vote for one large capsule of each class, in three rounds of routing."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.primary = nn.Conv2d(3, 16, 5, stride=2), nn.Conv2d(16, 16, 3, stride=2)
        self.votes = nn.Parameter(torch.randn(CLASSES, 16, 8, 4) * 0.1)

    @staticmethod
    def squashed(x: torch.Tensor) -> torch.Tensor:
        size = x.square().sum(-1, keepdim=True)
        return size / (1 + size) * x / (size + 1e-8).sqrt()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = self.squashed(self.primary(functional.relu(self.convolution(x))).flatten(1).reshape(len(x), -1, 8)[:, :16])
        votes = torch.einsum("bnd,cnde->bcne", small, self.votes[:, : small.shape[1]])
        routes = votes.new_zeros(votes.shape[:3])
        for _ in range(3):
            large = self.squashed((routes.softmax(1)[..., None] * votes).sum(2))
            routes = routes + (votes * large[:, :, None].detach()).sum(-1)
        return large.norm(dim=-1)


def margins(model: Any, batch: Any) -> Any:
    sizes, truth = model(batch[0]), functional.one_hot(batch[1], CLASSES)
    return (truth * (0.9 - sizes).relu().square() + 0.5 * (1 - truth) * (sizes - 0.1).relu().square()).sum(1).mean()


def capsules() -> Built:
    return Capsules(), pictured(), margins


class Highway(nn.Module):
    def __init__(self, layers: int = 8) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(20, 24), nn.Linear(24, CLASSES)
        self.layers, self.gates = (nn.ModuleList(nn.Linear(24, 24) for _ in range(layers)) for _ in range(2))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            opened = gate(x).sigmoid()
            x = opened * layer(x).relu() + (1 - opened) * x
        return self.head(x)


def highway() -> Built:
    return Highway(), lambda: (torch.randn(8, 20), torch.randint(0, CLASSES, (8,))), entropy


class Graph(nn.Module):
    """Attention over the neighbours in a graph of 12 nodes, twice; scatter and gather."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16)
        self.scores = nn.ParameterList(nn.Parameter(torch.randn(32) * 0.1) for _ in range(2))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        for layer, score in zip((self.first, self.second), self.scores, strict=True):
            h = layer(x)
            weight = functional.leaky_relu(torch.cat([h[edges[0]], h[edges[1]]], -1) @ score, 0.2).exp()
            total = h.new_zeros(len(h)).index_add(0, edges[1], weight)
            mixed = torch.zeros_like(h).index_add(0, edges[1], weight[:, None] * h[edges[0]])
            x = functional.elu(mixed / total[:, None])
        return self.head(x)


def joined() -> Any:
    ring = torch.arange(12)
    edges = torch.cat([torch.stack([ring, ring]), torch.stack([ring, (ring + 1) % 12]), torch.randint(0, 12, (2, 12))], 1)
    return torch.randn(12, 8), edges, torch.randint(0, CLASSES, (12,))


def graph() -> Built:
    return Graph(), joined, lambda model, batch: functional.cross_entropy(model(*batch[:2]), batch[2])


def siamese() -> Built:
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))
    return (
        net,
        lambda: torch.randn(3, 8, 20),
        lambda model, batch: functional.triplet_margin_loss(
            *(functional.normalize(model(x), dim=-1) for x in batch), margin=0.2
        ),
    )


def recurrent() -> Built:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(50, 16), nn.LSTM(16, 24, 2, dropout=0.1), nn.Linear(24, 50)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(self.embed(x))[0])

    return (
        Sequence(),
        lambda: torch.randint(0, 50, (12, 8)),
        lambda model, batch: functional.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten()),
    )


MIXED: dict[str, Callable[[], Built]] = {
    build.__name__: build for build in (mixer, gmlp, perceiver, capsules, highway, graph, siamese, recurrent)
}
