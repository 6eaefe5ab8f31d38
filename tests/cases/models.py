"""Right models of many kinds: residual, graph, mixture, quantised, variational, contrastive, and unusual starts and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.cases.case import Case, Checked

__all__ = ["model_cases"]


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.norm2(self.second(functional.relu(self.norm1(self.first(x))))))


def resnet(width: int, depth: int) -> nn.Sequential:
    stem = (nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    blocks = (ResidualBlock(width) for _ in range(depth))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Graph(nn.Module):
    """Messages along an adjacency matrix, max over the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)]), nn.Linear(8, 2)

    def forward(self, nodes: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            nodes = functional.relu(layer(adjacency @ nodes))
        return self.head(nodes.amax(0))


class Mixture(nn.Module):
    """The two best of four experts, by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        parts = [(weights * (chosen == k)).sum(-1, keepdim=True) * expert(x) for k, expert in enumerate(self.experts)]
        return torch.stack(parts).sum(0)


class Quantised(nn.Module):
    """A codebook with commitment loss and straight-through gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codes, self.decoder = nn.Linear(8, 4), nn.Embedding(16, 4), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.encoder(x)
        code = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        loss = functional.mse_loss(code, z.detach()) + 0.25 * functional.mse_loss(z, code.detach())
        return functional.mse_loss(self.decoder(z + (code - z).detach()), x) + loss


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return functional.mse_loss(self.decoder(z), x) - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()


class Teacher(nn.Module):
    """Learns from a second network that is used under no_grad, as value functions do."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = 1 + 0.9 * self.teacher(x).amax(-1)
        return functional.smooth_l1_loss(self.student(x)[:, 0], wanted)


class Periodic(nn.Module):
    """Sines of 30 x: its scale is not the usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32)])
        self.head = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class EightBits(nn.Module):
    """Weights rounded to 8 bits, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.layer.weight
        step = weight.detach().abs().amax() / 127
        rounded = torch.round(weight / step).clamp(-127, 127) * step
        return functional.linear(x, weight + (rounded - weight).detach(), self.layer.bias)


class Coupling(nn.Module):
    """One affine coupling of a flow, and its log-likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        scale, shift = self.net(left).chunk(2, -1)
        y = right * torch.tanh(scale).exp() + shift
        return 0.5 * (left**2).sum() + 0.5 * (y**2).sum() - torch.tanh(scale).sum()


class Triplet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedded = functional.normalize(self.layer(x), dim=-1)
        apart = torch.cdist(embedded, embedded)
        return (apart[0, 1] - apart[0, 2] + 0.2).clamp(min=0) + apart.mean()


def changed(model: nn.Sequential, change: Callable[[torch.Tensor], Any], *layers: int) -> nn.Sequential:
    """The model with the parameters of some of its layers (all without one) changed in place."""
    with torch.no_grad():
        for layer in layers or range(len(model)):
            for parameter in model[layer].parameters():
                change(parameter)
    return model


def mlp(activation: type[nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8, bias=bias), activation(), nn.Linear(8, 3))


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


def pinball(output: torch.Tensor) -> torch.Tensor:
    return torch.maximum(0.9 * (output - 1), -0.1 * (output - 1)).mean()


def model_cases() -> Iterator[Case]:
    """One row per model, float32, so that lifting is part of it."""
    x = torch.randn
    image, relu_image = x(4, 3, 8, 8), torch.relu(x(8, 1, 8, 8))
    pooled = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    rows: dict[str, Callable[[], Checked]] = {
        "residual network": lambda: Checked(resnet(8, 3), image, {"loss": cross_entropy}),
        "residual network, eval": lambda: Checked(resnet(8, 3).eval(), image, {"loss": cross_entropy}),
        "deep residual network": lambda: Checked(resnet(8, 10), image[:2], {"loss": cross_entropy}),
        "graph network": lambda: Checked(Graph(), (x(6, 8), torch.rand(6, 6).round())),
        "mixture of experts": lambda: Checked(Mixture(), x(5, 8)),
        "vector quantisation": lambda: Checked(Quantised(), x(5, 8)),
        "variational autoencoder": lambda: Checked(Variational(), x(5, 8)),
        "teacher under no_grad": lambda: Checked(Teacher(), x(5, 4)),
        "sines of 30 x": lambda: Checked(Periodic(), torch.rand(16, 2)),
        "weights of 8 bits": lambda: Checked(EightBits(), x(4, 6)),
        "flow": lambda: Checked(Coupling(), x(5, 4)),
        "triplet loss": lambda: Checked(Triplet(), x(4, 6)),
        "LSTM of 60 steps": lambda: Checked(nn.LSTM(4, 8, 2), x(60, 2, 4)),
        "RNN of 100 steps": lambda: Checked(nn.RNN(4, 16), x(100, 2, 4)),
        "zero input, no bias": lambda: Checked(mlp(bias=False), torch.zeros(3, 4)),
        "one zero sample": lambda: Checked(mlp(bias=False), torch.cat([torch.zeros(1, 4), x(2, 4)])),
        "sparse images": lambda: Checked(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), relu_image, {"loss": cross_entropy}),
        "pooling of rectified": lambda: Checked(
            nn.Sequential(*pooled, nn.Flatten(), nn.Linear(32, 10)), image, {"loss": cross_entropy}
        ),
        "last layer starts at zero": lambda: Checked(changed(mlp(), nn.init.zeros_, 2), x(3, 4), {"loss": cross_entropy}),
        "everything starts at zero": lambda: Checked(changed(mlp(), nn.init.zeros_), x(3, 4)),
        "huge weights": lambda: Checked(changed(mlp(nn.Tanh), lambda p: p.mul_(50)), x(3, 4)),
        "tiny weights": lambda: Checked(changed(mlp(nn.Tanh), lambda p: p.mul_(1e-6)), x(3, 4)),
        "saturated softmax": lambda: Checked(nn.Linear(4, 3), 100 * x(3, 4), {"loss": cross_entropy}),
        "constant features": lambda: Checked(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), torch.ones(5, 6).requires_grad_()
        ),
        "quantile loss": lambda: Checked(nn.Linear(4, 1), x(30, 4), {"loss": pinball}),
        "exact fit by absolute error": lambda: Checked(
            changed(nn.Sequential(nn.Linear(4, 1)), nn.init.zeros_), x(6, 4), {"loss": lambda out: out.abs().mean()}
        ),
        "sorted outputs": lambda: Checked(
            nn.Linear(5, 8), x(3, 5), {"loss": lambda out: (out.sort(-1).values * torch.arange(8)).sum()}
        ),
        "gradient scaled by frequency": lambda: Checked(
            nn.Embedding(10, 4, scale_grad_by_freq=True), torch.tensor([1, 2, 2, 3])
        ),
        "embedding of bounded norm": lambda: Checked(nn.Embedding(10, 4, max_norm=1.0), torch.tensor([1, 2, 3])),
    }
    for seed, (name, make) in enumerate(rows.items()):
        yield Case(name, make, seed=seed)
