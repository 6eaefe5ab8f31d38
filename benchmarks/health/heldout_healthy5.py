"""Held-out healthy programs, fifth draw: they train, and look suspicious; written before any of them was judged.

Behind each row stands what plain training did in 300 steps, or the row's own loop, with seed 0: first loss -> mean of the
last 24, the entropy (H) or variance (var) of the labels, and the accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import made, on, rows, text, whole
from benchmarks.health.heldout_data import VOCABULARY, clusters, graph, sequences, table
from benchmarks.health.heldout_layers import Attention, Fn, Positions, Recurrent, Residual, cnn, image, mlp
from benchmarks.health.heldout_loops import adam, by, ce, cycle, itself, learn, mse, own, per_letter, sgd, steps, trained, use
from benchmarks.health.heldout_nets import changed, language_model, patches
from benchmarks.health.heldout_numpy import digits_numpy, softmax
from benchmarks.health.heldout_programs import Batch, Body, HealthyTable, Net

healthy = HealthyTable()
case, loop = healthy.case, healthy.loop
schedules = torch.optim.lr_scheduler

digits, wine, cancer, diabetes = on("digits"), on("wine"), on("breast_cancer"), on("diabetes")
spin = torch.Generator().manual_seed(50)


class Scaled(nn.Module):
    """x + scale * branch(x), with one small scale per feature."""

    def __init__(self, branch: nn.Module, d: int, start: float, dims: int = 1) -> None:
        super().__init__()
        self.branch, self.scale = branch, nn.Parameter(torch.full((d, *[1] * (dims - 1)), start))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


# ---- branches that begin near zero, gates and many layers --------------------------------------------------------------------


class Highway(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.gate, self.inner = nn.Linear(d, d), nn.Linear(d, d)
        nn.init.constant_(self.gate.bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        g = self.gate(x).sigmoid()
        return g * self.inner(x).relu() + (1 - g) * x


class Squeeze(nn.Module):
    """Channels are weighted by what their means say."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 4), nn.ReLU(), nn.Linear(4, d), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.net(x.mean((2, 3)))[:, :, None, None]


class Channels(nn.LayerNorm):
    """Layer norm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def convnext(d: int) -> nn.Module:
    return Scaled(nn.Sequential(nn.Conv2d(d, d, 5, padding=2, groups=d), Channels(d), nn.Conv2d(d, 2 * d, 1), nn.GELU(), nn.Conv2d(2 * d, d, 1)), d, 1e-6, 3)


case("ten highway layers with gates at -4", lambda: nn.Sequential(nn.Linear(64, 32), *(Highway(32) for _ in range(10)), nn.Linear(32, 10)), digits, ce, adam(1e-3), steps=200)  # 2.33 -> 0.155, H 2.3, acc 0.96
case("layer scale of 1e-5 in a vision transformer", lambda: nn.Sequential(Fn(lambda x: x.reshape(-1, 8, 8)), nn.Linear(8, 32), *(Scaled(nn.Sequential(nn.LayerNorm(32), Attention(32)), 32, 1e-5) for _ in range(3)), Fn(lambda h: h.flatten(1)), nn.Linear(256, 10)), digits, ce, adam(1e-3), steps=200)  # 2.27 -> 0.126, H 2.3, acc 0.98
case("convnext blocks with a layer scale of 1e-6", lambda: nn.Sequential(image(), nn.Conv2d(1, 16, 2, 2), convnext(16), convnext(16), nn.Flatten(), nn.Linear(256, 10)), digits, ce, use("AdamW", 3e-3), steps=150)  # 2.27 -> 0.00411, H 2.3, acc 1.00
case("channels weighted by their means", lambda: nn.Sequential(image(), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Squeeze(16), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), Squeeze(16), nn.Flatten(), nn.Linear(144, 10)), digits, ce, adam(3e-3), steps=150)  # 2.29 -> 0.0919, H 2.3, acc 0.98
case("sixty residual layers", lambda: nn.Sequential(nn.Linear(64, 24), *(Residual(nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.ReLU()), 0.1) for _ in range(60)), nn.Linear(24, 10)), digits, ce, adam(1e-3), steps=60)  # 2.38 -> 0.0665, H 2.3, acc 0.99
case("a deep linear net", changed(lambda: mlp(13, *[16] * 8, 3, act=nn.Identity), lambda m: [nn.init.orthogonal_(p) for p in m.parameters() if p.dim() > 1]), wine, ce, sgd(0.02), steps=200)  # 1.11 -> 0.00722, H 1.09, acc 1.00
case("full batches at the edge of stability", lambda: mlp(30, 24, 24, 2, act=nn.Tanh), whole(*table("breast_cancer")), lambda m, b: F.mse_loss(m(b[0]), F.one_hot(b[1], 2).float()), sgd(0.5), steps=200)  # 0.33 -> 0.013, sharpness 4.8 at step 120, 2 / rate is 4
case("groups of units that are sorted", lambda: mlp(2, 32, 32, 2, act=lambda: Fn(lambda h: h.unflatten(1, (-1, 4)).sort(2).values.flatten(1))), on("moons"), ce, adam(1e-2), steps=200)  # 0.666 -> 0.031, H 0.693, acc 0.99
case("absolute values between the layers", lambda: mlp(64, 48, 48, 10, act=lambda: Fn(torch.abs)), digits, ce, adam(1e-3), steps=200)  # 2.29 -> 0.263, H 2.3, acc 0.95
case("shrunken activations", lambda: mlp(64, 64, 10, act=lambda: nn.Softshrink(0.3)), digits, ce, adam(3e-3), steps=200)  # 2.32 -> 0.125, H 2.3, acc 0.98

# ---- few of many: chosen, sparse, rounded, pooled ---------------------------------------------------------------------------


def sparsemax(z: Tensor) -> Tensor:
    """Projection onto the simplex (Martins and Astudillo 2016): most entries are exactly 0."""
    s = z.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1)
    size = (1 + k * s > s.cumsum(-1)).sum(-1, keepdim=True)
    return (z - ((s.cumsum(-1).gather(-1, size - 1) - 1) / size)).clamp(min=0)


class Focus(nn.Module):
    """One query looks at eight rows of an image; its weights are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.query, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Parameter(torch.randn(4, 16)), nn.Linear(64, 10)
        self.position = nn.Parameter(0.3 * torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 8, 8) + self.position
        weight = sparsemax(torch.einsum("qd,btd->bqt", self.query, self.key(rows)))
        return self.head((weight @ self.value(rows)).flatten(1))


class Tree(nn.Module):
    """A soft decision tree of depth 3; a leaf is a distribution over classes."""

    def __init__(self) -> None:
        super().__init__()
        self.splits, self.leaves = nn.Linear(30, 7), nn.Parameter(torch.zeros(8, 2))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        right = self.splits(x).sigmoid()
        path = x.new_ones(len(x), 1)
        for depth in range(3):
            r = right[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            path = torch.stack([path * (1 - r), path * r], 2).flatten(1)
        return F.nll_loss((path @ self.leaves.softmax(1)).log(), y)


class Hashed(nn.Module):
    """Experts are chosen by a fixed hash of the word: no router at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.experts, self.head = nn.Embedding(VOCABULARY, 24), nn.ModuleList(mlp(24, 32, 24) for _ in range(4)), nn.Linear(24, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        h, chosen = self.embed(ids), F.one_hot(ids * 7 % 4, 4).float()
        return self.head(h + torch.einsum("bte,ebtd->btd", chosen, torch.stack([e(h) for e in self.experts])))


def through(rounded: Tensor, z: Tensor) -> Tensor:
    return z + (rounded - z).detach()


class Levels(nn.Module):
    """A code of six numbers with five levels each, rounded straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 48, 6), mlp(6, 48, 64)

    def forward(self, x: Tensor) -> Tensor:
        z = 2 * self.encoder(x).tanh()
        return self.decoder(through(z.round(), z) / 2)


class Ternary(nn.Linear):
    """Weights of -1, 0 and 1 times one scale."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean()
        return F.linear(x, through((self.weight / scale).round().clamp(-1, 1) * scale, self.weight), self.bias)


class LearnedStep(nn.Module):
    """Activations on sixteen levels, whose spacing is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor) -> Tensor:
        z = (x / self.size).clamp(0, 15)
        return through(z.round(), z) * self.size


class Moving(nn.Module):
    """A codebook that follows its codes by moving averages: it is a buffer, and no gradient reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 32, 4), mlp(4, 32, 64)
        self.register_buffer("codes", self.encoder(table("digits")[0][:32]).detach())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder(x)
        chosen = torch.cdist(z, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                hits = F.one_hot(chosen, 32).float()
                self.codes.lerp_(torch.where(hits.sum(0)[:, None] > 0, hits.T @ z / hits.sum(0)[:, None].clamp(min=1), self.codes), 0.1)
        q = self.codes[chosen]
        return F.mse_loss(self.decoder(through(q, z)), x) + 0.25 * F.mse_loss(z, q.detach())


class Spike(torch.autograd.Function):
    """A threshold whose backward is a fast sigmoid's."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return g / (1 + 5 * v.abs()) ** 2


class Leaky(nn.Module):
    """Leaky neurons that integrate a digit's rows over time, fire, and are reset."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.back, self.head = nn.Linear(8, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        v = s = total = x.new_zeros(len(x), 64)
        for row in x.reshape(-1, 8, 8).unbind(1):
            v = 0.9 * v * (1 - s) + self.inner(2 * row) + 0.3 * self.back(s)
            s = Spike.apply(v - 0.5)
            total = total + s
        return self.head(total / 8)


class Points(nn.Module):
    """The set of a digit's bright pixels, pooled by its maximum."""

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(8).float() / 4 - 1
        self.register_buffer("grid", torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(64, 2))
        self.each, self.head = mlp(3, 64, 96), mlp(96, 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        points = torch.cat([self.grid.expand(len(x), 64, 2), x[..., None]], 2)
        return self.head(self.each(points).masked_fill(x[..., None] < 0.3, -1e4).amax(1))


def heatmaps(n: int = 300, side: int = 12) -> Batch:
    """Noisy images of one blob, and a map that is 1 in one pixel and 0 elsewhere."""
    g = torch.Generator().manual_seed(51)
    at = torch.randint(1, side - 1, (n, 2), generator=g)
    r = torch.arange(side)
    d = (r[None, :, None] - at[:, 0, None, None]).square() + (r[None, None] - at[:, 1, None, None]).square()
    return (-d / 2).exp()[:, None] + 0.1 * torch.randn(n, 1, side, side, generator=g), (d == 0).float()[:, None]


def sparse_words(n: int = 640) -> Batch:
    """Bags of 8 out of 5000 ids; the first third speaks for class 1."""
    g = torch.Generator().manual_seed(52)
    y = torch.randint(0, 2, (n,), generator=g)
    return torch.randint(0, 40, (n, 8), generator=g) + 3000 * y[:, None], y


case("attention that is exactly zero almost everywhere", Focus, digits, ce, adam(1e-2), steps=200)  # 2.37 -> 0.208, H 2.3, acc 0.95
case("a soft decision tree with equal leaves", Tree, cancer, own, adam(3e-2), steps=200)  # 0.693 -> 0.0318, H 0.66
case("experts chosen by a hash", Hashed, text(), per_letter, adam(3e-3), steps=100)  # 3.32 -> 1.81, H 2.74, acc 0.32
case("a code of rounded numbers", Levels, digits, itself, adam(3e-3), steps=200)  # 0.262 -> 0.0309, var 0.0735
case("ternary weights", lambda: nn.Sequential(Ternary(64, 64), nn.ReLU(), Ternary(64, 10)), digits, ce, adam(1e-3), steps=200)  # 2.33 -> 0.736, H 2.3, acc 0.92
case("a learned step of rounding", lambda: nn.Sequential(nn.Linear(64, 48), LearnedStep(), nn.Linear(48, 10)), digits, ce, adam(3e-3), steps=200)  # 2.31 -> 0.165, H 2.3, acc 0.97
case("codes that follow by moving averages", Moving, digits, own, adam(3e-3), steps=200)  # 0.281 -> 0.0617, var 0.0735, 11 codes used
case("recurrent spikes", Leaky, digits, ce, adam(3e-3), steps=150)  # 2.37 -> 0.859, H 2.3, acc 0.75
case("a set of points and its maximum", Points, digits, ce, adam(3e-3), steps=200)  # 2.33 -> 0.679, H 2.3, acc 0.77
case("a map of keypoints that is nearly all zero", lambda: nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2)), made(heatmaps), by(F.mse_loss), adam(3e-3), steps=200)  # 0.00668 -> 0.00028, var 0.0069
case("sparse gradients under plain descent", lambda: nn.Sequential(nn.EmbeddingBag(5000, 16, sparse=True), nn.Linear(16, 2)), made(sparse_words), ce, sgd(0.5), steps=200)  # 0.711 -> 0.00846, H 0.693, acc 1.00
case("adaptive softmax over frequent and rare letters", lambda: Frequent(), text(), own, adam(1e-2), steps=100)  # 2.92 -> 0.251, H 2.74
case("tags of which nine in ten are ignored", lambda: Recurrent("GRU", VOCABULARY, 24, VOCABULARY, ids=True, every=True), lambda s: [(x, y.where(torch.rand(y.shape, generator=torch.Generator().manual_seed(s + i)) < 0.1, torch.tensor(-100))) for i, (x, y) in enumerate(text()(s))], per_letter, adam(1e-2), steps=150)  # 3.11 -> 0.387, H 2.74
case("positive and negative parts side by side", lambda: nn.Sequential(nn.Linear(10, 64), Fn(lambda h: torch.cat([h.relu(), (-h).relu()], 1)), nn.Linear(128, 1)), on("friedman"), mse, adam(3e-3), steps=200)  # 0.758 -> 0.0356, var 1.03


class Frequent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.core = nn.Embedding(VOCABULARY, 16), nn.GRU(16, 24, batch_first=True)
        self.head = nn.AdaptiveLogSoftmaxWithLoss(24, VOCABULARY, [8, 16], div_value=2.0)
        self.register_buffer("rank", torch.bincount(torch.cat([b[1].flatten() for b in text()(0)]), minlength=VOCABULARY).argsort(descending=True).argsort())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.head(self.core(self.embed(x))[0].flatten(0, 1), self.rank[y.flatten()]).loss
        return value


# ---- sequences and masks -----------------------------------------------------------------------------------------------------------


class Windowed(nn.Module):
    """Causal attention over the last four letters, with a bias that falls with distance."""

    def __init__(self, d: int = 24) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d, d, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1])
        back = t[:, None] - t[None]
        scores = self.q(x) @ self.k(x).transpose(1, 2) / x.shape[2] ** 0.5 - 0.5 * back
        return x + scores.masked_fill((back < 0) | (back > 3), -math.inf).softmax(-1) @ self.v(x)


class Rotary(nn.Module):
    """Causal attention with rotated queries and keys of length 1, and a learned temperature."""

    def __init__(self, d: int = 24) -> None:
        super().__init__()
        self.qkv, self.scale = nn.Linear(d, 3 * d), nn.Parameter(torch.tensor(5.0))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        angle = torch.arange(x.shape[1])[:, None] / 100 ** (torch.arange(x.shape[2] // 2) / (x.shape[2] // 2))
        turn = lambda z: torch.cat([z[..., ::2] * angle.cos() - z[..., 1::2] * angle.sin(), z[..., ::2] * angle.sin() + z[..., 1::2] * angle.cos()], -1)  # noqa: E731 - one expression
        scores = self.scale * turn(F.normalize(q, dim=-1)) @ turn(F.normalize(k, dim=-1)).transpose(1, 2)
        return x + scores.masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), -math.inf).softmax(-1) @ v


class Linearised(nn.Module):
    """Causal attention by sums of positive features, no softmax."""

    def __init__(self, d: int = 24) -> None:
        super().__init__()
        self.qkv = nn.Linear(d, 3 * d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        total = torch.einsum("btd,bte->btde", k, v).cumsum(1)
        return x + torch.einsum("btd,btde->bte", q, total) / (q * k.cumsum(1)).sum(-1, keepdim=True)


class Independent(nn.Module):
    """Each unit has one recurrent weight of its own, near 1, over 50 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.keep, self.head = nn.Linear(3, 48), nn.Parameter(torch.rand(48) * 0.1 + 0.9), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 48)
        for z in self.inner(x).unbind(1):
            h = (z + self.keep * h).relu()
        return self.head(h / 5)


class MinimalGru(nn.Module):
    """Gates that look at the input only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate, self.inner, self.head = nn.Embedding(VOCABULARY, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        keep, new, h, out = self.gate(x).sigmoid(), self.inner(x), x.new_zeros(len(x), 32), []
        for t in range(x.shape[1]):
            h = (1 - keep[:, t]) * h + keep[:, t] * new[:, t]
            out.append(h)
        return self.head(torch.stack(out, 1) + x)


class Echo(nn.Module):
    """A fixed random recurrence; only what reads it is trained."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn(80, 80)
        self.register_buffer("across", 0.9 * w / torch.linalg.eigvals(w).abs().max())
        self.register_buffer("inside", torch.randn(3, 80))
        self.head = nn.Linear(80, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 80)
        for t in range(x.shape[1]):
            h = (x[:, t] @ self.inside + h @ self.across).tanh()
        return self.head(h)


class Pointer(nn.Module):
    """Attention points at the smallest of ten numbers: in the end all of it rests on one place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[..., None]).squeeze(-1)


class Slots(nn.Module):
    """Three slots compete for the rows of an image, three rounds of it."""

    def __init__(self, d: int = 16) -> None:
        super().__init__()
        self.rows, self.position, self.start, self.cell, self.head = nn.Linear(8, d), nn.Parameter(torch.randn(8, d)), nn.Parameter(torch.randn(3, d)), nn.GRUCell(d, d), nn.Linear(3 * d, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.rows(x.reshape(-1, 8, 8)) + self.position
        s = self.start.expand(len(x), 3, -1)
        for _ in range(3):
            a = (h @ s.transpose(1, 2)).softmax(-1)
            a = a / (a.sum(1, keepdim=True) + 1e-6)
            s = self.cell((a.transpose(1, 2) @ h).flatten(0, 1), s.flatten(0, 1)).reshape(s.shape)
        return self.head(s.flatten(1))


def letters_with(*layers: Callable[[], nn.Module]) -> Net:
    return lambda: nn.Sequential(Positions(VOCABULARY, 24), *(layer() for layer in layers), nn.LayerNorm(24), nn.Linear(24, VOCABULARY))


def smallest(n: int = 640) -> Batch:
    x = torch.rand(n, 10, generator=torch.Generator().manual_seed(53))
    return x, x.argmin(1)


case("attention to the last four letters", letters_with(Windowed, Windowed), text(), per_letter, adam(3e-3), steps=100, causal=True)  # 3.19 -> 1.03, H 2.74, acc 0.69
case("rotated queries and keys of length 1", letters_with(Rotary, Rotary), text(), per_letter, adam(3e-3), steps=100, causal=True)  # 3.24 -> 0.983, H 2.74, acc 0.73
case("attention without a softmax", letters_with(Linearised), text(), per_letter, adam(3e-3), steps=100, causal=True)  # 3.25 -> 1.53, H 2.74, acc 0.50
case("independent recurrent units", Independent, made(sequences, 512, 50), ce, adam(3e-3), steps=150)  # 0.669 -> 0.242, H 0.688, acc 0.92
case("gates that look at the input only", MinimalGru, text(), per_letter, adam(1e-2), steps=100, causal=True)  # 3.22 -> 0.299, H 2.74, acc 0.90
case("a fixed recurrence and a trained reader", Echo, made(sequences, 512, 30), ce, adam(1e-2), steps=150)  # 0.895 -> 0.0309, H 0.693, acc 1.00
case("a pointer to the smallest number", Pointer, made(smallest), ce, adam(1e-2), steps=200)  # 2.34 -> 0.0292, H 2.3, acc 1.00
case("slots that compete", Slots, digits, ce, adam(3e-3), steps=200)  # 2.28 -> 0.447, H 2.3, acc 0.88
case("a bidirectional tagger", lambda: Tagger(), lambda s: [(x, x) for x, _ in text()(s)], per_letter, adam(1e-2), steps=100)  # 3.08 -> 0.003, H 2.75, acc 1.00
case("learned prompts before a frozen language model", lambda: Prompted(), lambda s: [(x, (x + 1) % VOCABULARY) for x, _ in text()(s)], per_letter, adam(3e-2), steps=150)  # 4.54 -> 0.00227, H 2.75, acc 1.00


class Tagger(nn.Module):
    """The tag of each letter is the letter itself, seen through a narrow layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(VOCABULARY, 8), nn.LSTM(8, 16, batch_first=True, bidirectional=True), nn.Linear(32, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(self.embed(x))[0])


class Prompted(nn.Module):
    """Four learned vectors go before the text, and a low-rank head is added; the fitted net stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.base = trained(language_model, text(), per_letter, 100).requires_grad_(False)
        self.prompt, self.change = nn.Parameter(0.02 * torch.randn(4, 32)), nn.Linear(32, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.prompt.expand(len(x), 4, 32), self.base[0](x)], 1)
        for layer in self.base[1:-1]:
            h = layer(h)
        h = h[:, 4:]
        return self.base[-1](h) + self.change(h)


# ---- losses that are negative, tiny, large, or go up -----------------------------------------------------------------------------


class Masked(nn.Module):
    """The likelihood of binary pixels, each given the ones before it (Germain et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 128), nn.Linear(128, 64)
        order = torch.arange(128) % 63
        self.register_buffer("first", (order[:, None] >= torch.arange(64)[None]).float())
        self.register_buffer("second", (torch.arange(64)[:, None] > order[None]).float())

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.a.weight * self.first, self.a.bias).relu()
        return F.linear(h, self.b.weight * self.second, self.b.bias)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        pixels = (x > 0.5).float()
        return F.binary_cross_entropy_with_logits(self(pixels), pixels, reduction="none").sum(1).mean()


class Planar(nn.Module):
    """Eight planar flows on half-moons; the loss is in nats, with the constant of the data's own scale."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.u, self.w, self.b, self.constant = nn.Parameter(0.1 * torch.randn(8, 2)), nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(8)), constant

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z, volume = x, x.new_zeros(len(x))
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            a = w @ u
            u = u + (F.softplus(a) - 1 - a) * w / w.square().sum()
            t = (z @ w + b).tanh()
            z, volume = z + t[:, None] * u, volume + (1 + (1 - t.square()) * (w @ u)).log()
        return (0.5 * z.square().sum(1) + math.log(2 * math.pi) - volume).mean() + self.constant


def half(kind: str) -> Any:
    """Negative log-likelihoods of torch.distributions, of two raw outputs."""

    def loss(m: Any, b: Batch) -> Tensor:
        a, c = m(b[0]).unbind(1)
        d = torch.distributions
        made = {"student": lambda: d.StudentT(4.0, a, F.softplus(c) + 1e-3), "beta": lambda: d.Beta(F.softplus(a) + 1e-2, F.softplus(c) + 1e-2), "laplace": lambda: d.Laplace(a, F.softplus(c) + 1e-3)}[kind]()
        return -made.log_prob(b[1]).mean()

    return loss


def zero_inflated(m: Any, b: Batch) -> Tensor:
    """Counts that are 0 by a coin, or Poisson."""
    gate, log_rate = m(b[0]).unbind(1)
    some = F.logsigmoid(-gate) + b[1] * log_rate - log_rate.exp() - torch.lgamma(b[1] + 1)
    none = torch.logaddexp(F.logsigmoid(gate), F.logsigmoid(-gate) - log_rate.exp())
    return -torch.where(b[1] > 0, some, none).mean()


def shares(x: Tensor, y: Tensor) -> Batch:
    return x, ((y - y.min()) / (y.max() - y.min())).clamp(0.01, 0.99)


def counts(x: Tensor, y: Tensor) -> Batch:
    g = torch.Generator().manual_seed(54)
    return x, torch.where(torch.rand(len(y), generator=g) < 0.4, torch.zeros(()), torch.poisson((0.8 * y).exp(), generator=g))


def deep_ritz(m: Any, b: Batch) -> Tensor:
    """The energy of a membrane under a load of 8: its minimum is -8/3 (per unit length, by the exact parabola)."""
    x = b[0].detach().requires_grad_()
    u = x * (1 - x) * m(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return (0.5 * slope.square() - 8 * u).mean()


def hamiltonian(m: Any, b: Batch) -> Tensor:
    """Motion of a pendulum from the slopes of one learned energy."""
    x = b[0].detach().requires_grad_()
    (g,) = torch.autograd.grad(m(x).sum(), x, create_graph=True)
    return F.mse_loss(torch.stack([g[:, 1], -g[:, 0]], 1), b[1])


def pendulum(n: int = 400) -> Batch:
    x = 4 * torch.rand(n, 2, generator=torch.Generator().manual_seed(55)) - 2
    return x, torch.stack([x[:, 1], -x[:, 0].sin()], 1)


def distance(m: Any, b: Batch) -> Tensor:
    """A signed distance: zero on a circle, slope 1 everywhere."""
    x = b[0].detach().requires_grad_()
    (g,) = torch.autograd.grad(m(x).sum(), x, create_graph=True)
    return m(F.normalize(x, dim=1)).abs().mean() + (g.norm(dim=1) - 1).square().mean() + F.relu(-m(1.5 * F.normalize(x, dim=1)) + 0.1).mean()


def sliced(m: Any, b: Batch) -> Tensor:
    """Sliced score matching: the loss becomes negative, by a second backward pass."""
    x = b[0].detach().requires_grad_()
    v = torch.randn_like(x)
    s = m(x)
    (g,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
    return (0.5 * s.square().sum(1) + (g * v).sum(1)).mean()


def smooth(m: Any, b: Batch) -> Tensor:
    """Cross-entropy and the slope of it by the inputs."""
    x = b[0].detach().requires_grad_()
    loss = F.cross_entropy(m(x), b[1])
    (g,) = torch.autograd.grad(loss * len(x), x, create_graph=True)
    return loss + 0.05 * g.square().sum(1).mean()


def attacked(m: Any, b: Batch) -> Tensor:
    """Cross-entropy of inputs moved against the net."""
    x = b[0].detach().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(m(x), b[1]), x)
    return F.cross_entropy(m((x + 0.05 * g.sign()).detach()), b[1])


def every_triplet(m: Any, b: Batch) -> Tensor:
    """All triplets of a batch: most of them are soon 0."""
    e = F.normalize(m(b[0]), dim=1)
    d = 2 - 2 * e @ e.T
    same = b[1][:, None] == b[1][None]
    valid = (same & ~torch.eye(len(e), dtype=torch.bool))[:, :, None] & ~same[:, None]
    return (F.relu(d[:, :, None] - d[:, None] + 0.3) * valid).sum() / valid.sum()


def supervised_contrast(m: Any, b: Batch) -> Tensor:
    e = F.normalize(m(b[0]), dim=1)
    apart = torch.eye(len(e), dtype=torch.bool)
    log = (e @ e.T / 0.2).masked_fill(apart, -1e9).log_softmax(1)
    same = (b[1][:, None] == b[1][None]) & ~apart
    return -(log * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


def listwise(m: Any, b: Batch) -> Tensor:
    """Plackett-Luce likelihood of the true order of a batch."""
    s = m(b[0]).squeeze(-1)[b[1].argsort(descending=True)]
    return (s.flip(0).logcumsumexp(0).flip(0) - s).mean()


def unlabelled(m: Any, b: Batch) -> Tensor:
    """Positives and unlabelled rows (Kiryo et al. 2017); half of the positives carry their label."""
    z = m(b[0]).squeeze(-1)
    known = (b[1] == 1) & (torch.arange(len(z)) % 2 == 0)
    prior, positive, unknown = 0.63, z[known], z[~known]
    return prior * F.softplus(-positive).mean() + F.relu(F.softplus(unknown).mean() - prior * F.softplus(positive).mean())


def adjusted(m: Any, b: Batch) -> Tensor:
    """Logits shifted by the frequency of their class, for a long tail."""
    return F.cross_entropy(m(b[0]) + torch.tensor([0.90, 0.08, 0.02]).log(), b[1])


def tail() -> Batch:
    return clusters(10, 3, 1200, weights=[0.9, 0.08, 0.02])


class Centres(nn.Module):
    """Cross-entropy, and a pull to one centre per class."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head, self.centres = mlp(64, 48, 8), nn.Linear(8, 10), nn.Parameter(torch.zeros(10, 8))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.net(x)
        return F.cross_entropy(self.head(h), y) + 0.05 * (h - self.centres[y]).square().sum(1).mean()


class Stopped(nn.Module):
    """Two views, a predictor, and a stopped gradient: nothing pushes apart, and it does not collapse."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16), nn.BatchNorm1d(16, affine=False))
        self.predict = mlp(16, 8, 16)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (self.net(x + 0.2 * torch.randn_like(x)) for _ in range(2))
        return -(F.cosine_similarity(self.predict(a), b.detach()) + F.cosine_similarity(self.predict(b), a.detach())).mean() / 2


class Uncertain(nn.Module):
    """Weights are drawn anew at each step (Blundell et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.means, self.scales = (nn.ParameterList(s * torch.randn(a, b) / a**0.5 + c for a, b in pairwise((13, 24, 3))) for s, c in ((1.0, 0.0), (0.0, -4.0)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        kl = x.new_zeros(())
        for i, (mean, raw) in enumerate(zip(self.means, self.scales, strict=True)):
            s = F.softplus(raw)
            kl = kl + (0.5 * (s.square() + mean.square() - 1) - s.log()).sum()
            x = x @ (mean + s * torch.randn_like(s))
            x = x.relu() if i == 0 else x
        return F.cross_entropy(x, y) + kl / 2000


class Process(nn.Module):
    """A conditional neural process: sines from six points of each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(2, 48, 48), mlp(49, 48, 2)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        r = self.encoder(torch.stack([x[:, :6], y[:, :6]], -1)).mean(1, keepdim=True)
        mean, raw = self.decoder(torch.cat([r.expand(-1, x.shape[1], -1), x[..., None]], -1)).unbind(-1)
        return F.gaussian_nll_loss(mean, y, (0.05 + F.softplus(raw)).square())


def waves(n: int = 512) -> Batch:
    g = torch.Generator().manual_seed(56)
    x, phase, height = 4 * torch.rand(n, 20, generator=g) - 2, 6.3 * torch.rand(n, 1, generator=g), 0.5 + torch.rand(n, 1, generator=g)
    return x, height * (2 * x + phase).sin()


class Operator(nn.Module):
    """A function's integral from twenty of its values, by two nets and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = mlp(20, 48, 24), mlp(1, 48, 24, act=nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) @ self.trunk(torch.linspace(-1, 1, 20)[:, None]).T


def integrals(n: int = 512) -> Batch:
    g = torch.Generator().manual_seed(57)
    t = torch.linspace(0, 1, 20)
    f = sum(torch.randn(n, 1, generator=g) * (k * math.pi * t).cos() for k in range(4))
    return f, f.cumsum(1) / 20


class Spectral(nn.Module):
    """Complex weights on the lowest frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.skip = nn.Linear(2, 16), mlp(16, 16, 1), nn.Linear(16, 16)
        self.weight = nn.Parameter(torch.randn(6, 16, 16, dtype=torch.cfloat) / 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(torch.stack([x, torch.linspace(0, 1, x.shape[1]).expand_as(x)], -1))
        low = torch.einsum("bkc,kcd->bkd", torch.fft.rfft(h, dim=1)[:, :6], self.weight)
        return self.down(F.gelu(torch.fft.irfft(low, n=x.shape[1], dim=1) + self.skip(h))).squeeze(-1)


class Links(nn.Module):
    """Which nodes of a graph are neighbours, by products of their codes; negatives are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 24), nn.Linear(24, 8)

    def loss(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        z = self.b(a @ self.a(a @ x).relu())
        linked = (a > 0).nonzero()
        other = torch.randint(0, len(x), linked.shape)
        score = lambda p: (z[p[:, 0]] * z[p[:, 1]]).sum(1)  # noqa: E731 - one expression
        return F.softplus(-score(linked)).mean() + F.softplus(score(other)).mean()


def gaussians(m: Any, b: Batch) -> Tensor:
    """A curve as a sum of bumps, whose places, widths and heights are the parameters."""
    place, width, height = m.weight
    return F.mse_loss((height * (-((b[0] - place) / width.exp()).square()).exp()).sum(1), b[1][:, 0])


case("the likelihood of pixels one by one", Masked, digits, own, adam(3e-3), steps=150)  # 44.3 -> 19.5, independent pixels have 24.4
case("a density with a constant of 200 nats", lambda: Planar(200.0), on("moons", 64), own, adam(1e-2), steps=300)  # 203.8 -> 201.7, a normal density has 201.9
case("shares with a negative likelihood", lambda: mlp(10, 32, 2), on("friedman", change=shares), half("beta"), adam(3e-3), steps=200)  # 0.13 -> -0.983, constants have -0.19
case("heavy tails by student's density", lambda: mlp(10, 32, 2), on("friedman", change=lambda x, y: (x, 0.1 * y)), half("student"), adam(3e-3), steps=200)  # 0.762 -> -2.35, constants have -0.82
case("absolute errors with a learned scale", lambda: mlp(10, 32, 2), diabetes, half("laplace"), adam(3e-3), steps=200)  # 1.54 -> 0.912, constants have 1.51
case("counts of which many are zero", lambda: mlp(10, 32, 2), on("friedman", change=counts), zero_inflated, adam(3e-3), steps=200)  # 1.05 -> 1.08, over all rows 1.29 -> 1.07, constants have 1.25
case("the energy of a membrane", lambda: mlp(1, 24, 24, 1, act=nn.Tanh), lambda s: [(torch.rand(64, 1, generator=torch.Generator().manual_seed(s + i)),) for i in range(24)], deep_ritz, adam(3e-3), steps=200)  # -0.199 -> -2.8, exactly -2.667
case("a pendulum from its energy", lambda: mlp(2, 48, 1, act=nn.Tanh), made(pendulum), hamiltonian, adam(1e-2), steps=200)  # 0.89 -> 0.000546, var 0.961
case("a signed distance", lambda: mlp(2, 48, 48, 1, act=nn.Tanh), lambda s: [(torch.randn(64, 2, generator=torch.Generator().manual_seed(s + i)),) for i in range(24)], distance, adam(3e-3), steps=200)  # 1.22 -> 0.124
case("slices of a score", lambda: mlp(2, 48, 48, 2, act=nn.Softplus), on("moons", 64), sliced, adam(3e-3), steps=200)  # 0.09 -> -3.22, 0 for no score
case("a penalty on the slope by the inputs", lambda: mlp(64, 48, 10, act=nn.Softplus), digits, smooth, adam(3e-3), steps=150)  # 2.36 -> 0.313, H 2.3, acc 0.96
case("training against an attack", lambda: mlp(64, 48, 10), digits, attacked, adam(3e-3), steps=150)  # 2.39 -> 0.433, H 2.3, acc 0.96
case("every triplet of a batch", lambda: mlp(64, 64, 16), on("digits", 64), every_triplet, adam(1e-3), steps=200, objective="metric")  # 0.161 -> 0.00175, nearest neighbour right for 0.99
case("contrast with labels", lambda: mlp(64, 48, 16), on("digits", 64), supervised_contrast, adam(3e-3), steps=150, objective="metric")  # 3.85 -> 1.85, nearest neighbour right for 0.99
case("the order of a list", lambda: mlp(10, 32, 1), diabetes, listwise, adam(3e-3), steps=200)  # 2.6 -> 2.16, correlation 0.77
case("positives and rows without a label", lambda: mlp(30, 16, 1), on("breast_cancer", 64), unlabelled, adam(3e-3), steps=200)  # 0.76 -> 0.00594, acc 0.94 against all labels
case("a long tail with shifted logits", lambda: mlp(10, 24, 3), made(tail, size=64), adjusted, adam(3e-3), steps=150)  # 0.336 -> 0.0813, recall by class 0.93, 0.94, 0.75
case("a centre for each class", Centres, digits, own, adam(3e-3), steps=150)  # 2.34 -> 0.316
case("two views with a stopped gradient", Stopped, on("digits", 64), own, sgd(0.05, 0.9), steps=200, objective="metric")  # 0.0231 -> -0.891, nearest neighbour right for 0.94
case("weights drawn anew at each step", Uncertain, wine, own, adam(1e-2), steps=200)  # 1.89 -> 0.27, H 1.09
case("a conditional neural process", Process, made(waves), own, adam(3e-3), steps=300)  # 0.119 -> -0.333, constants have 0.20
case("an operator from two nets", Operator, made(integrals), by(F.mse_loss), adam(3e-3), steps=200)  # 0.841 -> 0.00603, var 0.429
case("weights on frequencies", Spectral, made(integrals), by(F.mse_loss), adam(1e-2), steps=200)  # 0.365 -> 0.000952, var 0.429
case("links of a graph", Links, whole(*graph()), own, adam(1e-2), steps=150)  # 1.39 -> 1.12, 2 log 2 by chance
case("a sum of bumps", lambda: Bumps(), on("sine", 64), gaussians, adam(3e-2), steps=200)  # 0.502 -> 8.33e-05, var 0.521
case("one image from fixed noise", lambda: nn.Sequential(Fn(lambda x: x), nn.Conv2d(4, 16, 3, padding=1), nn.LeakyReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()), whole(torch.randn(1, 4, 4, 4, generator=spin), table("digits")[0][:1].reshape(1, 1, 8, 8)), by(F.mse_loss), adam(1e-2), steps=200)  # 0.154 -> 8.27e-05, var 0.105


class Bumps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.linspace(-2, 2, 12), torch.full((12,), -1.0), 0.01 * torch.randn(12)]))


# ---- what is trained, and by what ---------------------------------------------------------------------------------------------------


class Newton(torch.optim.Optimizer):
    """Steps by a running mean of the gradient's outer products, damped, and solved exactly."""

    def __init__(self, parameters: Any, lr: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    g = p.grad.flatten()
                    h = state["h"] = 0.95 * state.get("h", torch.eye(len(g))) + 0.05 * torch.outer(g, g) * 30
                    p.sub_(group["lr"] * torch.linalg.solve(h + 0.1 * torch.eye(len(g)), g).reshape(p.shape))


class Lars(torch.optim.Optimizer):
    """Each layer moves by a fixed part of its own length, whatever its gradient's size."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad * (p.norm() + 1e-2) / (p.grad.norm() + 1e-9))


class Probed(nn.Module):
    """A probe reads detached features; its loss is meant not to reach the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.probe = mlp(64, 48, 32), nn.Linear(32, 10), nn.Linear(32, 2)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.trunk(x).relu()
        return F.cross_entropy(self.head(h), y) + F.cross_entropy(self.probe(h.detach()), y % 2)


class Adapted(nn.Module):
    """A random frozen net with small residual layers in it, whose last matrices are 0, and a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)]).requires_grad_(False)
        self.adapters, self.head = nn.ModuleList(mlp(64, 8, 64) for _ in range(2)), nn.Linear(64, 10)
        for a in self.adapters:
            nn.init.zeros_(a[2].weight)

    def forward(self, x: Tensor) -> Tensor:
        for layer, adapter in zip(self.frozen, self.adapters, strict=True):
            h = layer(x).relu()
            x = h + adapter(h)
        return self.head(x)


class OneStep(nn.Module):
    """Sines: a step on six points of each, and the loss on the others, through that step (Finn et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 32, 32, 1, act=nn.Tanh)

    def task(self, p: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(self.net, p, x[:, None]).squeeze(1), y)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        def later(x: Tensor, y: Tensor) -> Tensor:
            g = grad(self.task)(p, x[:6], y[:6])
            return self.task({k: v - 0.1 * g[k] for k, v in p.items()}, x[6:], y[6:])

        p = dict(self.net.named_parameters())
        return vmap(later)(x[:8], y[:8]).mean()


class Batched(nn.Module):
    """Four members share one matrix, and differ by vectors of signs."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.r, self.s, self.head = nn.Linear(64, 48), nn.Parameter(torch.randn(4, 64).sign()), nn.Parameter(torch.randn(4, 48).sign()), nn.Linear(48, 10)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.head((self.w(x * self.r[:, None]) * self.s[:, None]).relu())
        return F.cross_entropy(z.flatten(0, 1), y.repeat(4))


def only(*kinds: type) -> Callable[[Any], None]:
    """Freeze all that does not belong to a module of these kinds."""

    def change(model: Any) -> None:
        model.requires_grad_(False)
        for m in model.modules():
            if isinstance(m, kinds):
                m.requires_grad_(True)

    return change


def only_biases(model: Any) -> None:
    for name, p in model.named_parameters():
        p.requires_grad_(name.endswith("bias"))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


case("only batch norm is trained", changed(normed, only(nn.BatchNorm1d)), digits, ce, adam(1e-2), steps=200)  # 2.33 -> 0.904, H 2.3, acc 0.85
case("only the biases of a fitted net", lambda: (lambda m: (only_biases(m), m)[1])(trained(lambda: mlp(64, 48, 10), digits, ce, 200)), on("digits", change=lambda x, y: (x + 1.0, y)), ce, adam(1e-2), steps=200)  # 0.771 -> 0.243, H 2.3, acc 0.94
case("adapters that begin as nothing in a frozen net", Adapted, digits, ce, adam(3e-3), steps=150)  # 2.28 -> 0.369, H 2.3, acc 0.88
case("weights that are good one step later", OneStep, made(waves), own, adam(3e-3), steps=200)  # 0.741 -> 0.241, var 0.55
case("a probe on detached features", Probed, digits, own, adam(3e-3), steps=150)  # 3 -> 0.366, H 2.30 + 0.69
case("an ensemble in one batch", Batched, digits, own, adam(3e-3), steps=150)  # 2.29 -> 0.151, H 2.30
case("steps in proportion to each layer's length", lambda: mlp(64, 48, 10), digits, ce, lambda p: Lars(p, 0.02), steps=200)  # 2.31 -> 0.149, H 2.3, acc 0.97
case("a logistic regression with its own curvature", lambda: nn.Linear(30, 2), on("breast_cancer", 128), ce, lambda p: Newton(p, 0.3), steps=100)  # 0.691 -> 0.0469, H 0.662, acc 0.99
case("momentum of 0.99 at a small rate", lambda: mlp(64, 48, 10), digits, ce, sgd(2e-3, 0.99, nesterov=True), steps=300)  # 2.31 -> 0.225, H 2.3, acc 0.94
case("adadelta at its own rate", lambda: mlp(64, 48, 10), digits, ce, use("Adadelta", 1.0), steps=200)  # 2.31 -> 0.155, H 2.3, acc 0.96
case("batches of two with group norm", lambda: nn.Sequential(image(), nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)), on("digits", 2, count=300), ce, adam(1e-3), steps=300)  # 2.33 -> 0.335, H 2.3, acc 0.96
case("batches of every size", lambda: mlp(13, 24, 3), lambda s: [b for size in (1, 48, 3, 17, 80, 2) for b in on("wine", size, count=5)(s)], ce, adam(3e-3), steps=150)  # 0.842 -> 0.0369, H 1.09, acc 0.99
case("mixed patches of images", lambda: cnn(), lambda s: [patched(b, s + i) for i, b in enumerate(digits(s))], ce, adam(3e-3), steps=150)  # 2.33 -> 1.11, mixed labels


def patched(batch: Batch, seed: int) -> Batch:
    """The left part of each image comes from another one, and so does that share of its label."""
    x, y = batch[0].reshape(-1, 8, 8), F.one_hot(batch[1], 10).float()
    g = torch.Generator().manual_seed(seed)
    other, width = torch.randperm(len(x), generator=g), int(torch.randint(1, 4, (), generator=g))
    return torch.cat([x[other, :, :width], x[:, :, width:]], 2).flatten(1), y * (1 - width / 8) + y[other] * width / 8


# ---- loops ------------------------------------------------------------------------------------------------------------------------------


def annealed(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """The weight of the divergence grows from 0, and with it the loss."""
    for i, (x, _) in enumerate(cycle(digits(seed), 200)):
        mean, log_var = model["encoder"](x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()
        loss = F.mse_loss(model["decoder"](z), x) + min(i / 150, 1.0) * 0.005 * kl
        learn(watch, optimizer, loss)


def pruning(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """A fifth of the weights that are left goes every 30 steps; the loss jumps and comes back."""
    masks = {n: torch.ones_like(p) for n, p in model.named_parameters() if p.dim() > 1}
    for i, batch in enumerate(cycle(digits(seed), 200)):
        loss = ce(model, batch)
        learn(watch, optimizer, loss)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in masks:
                    if i % 30 == 29 and i < 130:
                        left = (p * masks[n]).abs()
                        masks[n] = (left > left[masks[n] > 0].quantile(0.2)).float()
                    p.mul_(masks[n])


def arriving(seed: int) -> list[Batch]:
    """Five classes first, then all ten."""
    x, y = table("digits")
    return [*rows(x[y < 5], y[y < 5], 32, seed, 80), *rows(x, y, 32, seed, 140)]


def least_squares_game(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    for_d, for_g = optimizers
    for real, _ in cycle(on("moons", 64)(seed), 200):
        fake = model["g"](torch.randn(len(real), 4))
        for_d.zero_grad()
        loss = (model["d"](real) - 1).square().mean() + model["d"](fake.detach()).square().mean()
        watch.record(loss=loss)
        loss.backward()
        for_d.step()
        for_g.zero_grad()
        (model["d"](fake) - 1).square().mean().backward()
        for_g.step()


def actor_critic(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """A walk on seven places with a prize at its right end; the loss is often negative."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(120):
        at, logs, values, entropies, prizes = torch.full((16,), 3), [], [], [], []
        for _ in range(8):
            h = model["trunk"](F.one_hot(at, 7).float()).tanh()
            p = model["actor"](h).softmax(1)
            act = torch.multinomial(p.detach(), 1, generator=g).squeeze(1)
            logs.append(p.gather(1, act[:, None]).squeeze(1).log())
            values.append(model["critic"](h).squeeze(1))
            entropies.append(-(p * p.log()).sum(1))
            at = (at + 2 * act - 1).clamp(0, 6)
            prizes.append((at == 6).float())
        gain, returns = torch.zeros(16), []
        for prize in reversed(prizes):
            gain = prize + 0.9 * gain
            returns.insert(0, gain)
        r, v = torch.stack(returns), torch.stack(values)
        loss = -(torch.stack(logs) * (r - v).detach()).mean() + 0.5 * (r - v).square().mean() - 0.01 * torch.stack(entropies).mean()
        learn(watch, optimizer, loss)


def mutual(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    """Two nets teach each other."""
    for x, y in cycle(digits(seed), 150):
        for me, you, optimizer in ((model[0], model[1], optimizers[0]), (model[1], model[0], optimizers[1])):
            z = me(x)
            loss = F.cross_entropy(z, y) + F.kl_div(z.log_softmax(1), you(x).detach().softmax(1), reduction="batchmean")
            if me is model[0]:
                watch.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def wide_and_deep(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    for x, y in cycle(cancer(seed), 150):
        loss = F.cross_entropy(model["wide"](x) + model["deep"](x), y)
        watch.record(loss=loss)
        for o in optimizers:
            o.zero_grad()
        loss.backward()
        for o in optimizers:
            o.step()


def in_turns(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    """Users and things of a table of ratings move on alternate steps."""
    g = torch.Generator().manual_seed(58)
    truth = torch.randn(40, 3, generator=g) @ torch.randn(3, 30, generator=g)
    for i in range(200):
        loss = F.mse_loss(model["users"].weight @ model["things"].weight.T, truth)
        watch.record(loss=loss)
        for o in optimizers:
            o.zero_grad()
        loss.backward()
        optimizers[i // 5 % 2].step()


def langevin(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Noise is added to the weights after each step: samples of a posterior, not a minimum."""
    steps(digits, ce, 200, after=lambda m, i: [p.data.add_(torch.randn_like(p), alpha=0.01) for p in m.parameters()])(model, optimizer, seed, watch)


def centred(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Hooks take the mean out of each gradient."""
    for p in model.parameters():
        if p.dim() > 1:
            p.register_hook(lambda g: g - g.mean(1, keepdim=True))
    steps(digits, ce, 150)(model, optimizer, seed, watch)


def masters(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """The net is kept in bfloat16; the optimizer holds a float32 copy of each weight, steps it, and it is copied back."""
    for x, y in cycle(digits(seed), 150):
        loss = F.cross_entropy(model(x.bfloat16()).float(), y)
        watch.record(loss=loss)
        model.zero_grad()
        loss.backward()
        for p, q in zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True):
            q.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True):
                p.copy_(q)


def scaled(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    for batch in cycle(digits(seed), 150):
        loss = ce(model, batch)
        watch.record(loss=loss)
        optimizer.zero_grad()
        (loss * 4096).backward()
        for p in model.parameters():
            p.grad.div_(4096)
        optimizer.step()


def autocast(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    for i, batch in enumerate(cycle(on("digits", 16)(seed), 320)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = ce(model, batch)
        watch.record(loss=loss)
        (loss / 4).backward()
        if i % 4 == 3:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def per_sample(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Each sample's gradient is clipped and noise is added: training with differential privacy."""
    names = [n for n, _ in model.named_parameters()]
    each = vmap(jacrev(lambda p, x, y: F.cross_entropy(functional_call(model, p, x[None]), y[None])), (None, 0, 0))
    for x, y in cycle(on("digits", 64)(seed), 150):
        watch.record(loss=F.cross_entropy(model(x), y))
        gradients = each({n: p.detach() for n, p in model.named_parameters()}, x, y)
        norm = sum(g.flatten(1).square().sum(1) for g in gradients.values()).sqrt()
        share = (1 / norm).clamp(max=1)
        for n, p in zip(names, model.parameters(), strict=True):
            p.grad = torch.einsum("b,b...->...", share, gradients[n]) / len(x) + 0.005 * torch.randn_like(p)
        optimizer.step()


def clipped_by_history(count: int) -> Body:
    """A gradient is cut to twice the running mean of its norm."""

    def body(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        mean = None
        for batch in cycle(text()(seed), count):
            loss = per_letter(model, batch)
            watch.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf if mean is None else 2 * mean)
            mean = float(norm) if mean is None else 0.9 * mean + 0.1 * min(float(norm), 2 * mean)
            optimizer.step()

    return body


loop("a divergence whose weight grows", lambda: nn.ModuleDict({"encoder": mlp(64, 48, 16), "decoder": mlp(8, 48, 64)}), annealed, adam(3e-3))  # 0.311 -> 0.0641
loop("a net that is pruned as it learns", lambda: mlp(64, 64, 10), pruning, adam(3e-3))  # 2.34 -> 0.279, H 2.30
loop("five classes, then ten", lambda: mlp(64, 48, 10), steps(arriving, ce, 220), adam(3e-3))  # 2.32 -> 0.368, peak 4.91
loop("a game of least squares", lambda: nn.ModuleDict({"g": mlp(4, 32, 2), "d": mlp(2, 32, 1, act=nn.LeakyReLU)}), least_squares_game, lambda m: [torch.optim.Adam(m[k].parameters(), lr=1e-3, betas=(0.5, 0.9)) for k in "dg"], holds=lambda m: m, objective="adversarial")  # 0.457 -> 0.47, the fake mean is 0.1 off, was 0.7
loop("an actor and its critic", lambda: nn.ModuleDict({"trunk": nn.Linear(7, 32), "actor": nn.Linear(32, 2), "critic": nn.Linear(32, 1)}), actor_critic, adam(1e-2), objective="reinforcement")  # 0.356 -> 0.375, prizes of a walk 0.4 -> 6.0 of 8
loop("two nets that teach each other", lambda: nn.ModuleList([mlp(64, 48, 10), mlp(64, 32, 32, 10)]), mutual, lambda m: [torch.optim.Adam(n.parameters(), lr=3e-3) for n in m], holds=lambda m: m)  # 2.33 -> 0.403, H 2.30
loop("a wide part and a deep part", lambda: nn.ModuleDict({"wide": nn.Linear(30, 2), "deep": mlp(30, 24, 2)}), wide_and_deep, lambda m: [torch.optim.SGD(m["wide"].parameters(), lr=0.01), torch.optim.Adam(m["deep"].parameters(), lr=3e-3)], holds=lambda m: m)  # 0.683 -> 0.05, H 0.66
loop("float32 masters of a bfloat16 net", lambda: mlp(64, 48, 10).bfloat16(), masters, sgd(0.1, 0.9), holds=lambda m: [p.detach().float().requires_grad_() for p in m.parameters()])  # 2.31 -> 0.102, H 2.30
loop("a loss times 4096 and gradients divided again", lambda: cnn(norm=False), scaled, sgd(0.05, 0.9))  # 2.31 -> 0.672, H 2.30
loop("autocast, four batches for a step, and a clip", lambda: patches(), autocast, use("AdamW", 3e-3))  # 2.33 -> 0.768, H 2.30
loop("two tables that move in turns", lambda: nn.ModuleDict({"users": nn.Embedding(40, 3), "things": nn.Embedding(30, 3)}), in_turns, lambda m: [torch.optim.Adam(m[k].parameters(), lr=0.05) for k in ("users", "things")], holds=lambda m: m)  # 7.82 -> 0.00652
loop("noise on the weights", lambda: mlp(64, 48, 10), langevin, sgd(0.1))  # 2.31 -> 0.494, H 2.30
loop("gradients without their mean", lambda: mlp(64, 48, 10), centred, sgd(0.1, 0.9))  # 2.31 -> 0.103, H 2.30
loop("gradients of single samples, clipped and noised", lambda: mlp(64, 32, 10), per_sample, sgd(0.5))  # 2.34 -> 0.478, H 2.30
loop("clipped by its own history", lambda: Recurrent("LSTM", VOCABULARY, 32, VOCABULARY, ids=True, every=True), clipped_by_history(120), adam(1e-2))  # 3.1 -> 0.543, H 2.74
loop("warm-up and the inverse root of the step", lambda: patches(layers=2), steps(digits, ce, 200, schedule=lambda o: schedules.LambdaLR(o, lambda i: min((i + 1) / 60, (60 / (i + 1)) ** 0.5))), adam(3e-3))  # 2.3 -> 0.575, H 2.30
loop("a rate of zero for the last quarter", lambda: mlp(13, 24, 3), steps(wine, ce, 200, schedule=lambda o: schedules.PolynomialLR(o, 150)), adam(1e-2))  # 1.05 -> 0.0103, H 1.09

# ---- NumPy: gradients by hand ----------------------------------------------------------------------------------------------------------


class Elman:
    """A tanh recurrence over the rows of a digit, softmax and cross-entropy, with backpropagation through time."""

    def start(self) -> dict[str, Any]:
        r = np.random.default_rng(5)
        return {"wx": r.normal(0, 0.3, (8, 32)), "wh": r.normal(0, 0.17, (32, 32)), "b": np.zeros(32), "wo": r.normal(0, 0.17, (32, 10)), "bo": np.zeros(10)}

    def states(self, p: Any, x: Any) -> list[Any]:
        h = [np.zeros((len(x), 32))]
        for t in range(8):
            h.append(np.tanh(x.reshape(-1, 8, 8)[:, t] @ p["wx"] + h[-1] @ p["wh"] + p["b"]))
        return h

    def probabilities(self, p: Any, h: Any) -> Any:
        return softmax(h @ p["wo"] + p["bo"])

    def loss(self, p: Any, batch: Any) -> Any:
        return -(batch[1] * np.log(self.probabilities(p, self.states(p, batch[0])[-1]) + 1e-300)).sum(1).mean()

    def grad(self, p: Any, batch: Any) -> Any:
        x, h = batch[0].reshape(-1, 8, 8), self.states(p, batch[0])
        dz = (self.probabilities(p, h[-1]) - batch[1]) / len(x)
        g = {k: np.zeros_like(v) for k, v in p.items()} | {"wo": h[-1].T @ dz, "bo": dz.sum(0)}
        dh = dz @ p["wo"].T
        for t in reversed(range(8)):
            da = dh * (1 - h[t + 1] ** 2)
            g["wx"] += x[:, t].T @ da
            g["wh"] += h[t].T @ da
            g["b"] += da.sum(0)
            dh = da @ p["wh"].T
        return g

    def activations(self, p: Any, batch: Any) -> Any:
        return {"state": self.states(p, batch[0])[-1]}


class TiedCoder:
    """An autoencoder whose decoder is its encoder, transposed."""

    def start(self) -> dict[str, Any]:
        return {"w": np.random.default_rng(6).normal(0, 0.12, (64, 16)), "b": np.zeros(16), "c": np.zeros(64)}

    def code(self, p: Any, x: Any) -> Any:
        return np.tanh(x @ p["w"] + p["b"])

    def loss(self, p: Any, batch: Any) -> Any:
        return ((self.code(p, batch[0]) @ p["w"].T + p["c"] - batch[0]) ** 2).sum(1).mean()

    def grad(self, p: Any, batch: Any) -> Any:
        x, h = batch[0], self.code(p, batch[0])
        dy = 2 * (h @ p["w"].T + p["c"] - x) / len(x)
        da = dy @ p["w"] * (1 - h**2)
        return {"w": x.T @ da + dy.T @ h, "b": da.sum(0), "c": dy.sum(0)}


class Rates:
    """Poisson regression of counts: the mean log-likelihood without its constant may be negative."""

    def loss(self, p: Any, batch: Any) -> Any:
        z = batch[0] @ p["w"] + p["b"]
        return (np.exp(z) - batch[1] * z).mean()

    def grad(self, p: Any, batch: Any) -> Any:
        r = (np.exp(batch[0] @ p["w"] + p["b"]) - batch[1]) / len(batch[1])
        return {"w": batch[0].T @ r, "b": r.sum(keepdims=True)}


def count_rows(seed: int) -> list[Any]:
    r = np.random.default_rng(seed)
    w = np.random.default_rng(59).normal(0, 0.4, 6)
    return [(x, r.poisson(np.exp(x @ w + 0.7)).astype(float)) for x in r.normal(size=(24, 64, 6))]


elman, tied, rates = Elman(), TiedCoder(), Rates()
case("numpy recurrence through time", elman.start, lambda s: digits_numpy(), elman.loss, gg.SGD(0.3), steps=200, grad=elman.grad, activations=elman.activations)  # 2.34 -> 0.066, H 2.30
case("numpy autoencoder with tied weights", tied.start, lambda s: digits_numpy(), tied.loss, gg.SGD(0.02), steps=200, grad=tied.grad)  # 10.9 -> 1.38, var 4.7
case("numpy regression of counts", lambda: {"w": np.zeros(6), "b": np.zeros(1)}, count_rows, rates.loss, gg.SGD(0.05), steps=200, grad=rates.grad)  # 1 -> -4.36, a constant has -1.72
