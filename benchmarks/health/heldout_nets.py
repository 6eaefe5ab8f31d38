"""Nets for the held-out programs, and what may be done to a net before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_data import VOCABULARY
from benchmarks.health.heldout_layers import Fn, Positions, Recurrent, block, mlp
from benchmarks.health.heldout_programs import Net


def language_model(d: int = 32, layers: int = 2, **more: Any) -> nn.Sequential:
    more.setdefault("causal", True)
    return nn.Sequential(Positions(VOCABULARY, d), *(block(d, **more) for _ in range(layers)), nn.LayerNorm(d), nn.Linear(d, VOCABULARY))


class TimeFirst(nn.Module):
    """A recurrent model of letters, ids (B, T) to outputs (T, B, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(VOCABULARY, 24), nn.GRU(24, 48), nn.Linear(48, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x.T))[0])


def patches(d: int = 32, layers: int = 1, out: int = 10, **more: Any) -> nn.Sequential:
    """Digits as eight rows through transformer blocks."""
    return nn.Sequential(Fn(lambda x: x.reshape(-1, 8, 8)), nn.Linear(8, d), *(block(d, **more) for _ in range(layers)), Fn(lambda h: h.mean(1)), nn.Linear(d, out))


def signal_net(layers: int = 2, *, width: int = 12, norm: bool = False, last: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    """Convolutions over time, the mean over time, and a linear head of three classes."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Conv1d(width if i else 1, width, 5, padding=2), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(4 * width, 3), *last)


def forecaster(kind: str = "GRU", **more: Any) -> Recurrent:
    return Recurrent(kind, 1, 24, 1, **more)


class Segmenter(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.down, self.inner, self.up = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(24, 1, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down(x))
        b = F.relu(self.inner(F.max_pool2d(a, 2)))
        return self.last(self.up(torch.cat([a, F.interpolate(b, scale_factor=2)], 1)))


class Variational(nn.Module):
    def __init__(self, kl: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.kl = mlp(64, 48, 16), mlp(8, 48, 64), kl

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()
        return F.mse_loss(self.decoder(z), x) + self.kl * kl


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = mlp(64, 32, 4), mlp(4, 32, 64), nn.Embedding(32, 4)
        nn.init.normal_(self.codes.weight, 50.0, 0.1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return F.mse_loss(self.decoder(z + (q - z).detach()), x) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


# ---- changes --------------------------------------------------------------------------------------------------------------


def changed(net: Net, *changes: Callable[[Any], Any]) -> Net:
    """The net, after each change has been done to it."""

    def build() -> Any:
        model = net()
        for change in changes:
            change(model)
        return model

    return build


def weights(do: Callable[[Tensor], Any], *, biases: Callable[[Tensor], Any] | None = None) -> Callable[[nn.Module], None]:
    """Initialise every matrix with ``do``, and every vector of a bias with ``biases``."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() > 1:
                    do(p)
                elif biases is not None and "bias" in name:
                    biases(p)

    return change


def freeze(*names: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).requires_grad_(False)

    return change
