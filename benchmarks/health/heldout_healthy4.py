"""Held-out healthy programs, fourth draw: they train, and look suspicious; written before any of them was judged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses
from torch.nn.utils import parametrizations, prune

import gradguard as gg
from benchmarks.health.heldout_batches import made, on, pairs, text, whole
from benchmarks.health.heldout_data import VOCABULARY, clusters, graph, padded, sequences, squares
from benchmarks.health.heldout_layers import Fn, Lora, Positions, Recurrent, Residual, block, cnn, image, mlp
from benchmarks.health.heldout_loops import adam, by, ce, cycle, itself, learn, mse, own, per_letter, sgd, steps, trained, use
from benchmarks.health.heldout_nets import Quantised, Segmenter, Variational, changed, freeze, language_model, patches, weights
from benchmarks.health.heldout_numpy import Written, digits_numpy
from benchmarks.health.heldout_programs import Batch, Data, HealthyTable

healthy = HealthyTable()
case, loop = healthy.case, healthy.loop
schedules = torch.optim.lr_scheduler

digits, wine, cancer, diabetes = on("digits"), on("wine"), on("breast_cancer"), on("diabetes")

# ---- units that are often silent, and layers that hardly move --------------------------------------------------------------

case("dropout of 0.8", lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 10)), digits, ce, adam(3e-3), steps=200)
case("dropout on inputs and layers", lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2)), cancer, ce, adam(3e-3), steps=150)
case("a penalty on activations", lambda: mlp(64, 128, 10), digits, lambda m, b: ce(m, b) + 1e-3 * m[1](m[0](b[0])).sum(1).mean(), adam(3e-3), steps=200)
case("five winners of a layer", lambda: nn.Sequential(nn.Linear(64, 128), Fn(lambda h: h * (h >= h.topk(12, 1).values[:, -1:])), nn.Linear(128, 10)), digits, ce, adam(3e-3), steps=150)
case("a pruned net", changed(lambda: mlp(64, 128, 10), lambda m: prune.random_unstructured(m[0], "weight", 0.9)), digits, ce, adam(3e-3), steps=200)
case("maxout", lambda: nn.Sequential(nn.Linear(64, 96), Fn(lambda h: h.unflatten(1, (24, 4)).amax(2)), nn.Linear(24, 10)), digits, ce, sgd(0.1), steps=150)
case("swiglu", lambda: nn.Sequential(nn.Linear(64, 32), Residual(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), Fn(lambda h: F.silu(h[:, :32]) * h[:, 32:]), nn.Linear(32, 32))), nn.Linear(32, 10)), digits, ce, use("AdamW", 3e-3))
case("sigmoid net on moons", lambda: mlp(2, 16, 16, 2, act=nn.Sigmoid), on("moons"), ce, adam(5e-2), steps=200)
case("tanh net on xor", lambda: mlp(2, 8, 2, act=nn.Tanh), on("xor"), ce, adam(3e-2), steps=200)
case("spirals", lambda: mlp(2, 48, 48, 2, act=nn.Tanh), on("spirals", 64), ce, adam(1e-2), steps=400)
case("twelve selu layers", changed(lambda: mlp(64, *[48] * 12, 10, act=nn.SELU), weights(lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"), biases=torch.zero_)), digits, ce, sgd(0.01, 0.9), steps=150)
case("twenty relu layers with layer norm", lambda: nn.Sequential(nn.Linear(64, 32), *(part for _ in range(19) for part in (nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU())), nn.Linear(32, 10)), digits, ce, adam(1e-3), steps=300)
case("one wide layer", lambda: mlp(64, 4096, 10), on("digits", count=12), ce, sgd(0.05))
case("two tanh units", lambda: mlp(4, 2, 3, act=nn.Tanh), on("iris"), ce, adam(5e-2), steps=200)
case("one feature", lambda: mlp(1, 48, 48, 1, act=nn.Tanh), on("sine"), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(5e-3), steps=300)
case("constant columns", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: ((x - x.mean(0)) / (x.std(0) + 1e-6), y)), ce, adam(1e-3), steps=100)
case("counts of rare words", lambda: mlp(800, 32, 2), lambda seed: bags(seed), ce, adam(1e-2), steps=150)
case("leaky units and a batch of one", lambda: mlp(13, 24, 3, act=nn.LeakyReLU), on("wine", 1, count=170), ce, sgd(0.01), steps=170)
case("raw inputs into batch norm", lambda: nn.Sequential(nn.BatchNorm1d(13), *mlp(13, 24, 3)), on("wine", scaled=False), ce, adam(3e-3), steps=150)


def bags(seed: int) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(24):
        y = torch.randint(0, 2, (32,), generator=g)
        words = torch.randint(0, 30, (32, 12), generator=g) + 30 * y[:, None]
        batches.append((torch.zeros(32, 800).scatter_add_(1, words, torch.ones(32, 12)), y))
    return batches


# ---- initialisations at zero ---------------------------------------------------------------------------------------------------


def fitted(net: Callable[[], Any], data: Data, loss: Any, count: int = 300, lr: float = 3e-3) -> Callable[[], Any]:
    """The net after plain training, when it is asked for."""
    return lambda: trained(net, data, loss, count, lr)


def adapted() -> nn.Sequential:
    base = fitted(lambda: mlp(64, 48, 10), digits, ce)()
    return nn.Sequential(Lora(base[0]), nn.ReLU(), Lora(base[2]))


class AdaZero(nn.Module):
    """A block whose shift, scale and gate come from a layer of zeros (DiT)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.body, self.modulation = nn.LayerNorm(d, elementwise_affine=False), mlp(d, 2 * d, d, act=nn.GELU), nn.Linear(d, 3 * d)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(c)).chunk(3, -1)
        return x + gate * self.body(self.norm(x) * (1 + scale) + shift)


class Diffusion(nn.Module):
    """Noise prediction on moons; the last layer begins at 0 too."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.lift, self.time, self.blocks, self.last = nn.Linear(2, d), mlp(16, d, d, act=nn.SiLU), nn.ModuleList(AdaZero(d) for _ in range(3)), nn.Linear(d, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        t = torch.rand(len(x), 1)
        signal, noise = (1 - t).sqrt(), torch.randn_like(x)
        angle = t * 100 * torch.exp(-torch.arange(8) / 2)
        c, h = self.time(torch.cat([angle.sin(), angle.cos()], 1)), self.lift(signal * x + t.sqrt() * noise)
        for part in self.blocks:
            h = part(h, c)
        return F.mse_loss(self.last(h), noise)


class Fixup(nn.Module):
    """A residual net without normalisation: last layers at 0, first ones scaled by L^-1/2, scalar biases and multipliers."""

    def __init__(self, d: int = 48, depth: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, d), nn.Linear(d, 10)
        self.a, self.b = (nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(depth)) for _ in range(2))
        self.bias, self.multiply = nn.Parameter(torch.zeros(depth, 4)), nn.Parameter(torch.ones(depth))
        for a, b in zip(self.a, self.b, strict=True):
            nn.init.normal_(a.weight, 0, (2 / d) ** 0.5 * depth**-0.5)
            nn.init.zeros_(b.weight)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for i, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            s = self.bias[i]
            h = h + self.multiply[i] * b(F.relu(a(h + s[0]) + s[1]) + s[2]) + s[3]
        return self.last(h)


def zero_residual() -> nn.Sequential:
    """Convolutional residual blocks whose last normalisation begins at 0."""
    blocks = []
    for _ in range(3):
        norm = nn.BatchNorm2d(12)
        nn.init.zeros_(norm.weight)
        blocks.append(Residual(nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, bias=False), norm)))
    return nn.Sequential(image(), nn.Conv2d(1, 12, 3, padding=1), *blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))


case("lora on a fitted net", adapted, on("digits", change=lambda x, y: (x, (y + 1) % 10)), ce, adam(1e-2), steps=100)
case("zero residual branches in a cnn", zero_residual, digits, ce, sgd(0.05, 0.9), steps=60)
case("diffusion with zero gates", Diffusion, on("moons", 64), own, adam(3e-3), steps=200)
case("fixup", Fixup, digits, ce, adam(1e-3), steps=100)
case("a zero head", changed(lambda: mlp(64, 48, 10), lambda m: (nn.init.zeros_(m[2].weight), nn.init.zeros_(m[2].bias))), digits, ce, sgd(0.1))
case("skip initialisation", lambda: SkipInit(), digits, ce, adam(3e-3), steps=60)


class SkipInit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.branches, self.gains, self.head = nn.Linear(64, 32), nn.ModuleList(mlp(32, 32, 32) for _ in range(6)), nn.Parameter(torch.zeros(6)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        for gain, branch in zip(self.gains, self.branches, strict=True):
            h = h + gain * branch(h)
        return self.head(h)


# ---- gradients that are not the derivative -------------------------------------------------------------------------------------


class Surrogate(torch.autograd.Function):
    """A step forward, the derivative of a fast sigmoid backward."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return g / (1 + 5 * v.abs()) ** 2


class Spiking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        v, total = x.new_zeros(len(x), 64), x.new_zeros(len(x), 10)
        for _ in range(8):
            v = 0.8 * v + self.a(x)
            spikes = Surrogate.apply(v - 1.0)
            v = v - spikes.detach()
            total = total + self.b(spikes)
        return total / 8


class BinaryLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight + (self.weight.sign() * self.weight.abs().mean() - self.weight).detach()
        return F.linear(x, w, self.bias)


def fake_quantised(x: Tensor, bits: int = 4) -> Tensor:
    scale = x.detach().abs().amax().clamp(min=1e-8) / 2 ** (bits - 1)
    return x + ((x / scale).round() * scale - x).detach()


class QuantisedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(fake_quantised(x, 8), fake_quantised(self.weight), self.bias)


case("spikes with a surrogate", Spiking, digits, ce, adam(3e-3), steps=100)
case("binary weights", lambda: nn.Sequential(BinaryLinear(64, 128), nn.BatchNorm1d(128), nn.Hardtanh(), BinaryLinear(128, 10), nn.BatchNorm1d(10)), digits, ce, adam(3e-3), steps=100)
case("four-bit weights", lambda: nn.Sequential(QuantisedLinear(64, 48), nn.ReLU(), QuantisedLinear(48, 10)), digits, ce, adam(3e-3), steps=100)
case("torch's own fake quantisation", lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), Fn(lambda h: torch.fake_quantize_per_tensor_affine(h, 0.02, 0, 0, 255)), nn.Linear(48, 10)), digits, ce, adam(3e-3), steps=100)
case("a codebook near its encoder", changed(Quantised, lambda m: nn.init.normal_(m.codes.weight, 0, 0.15)), digits, own, adam(3e-3), steps=150)
case("gumbel softmax codes", lambda: nn.Sequential(mlp(64, 48, 32), Fn(lambda z: F.gumbel_softmax(z.unflatten(1, (4, 8)), hard=True).flatten(1)), mlp(32, 48, 64)), digits, itself, adam(3e-3), steps=150)

# ---- losses with an odd size or sign -------------------------------------------------------------------------------------------

case("summed loss at its own rate", lambda: mlp(64, 32, 10), on("digits", 64), by(F.cross_entropy, reduction="sum"), sgd(3e-3), steps=100)
case("labels of a thousandth", lambda: mlp(10, 32, 1), on("friedman", change=lambda x, y: (x, 1e-3 * y)), mse, adam(1e-3), steps=300)
case("one in thirty", lambda: mlp(8, 24, 2), made(clusters, 8, 2, 2000, weights=[0.967], flip_y=0.0, size=64), ce, adam(1e-2), steps=200)
case("focal loss", lambda: mlp(8, 24, 1), made(clusters, 8, 2, 2000, weights=[0.95], flip_y=0.0, size=64), lambda m, b: focal(m(b[0]).squeeze(1), b[1].float()), adam(1e-2), steps=200)
case("label smoothing of 0.2", lambda: mlp(13, 24, 3), wine, by(F.cross_entropy, label_smoothing=0.2), adam(1e-2), steps=150)
case("a third of the labels wrong", lambda: mlp(64, 24, 10), on("digits", count=56, change=lambda x, y: (x, y.where(torch.rand(len(y), generator=torch.Generator().manual_seed(5)) > 0.33, torch.randint(0, 10, y.shape, generator=torch.Generator().manual_seed(6))))), ce, adam(3e-3), steps=200)
case("frequencies of letters alone", lambda: nn.Sequential(Fn(lambda x: torch.ones(x.numel(), 1)), nn.Linear(1, VOCABULARY, bias=False)), text(), lambda m, b: F.cross_entropy(m(b[0]), b[1].flatten()), adam(5e-2), steps=200)
case("log-softmax before cross-entropy", lambda: mlp(13, 24, 3, last=(nn.LogSoftmax(1),)), wine, ce, adam(1e-2))
case("brier score", lambda: mlp(64, 32, 10, last=(nn.Softmax(1),)), digits, lambda m, b: (m(b[0]) - F.one_hot(b[1], 10)).square().sum(1).mean(), adam(1e-2), steps=150)
case("sigmoid and squares for a probability", lambda: mlp(30, 16, 1, last=(nn.Sigmoid(),)), cancer, lambda m, b: F.mse_loss(m(b[0]).squeeze(1), b[1].float()), adam(1e-2), steps=100)
case("relu output for counts", lambda: mlp(10, 32, 1, last=(nn.ReLU(),)), on("friedman", scaled=False), mse, adam(1e-2), steps=200)
case("tanh output for sines", lambda: mlp(1, 64, 1, act=nn.Tanh, last=(nn.Tanh(),)), on("sine"), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(2e-2), steps=300)
case("poisson regression", lambda: mlp(10, 32, 1), on("friedman", scaled=False, change=lambda x, y: (x, y.clamp(min=0).round())), by(lambda z, y: F.poisson_nll_loss(z.squeeze(1), y)), adam(1e-2), steps=200)
case("quantiles", lambda: mlp(10, 32, 3), diabetes, lambda m, b: pinball(m(b[0]), b[1]), adam(1e-2), steps=200)
case("a mixture of normals", lambda: mlp(1, 32, 9, act=nn.Tanh), on("sine"), lambda m, b: mixture(m(b[0]), b[1]), adam(1e-2), steps=200)
case("mean and variance", lambda: mlp(10, 32, 2), on("friedman"), lambda m, b: F.gaussian_nll_loss(m(b[0])[:, 0], b[1], F.softplus(m(b[0])[:, 1]) + 1e-4), adam(1e-2), steps=200)
case("a scaling layer for large labels", lambda: mlp(10, 32, 1, last=(Fn(lambda z: 152 + 77 * z),)), on("diabetes", scaled=False, change=lambda x, y: (x / x.std(0), y)), mse, adam(1e-2), steps=200)
case("margin loss of several classes", lambda: mlp(64, 32, 10), digits, by(F.multi_margin_loss), sgd(0.5), steps=150)
case("hinge loss", lambda: nn.Linear(30, 1), cancer, lambda m, b: (1 - (2 * b[1] - 1) * m(b[0]).squeeze(1)).clamp(min=0).mean(), sgd(0.05), steps=100)
case("kl divergence to soft labels", lambda: mlp(4, 16, 3), on("iris", change=lambda x, y: (x, 0.85 * F.one_hot(y, 3).float() + 0.05)), lambda m, b: F.kl_div(m(b[0]).log_softmax(1), b[1], reduction="batchmean"), adam(1e-2), steps=150)
case("cosines times 16", lambda: nn.Sequential(mlp(64, 32, 16), Fn(lambda h: 16 * F.normalize(h, dim=1)), parametrizations.weight_norm(nn.Linear(16, 10, bias=False))), digits, ce, adam(3e-3), steps=100)
case("proportional hazards", lambda: mlp(10, 16, 1), on("friedman", 64), lambda m, b: cox(m(b[0]).squeeze(1), b[1]), adam(1e-2), steps=150)
case("ctc", lambda: Recurrent("GRU", 4, 32, 5, every=True), lambda seed: strokes(seed), lambda m, b: F.ctc_loss(m(b[0]).log_softmax(-1).transpose(0, 1), b[1], torch.full((len(b[0]),), 20), torch.full((len(b[0]),), 4)), adam(1e-2), steps=200)
case("huber loss with outliers", lambda: mlp(10, 32, 1), on("friedman", change=lambda x, y: (x, y.where(torch.arange(len(y)) % 25 != 0, y * 30))), by(lambda z, y: F.huber_loss(z.squeeze(1), y)), adam(1e-2), steps=200)


def focal(z: Tensor, y: Tensor) -> Tensor:
    p = torch.where(y > 0.5, z.sigmoid(), 1 - z.sigmoid())
    return ((1 - p) ** 2 * F.binary_cross_entropy_with_logits(z, y, reduction="none")).mean()


def pinball(z: Tensor, y: Tensor) -> Tensor:
    q, rest = torch.tensor([0.1, 0.5, 0.9]), y[:, None] - z
    return torch.maximum(q * rest, (q - 1) * rest).mean()


def mixture(z: Tensor, y: Tensor) -> Tensor:
    weight, mean, log_scale = z.chunk(3, 1)
    each = weight.log_softmax(1) - 0.5 * ((y - mean) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)
    return -each.logsumexp(1).mean()


def cox(risk: Tensor, time: Tensor) -> Tensor:
    order = time.argsort(descending=True)
    return (risk[order].logcumsumexp(0) - risk[order]).mean()


def strokes(seed: int) -> list[Batch]:
    """Four symbols one after the other, five noisy steps each (two of them empty)."""
    g = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(24):
        y = torch.randint(1, 5, (32, 4), generator=g)
        x = F.one_hot(y - 1, 4).float().repeat_interleave(5, 1)
        x[:, 3::5] = 0
        x[:, 4::5] = 0
        batches.append((x + 0.1 * torch.randn(x.shape, generator=g), y))
    return batches


# ---- what is learnt without labels ----------------------------------------------------------------------------------------------


def views(x: Tensor) -> tuple[Tensor, Tensor]:
    return x + 0.1 * torch.randn_like(x), (x * (torch.rand_like(x) > 0.2)) + 0.05 * torch.randn_like(x)


def contrast(model: Any, batch: Batch) -> Tensor:
    a, b = (F.normalize(model(v), dim=1) for v in views(batch[0]))
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


def barlow(model: Any, batch: Batch) -> Tensor:
    a, b = ((h - h.mean(0)) / (h.std(0) + 1e-4) for h in map(model, views(batch[0])))
    c = a.T @ b / len(a)
    return (c.diagonal() - 1).square().sum() + 5e-3 * (c - torch.diag(c.diagonal())).square().sum()


def variance_covariance(model: Any, batch: Batch) -> Tensor:
    a, b = map(model, views(batch[0]))
    spread = sum(F.relu(1 - (h.var(0) + 1e-4).sqrt()).mean() for h in (a, b))
    mixed = sum((torch.cov(h.T) - torch.diag(h.var(0))).square().sum() / h.shape[1] for h in (a, b))
    total: Tensor = 25 * F.mse_loss(a, b) + 25 * spread + mixed
    return total


def triplet(model: Any, batch: Batch) -> Tensor:
    x, y = batch
    h = model(x)
    d = (h[:, None] - h).square().sum(2)
    same = y[:, None] == y
    valid = same[:, :, None] & ~same[:, None, :]
    return F.relu(d[:, :, None] - d[:, None, :] + 0.2)[valid].mean()


class Coupling(nn.Module):
    """Affine couplings; the loss is a negative log-likelihood, which is below 0 in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(1, 32, 2, act=nn.Tanh) for _ in range(6))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b, total = x[:, :1] / 4, x[:, 1:] / 4, x.new_full((len(x),), -2 * math.log(4.0))
        for net in self.nets:
            s, t = net(a).chunk(2, 1)
            b, total = b * torch.tanh(s).exp() + t, total + torch.tanh(s).squeeze(1)
            a, b = b, a
        return (0.5 * (a.square() + b.square()).squeeze(1) + math.log(2 * math.pi) - total).mean()


class Energy(nn.Module):
    """Score matching with noise on an energy: the gradient of a net is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp(2, 64, 64, 1, act=nn.SiLU)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        moved = (x + 0.3 * noise).requires_grad_()
        (score,) = torch.autograd.grad(self.energy(moved).sum(), moved, create_graph=True)
        return (0.3 * -score + noise).square().sum(1).mean()


class MaskedImages(nn.Module):
    """Three quarters of the pixels are hidden, and only those are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.token = mlp(128, 128, 64), nn.Parameter(torch.zeros(64))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = (torch.rand_like(x) < 0.75).float()
        out = self.net(torch.cat([x * (1 - hidden) + self.token * hidden, hidden], 1))
        return ((out - x).square() * hidden).sum() / hidden.sum()


class WordVectors(nn.Module):
    """Skip-gram with negative samples; most rows are never seen."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.word, self.context = (nn.Embedding(5000, 16, sparse=sparse) for _ in range(2))
        nn.init.zeros_(self.context.weight)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.flatten(), y.flatten()
        other = torch.randint(0, VOCABULARY, (len(x), 5))
        good = (self.word(x) * self.context(y)).sum(1)
        bad = (self.word(x)[:, None] * self.context(other)).sum(2)
        return -(F.logsigmoid(good) + F.logsigmoid(-bad).sum(1)).mean()


class OneClass(nn.Module):
    """Deep one-class description: distances to a centre that never moves, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32, bias=False), nn.LeakyReLU(), nn.Linear(32, 8, bias=False))
        self.register_buffer("centre", torch.full((8,), 0.5))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.net(x) - self.centre).square().sum(1).mean()


case("contrast of two views", lambda: mlp(64, 64, 16), on("digits", 64), contrast, adam(3e-3), steps=150)
case("redundancy reduction", lambda: mlp(64, 64, 16), on("digits", 64), barlow, adam(3e-3), steps=150)
case("variance and covariance", lambda: mlp(64, 64, 16), on("digits", 64), variance_covariance, adam(3e-3), steps=150)
case("triplets", lambda: mlp(64, 64, 8), on("digits", 64), triplet, adam(1e-3), steps=150, objective="metric")
case("a normalising flow", Coupling, on("moons", 64), own, adam(5e-3), steps=200)
case("an energy", Energy, on("moons", 64), own, adam(3e-3), steps=200)
case("masked images", MaskedImages, digits, own, adam(3e-3), steps=200)
case("sparse word vectors", lambda: WordVectors(True), text(), own, use("SparseAdam", 3e-2), steps=100)
case("word vectors of zeros", lambda: WordVectors(False), text(), own, adam(3e-2), steps=100)
case("one class", OneClass, digits, own, adam(1e-3), steps=150)
case("a small kl weight", lambda: Variational(1e-3), digits, own, adam(3e-3), steps=200)
case("a tight autoencoder", lambda: mlp(64, 32, 3, 32, 64), digits, itself, adam(3e-3), steps=200)

# ---- parts that rest, are shared, or are chosen ----------------------------------------------------------------------------------


class Branches(nn.Module):
    """A layer for each kind of row; a kind may not be in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.head = nn.ModuleList(nn.Linear(64, 24) for _ in range(6)), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        kind = (x[:, 20:40].sum(1) * 2).long() % 6
        h = x.new_zeros(len(x), 24)
        for i, layer in enumerate(self.kinds):
            if (kind == i).any():
                h[kind == i] = F.relu(layer(x[kind == i]))
        return self.head(h)


class LayerDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.blocks, self.head = nn.Linear(64, 32), nn.ModuleList(block(32) for _ in range(4)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)[:, None]
        for part in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                h = part(h)
        return self.head(h[:, 0])


class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.blocks, self.head = nn.Conv2d(1, 12, 3, padding=1), nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(5)), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.lift(x.reshape(-1, 1, 8, 8)))
        for part in self.blocks:
            keep = (torch.rand(len(x), 1, 1, 1) > 0.4).float() / 0.6 if self.training else 1.0
            h = h + keep * F.relu(part(h))
        return self.head(F.adaptive_avg_pool2d(h, 2).flatten(1))


class Shared(nn.Module):
    """One block that is used six times, and an embedding that is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.norm = Positions(VOCABULARY, 32), block(32, causal=True), nn.LayerNorm(32)
        for part in (self.embed.token, self.embed.position):
            nn.init.normal_(part.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for _ in range(6):
            h = self.block(h)
        return self.norm(h) @ self.embed.token.weight.T


class Auxiliary(nn.Module):
    """A second head that is used in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.side, self.head = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10), nn.Linear(48, 10)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        loss = F.cross_entropy(self.head(F.relu(self.b(h))), y)
        return loss + 0.3 * F.cross_entropy(self.side(h), y) if self.training else loss


class Tasks(nn.Module):
    """Two tasks; labels of the second are missing in most batches."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = mlp(64, 48, 32), nn.Linear(32, 10), nn.Linear(32, 1)

    def loss(self, x: Tensor, y: Tensor, known: Tensor) -> Tensor:
        h = F.relu(self.trunk(x))
        each = F.binary_cross_entropy_with_logits(self.second(h).squeeze(1), (y % 2).float(), reduction="none")
        return F.cross_entropy(self.first(h), y) + (each * known).sum() / known.sum().clamp(min=1)


class Distilled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = fitted(lambda: mlp(64, 64, 10), digits, ce)().requires_grad_(False), mlp(64, 16, 10)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return 4 * F.kl_div((self.student(x) / 2).log_softmax(1), (self.teacher(x) / 2).softmax(1), reduction="batchmean")


class SharedExperts(nn.Module):
    """Two of four experts for each row, with a loss that balances them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 24, 10) for _ in range(4))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        p = self.gate(x).softmax(1)
        top = p.topk(2, 1)
        mask = torch.zeros_like(p).scatter(1, top.indices, top.values)
        out = sum(mask[:, i : i + 1] * e(x) for i, e in enumerate(self.experts))
        return F.cross_entropy(out, y) + 0.05 * 4 * (p.mean(0) * (mask > 0).float().mean(0)).sum()


def known(seed: int) -> list[Batch]:
    return [(x, y, torch.full((len(x),), float(i % 4 == 3))) for i, (x, y) in enumerate(digits(seed))]


case("branches that a batch may miss", Branches, digits, ce, adam(3e-3), steps=150)
case("layers dropped at random", LayerDrop, digits, ce, adam(1e-3), steps=100)
case("stochastic depth in a cnn", StochasticDepth, digits, ce, adam(3e-3), steps=100)
case("one block six times", Shared, text(), per_letter, use("AdamW", 3e-3), steps=100)
case("an auxiliary head", Auxiliary, digits, own, adam(1e-3), steps=60)
case("a task without labels", Tasks, known, own, adam(3e-3), steps=100)
case("a frozen teacher", Distilled, digits, own, adam(3e-3), steps=150)
case("two of four experts", SharedExperts, digits, own, adam(3e-3), steps=150)
case("a frozen random trunk", changed(cnn, freeze("1", "4")), digits, ce, adam(1e-2), steps=100)
case("fine-tuning at 1e-5", fitted(lambda: mlp(64, 48, 10), digits, ce, 150), digits, ce, use("AdamW", 1e-5), steps=50)
case("converged long ago", fitted(lambda: mlp(30, 24, 2), cancer, ce, 800, 1e-2), cancer, ce, adam(1e-3), steps=100)
case("padded sequences, packed", lambda: Packed(), made(padded), ce, adam(1e-2), steps=150, padding=lambda batch: batch[0] == 0)
case("masked sums over padding", lambda: MaskedMean(), made(padded), ce, adam(1e-2), steps=100, padding=lambda batch: batch[0] == 0)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(20, 16, padding_idx=0), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, ids: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), (ids > 0).sum(1), batch_first=True, enforce_sorted=False)
        return self.head(self.core(packed)[1][-1])


class MaskedMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16, padding_idx=0), mlp(16, 16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        real = (ids > 0)[..., None]
        return self.head((self.embed(ids) * real).sum(1) / real.sum(1))


# ---- other architectures ----------------------------------------------------------------------------------------------------------


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 48), nn.Linear(48, 48), nn.Linear(48, 1)])
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1 / 2, 1 / 2)
            for layer in self.layers[1:]:
                layer.weight.uniform_(-((6 / 48) ** 0.5) / 30, (6 / 48) ** 0.5 / 30)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


class Radiance(nn.Module):
    """Density and colour along a ray, composed as in volume rendering."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(24, 48, 48, 2)

    def forward(self, x: Tensor) -> Tensor:
        depth = torch.linspace(0, 1, 16)
        points = torch.stack(torch.broadcast_tensors(x, depth[None]), -1)
        angle = (points[..., None] * 2 ** torch.arange(6)).flatten(-2)
        density, colour = self.net(torch.cat([angle.sin(), angle.cos()], -1)).unbind(-1)
        alpha = 1 - torch.exp(-F.softplus(density) / 4)
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
        return (passed * alpha * colour.sigmoid()).sum(1, keepdim=True)


class Equilibrium(nn.Module):
    """Thirty iterations without a graph, and one with it."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.core, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        nn.init.normal_(self.core.weight, 0, 0.5 / 32**0.5)

    def forward(self, x: Tensor) -> Tensor:
        u = self.inject(x)
        with torch.no_grad():
            z = torch.zeros_like(u)
            for _ in range(30):
                z = torch.tanh(self.core(z) + u)
        return self.head(torch.tanh(self.core(z) + u))


class Flow(nn.Module):
    """A neural differential equation, ten Euler steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.field, self.head = nn.Linear(2, 16), mlp(17, 32, 16, act=nn.Tanh), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        for i in range(10):
            h = h + 0.1 * self.field(torch.cat([h, torch.full((len(h), 1), i / 10)], 1))
        return self.head(h)


class Hyper(nn.Module):
    """A net whose weights another net gives from the task."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = mlp(1, 32, 16 + 16 + 16 + 1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        phase = torch.rand(())
        w1, b1, w2, b2 = self.maker(phase.reshape(1, 1))[0].split([16, 16, 16, 1])
        out = torch.tanh(x * w1 + b1) @ w2 + b2
        return F.mse_loss(out, torch.sin(2 * x[:, 0] + 3 * phase))


class Learner(nn.Module):
    """Model-agnostic meta-learning with one inner step, second order."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 32, 32, 1, act=nn.Tanh)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(())
        for phase in torch.rand(4) * 3:
            target = torch.sin(2 * x + phase)
            parameters = dict(self.net.named_parameters())
            inner = F.mse_loss(functional_call(self.net, parameters, (x[:10],)), target[:10])
            slopes = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
            moved = {name: p - 0.1 * g for (name, p), g in zip(parameters.items(), slopes, strict=True)}
            total = total + F.mse_loss(functional_call(self.net, moved, (x[10:],)), target[10:])
        return total / 4


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        return a @ self.b(F.dropout(F.relu(a @ self.a(x)), 0.5, self.training))


class SetNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = mlp(3, 32, 32), mlp(32, 32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.all(F.relu(self.each(x)).sum(1))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.across, self.along, self.head = nn.Linear(8, 24), mlp(8, 16, 8, act=nn.GELU), mlp(24, 48, 24, act=nn.GELU), nn.Linear(24, 10)
        self.n1, self.n2 = nn.LayerNorm(24), nn.LayerNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x.reshape(-1, 8, 8))
        h = h + self.across(self.n1(h).transpose(1, 2)).transpose(1, 2)
        return self.head((h + self.along(self.n2(h))).mean(1))


class StateSpace(nn.Module):
    """A diagonal linear recurrence with long memory."""

    def __init__(self, d: int = 24) -> None:
        super().__init__()
        self.lift, self.mix, self.head = nn.Linear(3, d), nn.Linear(d, d), nn.Linear(d, 2)
        self.decay = nn.Parameter(torch.linspace(-4, 1, d))

    def forward(self, x: Tensor) -> Tensor:
        u, keep = self.lift(x), (-self.decay.exp()).exp()
        h = torch.zeros_like(u[:, 0])
        for t in range(u.shape[1]):
            h = keep * h + (1 - keep * keep).sqrt() * u[:, t]
        return self.head(F.gelu(self.mix(h)))


class Memory(nn.Module):
    """A radial basis: far units are silent."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.randn(40, 2)), nn.Linear(40, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.exp(-4 * torch.cdist(x, self.centres).square()))


class Factors(nn.Module):
    """Ratings of users and items, most of whom are not in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(300, 8), nn.Embedding(200, 8)
        self.user_bias, self.item_bias, self.mean = nn.Embedding(300, 1), nn.Embedding(200, 1), nn.Parameter(torch.tensor(3.0))
        for e in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(e.weight, 0, 0.1)

    def loss(self, u: Tensor, i: Tensor, r: Tensor) -> Tensor:
        out = self.mean + self.user_bias(u).squeeze(1) + self.item_bias(i).squeeze(1) + (self.user(u) * self.item(i)).sum(1)
        return F.mse_loss(out, r)


def ratings(seed: int) -> list[Batch]:
    g = torch.Generator().manual_seed(31)
    u, i = torch.randint(0, 300, (1536,), generator=g), torch.randint(0, 200, (1536,), generator=g)
    a, b = torch.randn(300, generator=g), torch.randn(200, generator=g)
    r = 3 + 0.7 * a[u] + 0.7 * b[i] + 0.2 * torch.randn(1536, generator=g)
    return list(zip(u.split(64), i.split(64), r.split(64), strict=True))


class Translator(nn.Module):
    """An encoder and a decoder with attention; the sequence is to be reversed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.decoder = nn.Embedding(12, 24), nn.GRU(24, 24, batch_first=True), nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(48, 12)

    def forward(self, source: Tensor) -> Tensor:
        kept, h = self.encoder(self.embed(source))
        before = F.pad(source.flip(1)[:, :-1], (1, 0), value=11)
        out, _ = self.decoder(self.embed(before), h)
        weight = (out @ kept.transpose(1, 2) / 24**0.5).softmax(-1)
        return self.head(torch.cat([out, weight @ kept], -1))


def reversals(n: int = 512) -> Batch:
    x = torch.randint(0, 11, (n, 6), generator=torch.Generator().manual_seed(32))
    return x, x.flip(1)


def picture() -> Batch:
    at = torch.linspace(-1, 1, 24)
    x = torch.cartesian_prod(at, at)
    return x, (torch.sin(4 * x[:, :1]) * torch.cos(5 * x[:, 1:]))


def to(model: Any, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


case("siren", Siren, made(picture, size=144), to, adam(1e-3), steps=150)
case("radiance along rays", Radiance, made(lambda: (torch.linspace(0, 1, 256)[:, None], 0.5 + 0.4 * torch.sin(torch.linspace(0, 9, 256))[:, None])), to, adam(3e-3), steps=200)
case("an equilibrium", Equilibrium, digits, ce, adam(3e-3), steps=100)
case("a neural differential equation", Flow, on("moons"), ce, adam(1e-2), steps=150)
case("a hypernetwork", Hyper, on("sine"), own, adam(3e-3), steps=300)
case("learning to learn", Learner, on("sine"), own, adam(3e-3), steps=100)
case("two graph layers", GraphNet, whole(*graph()), lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), adam(1e-2), steps=100)
case("a u-net", lambda: Segmenter(nn.Identity()), made(squares, size=16), by(F.binary_cross_entropy_with_logits), adam(3e-3), steps=100)
case("sums over sets", SetNet, made(lambda: (lambda x, y: (x, (x[:, :, 0].sum(1) > 0).long()))(*sequences())), ce, adam(3e-3), steps=150)
case("a mixer", Mixer, digits, ce, adam(3e-3), steps=100)
case("a state space", StateSpace, made(sequences, 512, 60), ce, adam(1e-2), steps=150)
case("radial basis", Memory, on("moons"), ce, adam(3e-2), steps=200)
case("matrix factors", Factors, ratings, own, adam(1e-2), steps=200)
case("reversal with attention", Translator, made(reversals), per_letter, adam(1e-2), steps=200)
case("a siamese net", lambda: Twin(), pairs(64), own, adam(3e-3), steps=150)
case("a vision transformer", lambda: patches(layers=2), digits, ce, use("AdamW", 3e-3, weight_decay=0.1), steps=100)
case("a causal language model", language_model, text(), per_letter, use("AdamW", 3e-3), steps=60, causal=True)
case("a long lstm", lambda: Recurrent("LSTM", 3, 24, 2), made(sequences, 512, 50), ce, adam(1e-2), steps=100)
case("a character gru", lambda: Recurrent("GRU", VOCABULARY, 32, VOCABULARY, ids=True, every=True), text(), per_letter, adam(1e-2), steps=100)
case("weight and spectral normalisation", lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(64, 48)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(48, 48)), nn.ReLU(), nn.Linear(48, 10)), digits, ce, adam(3e-3), steps=100)
case("independent samples and group norm", lambda: nn.Sequential(image(), nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)), digits, ce, adam(1e-3), independent_samples=True)
case("lbfgs", lambda: mlp(4, 12, 3, act=nn.Tanh), on("iris", 150), ce, use("LBFGS", 0.5, max_iter=5))


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(64, 48, 16)

    def loss(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        d = F.pairwise_distance(self.encoder(a), self.encoder(b))
        return (same * d.square() + (1 - same) * F.relu(1 - d).square()).mean()


# ---- loops ----------------------------------------------------------------------------------------------------------------------


def game(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    for_d, for_g = optimizers
    for real, _ in cycle(on("moons", 64)(seed), 150):
        fake, one, zero = model["g"](torch.randn(len(real), 4)), torch.ones(len(real), 1), torch.zeros(len(real), 1)
        for_d.zero_grad()
        (F.binary_cross_entropy_with_logits(model["d"](real), one) + F.binary_cross_entropy_with_logits(model["d"](fake.detach()), zero)).backward()
        for_d.step()
        for_g.zero_grad()
        F.binary_cross_entropy_with_logits(model["d"](fake), one).backward()
        for_g.step()


def bandit(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """REINFORCE with a baseline that moves slowly: which digit is it; a reward of 1 if right."""
    baseline = 0.1
    for x, y in cycle(digits(seed), 200):
        chosen = torch.distributions.Categorical(logits=model(x))
        action = chosen.sample()
        reward = (action == y).float()
        loss = -((reward - baseline) * chosen.log_prob(action)).mean() - 0.01 * chosen.entropy().mean()
        baseline = 0.95 * baseline + 0.05 * reward.mean().item()
        learn(watch, optimizer, loss)


def q_learning(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """A walk of seven places, reward at the right end; the target net is copied every 25 steps."""
    target = copy.deepcopy(model)
    g = torch.Generator().manual_seed(seed)
    for i in range(200):
        at = torch.randint(0, 6, (32,), generator=g)
        move = torch.randint(0, 2, (32,), generator=g)
        then = (at + 2 * move - 1).clamp(min=0)
        reward = (then == 6).float()
        with torch.no_grad():
            best = reward + 0.9 * (then < 6) * target(F.one_hot(then, 7).float()).amax(1)
        loss = F.smooth_l1_loss(model(F.one_hot(at, 7).float()).gather(1, move[:, None]).squeeze(1), best)
        learn(watch, optimizer, loss)
        if i % 25 == 24:
            target.load_state_dict(model.state_dict())


def follower() -> nn.ModuleDict:
    """Batch normalisation keeps it from collapsing."""
    fast = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 16), nn.BatchNorm1d(16, affine=False))
    return nn.ModuleDict({"fast": fast, "predict": nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16)), "slow": copy.deepcopy(fast).requires_grad_(False)})


def bootstrap(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """A target net that follows by moving average, and a predictor (BYOL)."""
    for x, _ in cycle(on("digits", 64)(seed), 150):
        a, b = views(x)
        with torch.no_grad():
            goal = F.normalize(model["slow"](b), dim=1)
        loss = 2 - 2 * (F.normalize(model["predict"](model["fast"](a)), dim=1) * goal).sum(1).mean()
        learn(watch, optimizer, loss)
        with torch.no_grad():
            for slow, fast in zip(model["slow"].parameters(), model["fast"].parameters(), strict=True):
                slow.lerp_(fast, 0.02)


def mixed(dtype: torch.dtype, scaled: bool) -> Any:
    def body(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        for x, y in cycle(digits(seed), 80):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(x), y)
            watch.record(loss=loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    return body


def averaged(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Stochastic weight averaging with its own schedule."""
    mean, schedule = torch.optim.swa_utils.AveragedModel(model), torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=5)
    for i, batch in enumerate(cycle(digits(seed), 150)):
        optimizer.zero_grad()
        loss = ce(model, batch)
        watch.record(loss=loss)
        loss.backward()
        optimizer.step()
        if i > 75 and i % 10 == 0:
            mean.update_parameters(model)
            schedule.step()


def validated(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """A validation every twenty steps, in eval mode and without gradients; then back to train mode."""
    for i, batch in enumerate(cycle(digits(seed), 120)):
        model.train()
        optimizer.zero_grad()
        loss = ce(model, batch)
        watch.record(loss=loss)
        loss.backward()
        optimizer.step()
        if i % 20 == 19:
            model.eval()
            with torch.no_grad():
                ce(model, digits(99)[0])


def unfreeze(model: Any, i: int) -> None:
    model[0].requires_grad_(i >= 60)


loop("a long warm-up", lambda: mlp(64, 48, 10), steps(digits, ce, 150, schedule=lambda o: schedules.LambdaLR(o, lambda i: min(i / 100, 1.0))), use("AdamW", 3e-3))
loop("a cyclic rate", lambda: mlp(64, 48, 10), steps(digits, ce, 200, schedule=lambda o: schedules.CyclicLR(o, 1e-3, 0.2, step_size_up=20)), sgd(0.1, 0.9))
loop("warm restarts", cnn, steps(digits, ce, 120, schedule=lambda o: schedules.CosineAnnealingWarmRestarts(o, 30)), sgd(0.1, 0.9))
loop("one cycle to the end", lambda: mlp(13, 24, 3), steps(wine, ce, 200, schedule=lambda o: schedules.OneCycleLR(o, 0.5, total_steps=201)), sgd(0.1, 0.9))
loop("a clip at 0.01 with adam", language_model, steps(text(), per_letter, 80, clip=lambda p: nn.utils.clip_grad_norm_(p, 0.01)), adam(3e-3))
loop("eight batches for one step", lambda: mlp(64, 48, 10), steps(on("digits", 8), ce, 40, accumulate=8), adam(3e-3))
loop("half precision with scaling", lambda: mlp(64, 48, 10), mixed(torch.float16, True), sgd(0.1))
loop("bfloat16 without scaling", cnn, mixed(torch.bfloat16, False), adam(3e-3))
loop("an average of weights", lambda: mlp(64, 48, 10), averaged, sgd(0.1, 0.9))
loop("validation between", lambda: nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10)), validated, adam(3e-3))
loop("a trunk that is thawed later", lambda: mlp(64, 48, 10), steps(digits, ce, 120, before=unfreeze), adam(3e-3))
loop("a game of two nets", lambda: nn.ModuleDict({"g": mlp(4, 32, 2), "d": mlp(2, 32, 1, act=nn.LeakyReLU)}), game, lambda m: [torch.optim.Adam(m[k].parameters(), lr=1e-3, betas=(0.5, 0.9)) for k in "dg"], holds=lambda m: m, objective="adversarial")
loop("a policy", lambda: mlp(64, 48, 10), bandit, adam(3e-3), objective="reinforcement")
loop("values of a walk", lambda: mlp(7, 24, 2), q_learning, adam(1e-2), objective="reinforcement")
loop("a slow target", follower, bootstrap, lambda m: torch.optim.Adam([*m["fast"].parameters(), *m["predict"].parameters()], lr=3e-3), holds=lambda m: m, objective="metric")
loop("cleared after the step", cnn, steps(digits, ce, 60, clear="never", after=lambda m, i: m.zero_grad()), adam(3e-3))

# ---- NumPy nets ------------------------------------------------------------------------------------------------------------------


def numpy_case(name: str, net: Written, lr: float) -> None:
    r = np.random.default_rng(0)
    start = lambda: {"w1": r.normal(0, 0.15, (64, 32)), "b1": np.zeros(32), "w2": r.normal(0, 0.15, (32, 10)), "b2": np.zeros(10)}  # noqa: E731 - one expression
    case(name, start, lambda seed: digits_numpy(), net.loss, gg.SGD(lr), steps=200, grad=net.grad, activations=net.activations)


numpy_case("numpy relu net", Written("relu"), 0.3)
numpy_case("numpy tanh net", Written(), 0.3)
numpy_case("numpy sigmoid net", Written("sigmoid"), 1.0)
numpy_case("numpy sum at its own rate", Written("relu", mean=False), 3e-3)
