"""Hand-written torch modules of the usual families, each with its own loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.health.tiny.batches import CLASSES

__all__ = ["PLAIN", "Built"]

Built = tuple[nn.Module, Callable[[], Any], Callable[[Any, Any], Any]]
"""A model, one batch, and the loss."""


def entropy(model: Any, batch: Any) -> Any:
    return functional.cross_entropy(model(batch[0]), batch[1])


def squared(model: Any, batch: Any) -> Any:
    return functional.mse_loss(model(batch[0]), batch[1])


def pictured(size: int = 16, samples: int = 8) -> Callable[[], Any]:
    return lambda: (torch.randn(samples, 3, size, size), torch.randint(0, CLASSES, (samples,)))


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = convolved(3, 8), convolved(8, 16), convolved(16, 16)
        self.up2, self.up1 = convolved(32, 8), convolved(16, 8)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        third = self.middle(functional.max_pool2d(second, 2))
        up = self.up2(torch.cat([functional.interpolate(third, scale_factor=2.0, mode="bilinear"), second], 1))
        return self.head(self.up1(torch.cat([functional.interpolate(up, scale_factor=2.0), first], 1)))


def unet() -> Built:
    return UNet(), lambda: (torch.randn(4, 3, 16, 16), torch.randint(0, CLASSES, (4, 16, 16))), entropy


class Dense(nn.Module):
    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(inputs + k * growth), nn.ReLU(), nn.Conv2d(inputs + k * growth, growth, 3, padding=1))
            for k in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> Built:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        Dense(8, 4, 3),
        nn.AvgPool2d(2),
        Dense(20, 4, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    return model, pictured(), entropy


class Autoencoder(nn.Module):
    """Variational: the loss is the reconstruction and the divergence from a standard normal distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, logarithm = self.encoder(x).chunk(2, -1)
        drawn = mean + torch.randn_like(mean) * (0.5 * logarithm).exp()
        divergence = 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).sum(-1).mean()
        rebuilt = functional.binary_cross_entropy_with_logits(self.decoder(drawn), x, reduction="none").sum(-1).mean()
        return rebuilt + divergence


def vae() -> Built:
    return Autoencoder(), lambda: torch.rand(8, 32).round(), lambda model, batch: model(batch)


class Translator(nn.Module):
    """Two recurrent nets with additive attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_in, self.embed_out = nn.Embedding(50, 16), nn.Embedding(50, 16)
        self.encoder = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.decoder = nn.GRUCell(16 + 32, 24)
        self.start = nn.Linear(32, 24)
        self.keys, self.query, self.score = nn.Linear(32, 16), nn.Linear(24, 16), nn.Linear(16, 1)
        self.head = nn.Linear(24 + 32, 50)

    def forward(self, source: torch.Tensor, shifted: torch.Tensor) -> torch.Tensor:
        memory, _ = self.encoder(self.embed_in(source))
        state = torch.tanh(self.start(memory.mean(1)))
        outputs = []
        for word in self.embed_out(shifted).unbind(1):
            scores = self.score(torch.tanh(self.keys(memory) + self.query(state)[:, None]))
            context = (scores.softmax(1) * memory).sum(1)
            state = self.decoder(torch.cat([word, context], -1), state)
            outputs.append(self.head(torch.cat([state, context], -1)))
        return torch.stack(outputs, 1)


def translator() -> Built:
    return (
        Translator(),
        lambda: (torch.randint(0, 50, (8, 10)), torch.randint(0, 50, (8, 9))),
        lambda model, batch: functional.cross_entropy(
            model(batch[0], batch[1][:, :-1]).flatten(0, 1), batch[1][:, 1:].flatten()
        ),
    )


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv1d(16, 24, 5, stride=2, padding=2), nn.BatchNorm1d(24), nn.Hardtanh(0, 20))
        self.recurrent = nn.LSTM(24, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.recurrent(self.convolution(x).transpose(1, 2))
        return self.head(out).log_softmax(-1).transpose(0, 1)


def connectionist(model: Any, batch: Any) -> Any:
    scores = model(batch[0])
    samples = scores.shape[1]
    return functional.ctc_loss(scores, batch[1], torch.full((samples,), scores.shape[0]), torch.full((samples,), 5))


def speech() -> Built:
    return Speech(), lambda: (torch.randn(6, 16, 40), torch.randint(1, 12, (6, 5))), connectionist


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**k) for k in range(4))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))
        self.residuals = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x).transpose(1, 2)
        total = torch.zeros_like(h)
        for k, gate in enumerate(self.gates):
            signal, opened = gate(functional.pad(h, (2**k, 0))).chunk(2, 1)
            mixed = torch.tanh(signal) * torch.sigmoid(opened)
            total = total + self.skips[k](mixed)
            if k < len(self.residuals):
                h = h + self.residuals[k](mixed)
        return self.head(total)


def wavenet() -> Built:
    return (
        WaveNet(),
        lambda: torch.randint(0, 32, (4, 33)),
        lambda model, batch: functional.cross_entropy(model(batch[:, :-1]), batch[:, 1:]),
    )


class Denoiser(nn.Module):
    """A diffusion model's net: it is told the time, and predicts the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))
        self.first, self.second, self.last = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 16), (16, 3)))
        self.norm1, self.norm2 = nn.GroupNorm(4, 16), nn.GroupNorm(4, 16)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(-math.log(1000.0) * torch.arange(8) / 8)
        angles = times[:, None] * rates
        told = self.time(torch.cat([angles.sin(), angles.cos()], -1))[:, :, None, None]
        h = self.first(x)
        h = h + self.second(functional.silu(self.norm1(h) + told))
        return self.last(functional.silu(self.norm2(h)))


def noised(model: Any, batch: torch.Tensor) -> Any:
    times = torch.randint(0, 100, (len(batch),))
    kept = torch.cos(times / 100 * math.pi / 2)[:, None, None, None]
    noise = torch.randn_like(batch)
    return functional.mse_loss(model(kept * batch + (1 - kept**2).sqrt() * noise, times.float()), noise)


def diffusion() -> Built:
    return Denoiser(), lambda: torch.randn(8, 3, 8, 8), noised


class Radiance(nn.Module):
    """Positions in a picture as sines and cosines, to a colour and an opacity; the input comes back half way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(56, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = (x[..., None] * (2.0 ** torch.arange(4) * math.pi)).flatten(-2)
        encoded = torch.cat([angles.sin(), angles.cos()], -1)
        out = self.second(torch.cat([self.first(encoded), encoded], -1))
        light = 1 - torch.exp(-functional.softplus(out[..., 3:]))
        seen = torch.cumprod(torch.cat([torch.ones_like(light[:, :1]), 1 - light + 1e-10], 1), 1)[:, :-1]
        return (light * seen * torch.sigmoid(out[..., :3])).sum(1)


def radiance() -> Built:
    return Radiance(), lambda: (torch.rand(8, 12, 3), torch.rand(8, 3)), squared


PLAIN: dict[str, Callable[[], Built]] = {
    build.__name__: build for build in (unet, densenet, vae, translator, speech, wavenet, diffusion, radiance)
}
