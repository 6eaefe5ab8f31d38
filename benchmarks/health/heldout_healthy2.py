"""Held-out healthy programs, second draw: written after what the first draw had found was mended, and run once."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import letters, rows
from benchmarks.health.heldout_data import LETTERS, friedman, images, moons, noise, table, xor
from benchmarks.health.heldout_layers import mlp
from benchmarks.health.heldout_loops import adam, ce, descend, mse, per_letter, sgd, watched
from benchmarks.health.heldout_nets import TimeFirst
from benchmarks.health.heldout_numpy import numpy_rows
from benchmarks.health.heldout_programs import Draw, Setup

healthy = Draw()
optim = torch.optim


# --- architectures -----------------------------------------------------------------------------------------------------


@healthy()
def letters_by_a_window(seed: int) -> Setup:
    """Bengio's neural language model: embeddings of three letters side by side."""
    pairs = letters(64, 3, seed)
    net = nn.Sequential(nn.Embedding(len(LETTERS), 12), nn.Flatten(), nn.Linear(36, 64), nn.Tanh(), nn.Linear(64, len(LETTERS)))
    return Setup(net, [(x, y[:, -1]) for x, y in pairs], ce, adam(1e-2))


@healthy()
def text_convolutions(seed: int) -> Setup:
    """Kim's CNN: three widths, max over time, dropout."""
    g = noise(40)
    x = torch.randint(0, 60, (400, 14), generator=g)
    y = ((x[:, :-1] < 12) & (x[:, 1:] > 40)).any(1).long()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.drop = nn.Embedding(60, 16), nn.Linear(36, 2), nn.Dropout(0.3)
            self.widths = nn.ModuleList(nn.Conv1d(16, 12, k) for k in (2, 3, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x).transpose(1, 2)
            return self.head(self.drop(torch.cat([F.relu(c(h)).amax(2) for c in self.widths], 1)))

    return Setup(Net(), rows(x, y, 40, seed), ce, adam(5e-3))


class Residual(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.n1, self.n2, self.skip = nn.BatchNorm2d(b), nn.BatchNorm2d(b), nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.n2(self.two(F.relu(self.n1(self.one(x))))))


@healthy()
def small_resnet(seed: int) -> Setup:
    net = nn.Sequential(Residual(1, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return Setup(net, rows(*images(), 32, seed), ce, sgd(0.05, 0.9, weight_decay=1e-4, nesterov=True))


@healthy()
def dense_connections(seed: int) -> Setup:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(1 + 8 * i, 8, 3, padding=1) for i in range(4))
            self.head = nn.Linear(33, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.cat([x, F.elu(layer(x))], 1)
            return self.head(x.amax((2, 3)))

    return Setup(Net(), rows(*images(), 32, seed), ce, adam(3e-3))


@healthy()
def factorisation_machine(seed: int) -> Setup:
    """Sparse categories, linear terms and pairwise products."""
    g = noise(41)
    x = torch.stack([torch.randint(0, 20, (800,), generator=g), 20 + torch.randint(0, 15, (800,), generator=g), 35 + torch.randint(0, 8, (800,), generator=g)], 1)
    v = torch.randn(43, 2, generator=g)
    y = ((v[x].sum(1) ** 2 - (v[x] ** 2).sum(1)).sum(1) > 0).float()

    class Fm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v, self.b = nn.Embedding(43, 1), nn.Embedding(43, 4), nn.Parameter(torch.zeros(()))
            nn.init.zeros_(self.w.weight)
            nn.init.normal_(self.v.weight, std=0.2)

        def forward(self, x: Tensor) -> Tensor:
            e = self.v(x)
            return self.b + self.w(x).sum((1, 2)) + 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1)

    return Setup(Fm(), rows(x, y, 80, seed), lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]), adam(3e-2))


@healthy()
def graph_attention(seed: int) -> Setup:
    g = noise(42)
    group = torch.randint(0, 3, (80,), generator=g)
    link = (torch.rand(80, 80, generator=g) < torch.where(group[:, None] == group, 0.3, 0.04)) | torch.eye(80, dtype=torch.bool)
    x = torch.randn(80, 10, generator=g) + F.one_hot(group, 10)

    class Gat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.left, self.right, self.out = nn.Linear(10, 24), nn.Linear(24, 1), nn.Linear(24, 1), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.h(x)
            score = F.leaky_relu(self.left(h) + self.right(h).T, 0.2).masked_fill(~link, -math.inf)
            return self.out(F.elu(torch.softmax(score, 1) @ h))

    return Setup(Gat(), [(x, group)], ce, adam(1e-2))


@healthy()
def message_passing(seed: int) -> Setup:
    """index_add over edges of many small graphs, a sum over the nodes."""
    g = noise(43)
    batches = []
    for _ in range(24):
        node = torch.randn(96, 4, generator=g)
        edge = torch.randint(0, 6, (2, 200), generator=g) + 6 * torch.randint(0, 16, (200,), generator=g)
        y = node.reshape(16, 6, 4)[:, :, 0].relu().sum(1)
        batches.append((node, edge, y))

    class Mpn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.message, self.update, self.out = nn.Linear(4, 24), mlp(48, 24, 24), nn.GRUCell(24, 24), nn.Linear(24, 1)

        def forward(self, node: Tensor, edge: Tensor) -> Tensor:
            h = torch.tanh(self.into(node))
            for _ in range(2):
                sent = self.message(torch.cat([h[edge[0]], h[edge[1]]], 1))
                h = self.update(torch.zeros_like(h).index_add(0, edge[1], sent), h)
            return self.out(h).reshape(16, 6).sum(1)

    return Setup(Mpn(), batches, lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]), adam(5e-3))


@healthy()
def linear_state_space(seed: int) -> Setup:
    """A diagonal linear recurrence with learned decays, read after a gate."""
    class Ssm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.gate, self.head = nn.Embedding(len(LETTERS), 32), nn.Linear(32, 32), nn.Linear(32, len(LETTERS))
            self.decay, self.into = nn.Parameter(torch.linspace(-2, 3, 32)), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            e = self.embed(x)
            u, a = self.into(e), torch.sigmoid(self.decay)
            h, out = torch.zeros_like(u[:, 0]), []
            for t in range(x.shape[1]):
                h = a * h + (1 - a) * u[:, t]
                out.append(h)
            return self.head(torch.stack(out, 1) * F.silu(self.gate(e)))

    return Setup(Ssm(), letters(12, 16, seed), per_letter, adam(1e-2), {"causal": True})


@healthy()
def gated_dilated_convolutions(seed: int) -> Setup:
    """WaveNet's unit: tanh times sigmoid, skip connections."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(len(LETTERS), 24), nn.Conv1d(24, len(LETTERS), 1)
            self.layers = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**i) for i in range(3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x).transpose(1, 2)
            total = torch.zeros_like(h)
            for i, layer in enumerate(self.layers):
                a, b = layer(F.pad(h, (2**i, 0))).chunk(2, 1)
                z = torch.tanh(a) * torch.sigmoid(b)
                h, total = h + z, total + z
            return self.head(F.relu(total)).transpose(1, 2)

    return Setup(Net(), letters(12, 20, seed), per_letter, adam(1e-2), {"causal": True, "independent_samples": True})


@healthy()
def time_first_language_model(seed: int) -> Setup:
    """(T, B, C) outputs, transposed before they meet labels (B, T)."""
    return Setup(TimeFirst(), letters(12, 16, seed), lambda m, b: F.cross_entropy(m(b[0]).transpose(0, 1).reshape(-1, len(LETTERS)), b[1].reshape(-1)), adam(1e-2))


@healthy()
def radial_basis(seed: int) -> Setup:
    class Rbf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre, self.width, self.out = nn.Parameter(torch.randn(24, 2)), nn.Parameter(torch.zeros(24)), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.exp(-torch.cdist(x, self.centre) ** 2 * self.width.exp()))

    return Setup(Rbf(), rows(*moons(), 64, seed), ce, adam(2e-2))


@healthy()
def mixture_of_softmaxes(seed: int) -> Setup:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.prior, self.heads = mlp(64, 48, 48), nn.Linear(48, 3), nn.Linear(48, 30)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.body(x))
            return torch.logsumexp(F.log_softmax(self.prior(h), 1)[:, :, None] + F.log_softmax(self.heads(h).reshape(-1, 3, 10), 2), 1)

    return Setup(Net(), rows(*table("digits"), 32, seed), lambda m, b: F.nll_loss(m(b[0]), b[1]), adam(3e-3))


@healthy()
def spline_layers(seed: int) -> Setup:
    """A Kolmogorov-Arnold net on Gaussian bumps."""
    class Kan(nn.Module):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.register_buffer("grid", torch.linspace(-2, 2, 6))
            self.w, self.base = nn.Parameter(torch.randn(b, a, 6) * 0.1), nn.Linear(a, b)

        def forward(self, x: Tensor) -> Tensor:
            bump = torch.exp(-((x[:, :, None] - self.grid) ** 2) * 2)
            return self.base(F.silu(x)) + torch.einsum("nak,bak->nb", bump, self.w)

    return Setup(nn.Sequential(Kan(10, 12), Kan(12, 1)), rows(*friedman(), 32, seed), mse, adam(5e-3))


@healthy()
def three_sigmoid_layers(seed: int) -> Setup:
    """Old, slow, and fine."""
    net = mlp(30, 32, 24, 2, act=nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=2.0)
    return Setup(net, rows(*table("breast_cancer"), 32, seed), ce, sgd(0.3, 0.9))


@healthy()
def sixteen_normalised_layers(seed: int) -> Setup:
    net = nn.Sequential(nn.Linear(64, 32), *[m for _ in range(14) for m in (nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32))], nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    return Setup(net, rows(*table("digits"), 48, seed), ce, adam(3e-3))


@healthy()
def eighty_percent_dropout(seed: int) -> Setup:
    return Setup(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.8), nn.Linear(128, 10)), rows(*table("digits"), 32, seed), ce, adam(3e-3))


@healthy()
def double_precision(seed: int) -> Setup:
    x, y = friedman()
    return Setup(mlp(10, 32, 1, act=nn.Mish).double(), rows(x.double(), y.double(), 32, seed), mse, adam(5e-3))


@healthy()
def channels_last(seed: int) -> Setup:
    x, y = images()
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 2, 1), nn.CELU(), nn.Flatten(), nn.Linear(256, 10)).to(memory_format=torch.channels_last)
    return Setup(net, rows(x.contiguous(memory_format=torch.channels_last), y, 32, seed), ce, adam(2e-3))


@healthy()
def complex_weights(seed: int) -> Setup:
    """A linear layer on complex numbers, read by its magnitude."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(24, 8, dtype=torch.complex64) * 0.3), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.log1p((torch.fft.fft(x.reshape(-1, 8, 8), dim=2).mean(1) @ self.w.T).abs()))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-2))


@healthy()
def induced_set_attention(seed: int) -> Setup:
    x = torch.randn(360, 12, 3, generator=noise(44))
    y = (x[:, :, 0].amax(1) > x[:, :, 1].amax(1)).long()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.points = nn.Linear(3, 24), nn.Parameter(torch.randn(1, 4, 24) * 0.3)
            self.down, self.up, self.head = nn.MultiheadAttention(24, 2, batch_first=True), nn.MultiheadAttention(24, 2, batch_first=True), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            points = self.points.expand(len(x), -1, -1)
            few = self.down(points, h, h)[0]
            return self.head(F.relu(h + self.up(h, few, few)[0]).amax(1))

    return Setup(Net(), rows(x, y, 36, seed), ce, adam(3e-3))


@healthy()
def auxiliary_classifier(seed: int) -> Setup:
    """A second head half way, weighted 0.3."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.early, self.late = mlp(64, 48, 48), mlp(48, 48, 48), nn.Linear(48, 10), nn.Linear(48, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.relu(self.a(x))
            return self.late(F.relu(self.b(h))), self.early(h)

    def loss(m: Any, b: Any) -> Tensor:
        late, early = m(b[0])
        return F.cross_entropy(late, b[1]) + 0.3 * F.cross_entropy(early, b[1])

    return Setup(Net(), rows(*table("digits"), 32, seed), loss, adam(2e-3))


@healthy()
def hard_choice_with_estimator(seed: int) -> Setup:
    """gumbel_softmax(hard=True) as a router: straight through."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 24, 10) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            gate = F.gumbel_softmax(self.router(x), hard=True)
            return (gate[:, :, None] * torch.stack([e(x) for e in self.experts], 1)).sum(1)

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(3e-3))


# --- losses ------------------------------------------------------------------------------------------------------------


@healthy()
def cross_entropy_by_hand(seed: int) -> Setup:
    """-log_softmax[arange, y] and a little weight decay."""
    return Setup(mlp(13, 32, 3), rows(*table("wine"), 32, seed),
                 lambda m, b: -F.log_softmax(m(b[0]), 1)[torch.arange(len(b[1])), b[1]].mean() + 1e-3 * sum(p.square().sum() for p in m.parameters()), adam(1e-2))


@healthy()
def hinge_with_signs(seed: int) -> Setup:
    x, y = xor()
    return Setup(mlp(2, 32, 1, act=nn.SiLU), rows(x, 2.0 * y - 1, 32, seed), lambda m, b: torch.clamp(1 - b[1] * m(b[0]).squeeze(1), min=0).mean(), adam(1e-2))


@healthy()
def clamped_probabilities(seed: int) -> Setup:
    x, y = table("breast_cancer")

    def loss(m: Any, b: Any) -> Tensor:
        p = torch.sigmoid(m(b[0]).squeeze(1)).clamp(1e-6, 1 - 1e-6)
        return -(b[1] * p.log() + (1 - b[1]) * (1 - p).log()).mean()

    return Setup(mlp(30, 24, 1), rows(x, y.float(), 32, seed), loss, adam(3e-3))


@healthy()
def gamma_regression(seed: int) -> Setup:
    g = noise(45)
    x = torch.randn(480, 5, generator=g)
    y = torch.distributions.Gamma(torch.tensor(4.0), 4.0).sample((480,)) * (0.5 * x[:, 0] - 0.4 * x[:, 1]).exp()

    def loss(m: Any, b: Any) -> Tensor:
        eta = m(b[0])[:, 0]
        return (b[1] * (-eta).exp() + eta).mean()

    return Setup(mlp(5, 24, 1), rows(x, y, 32, seed), loss, adam(5e-3))


@healthy()
def brier_score(seed: int) -> Setup:
    x, y = table("iris")
    return Setup(mlp(4, 24, 3, last=(nn.Softmax(dim=1),)), rows(x, F.one_hot(y, 3).float(), 30, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(1e-2))


@healthy()
def dice_alone(seed: int) -> Setup:
    x, _ = images()
    mask = (x > 0.4).float()

    def loss(m: Any, b: Any) -> Tensor:
        p = m(b[0]).sigmoid()
        return 1 - (2 * (p * b[1]).sum() + 1) / ((p + b[1]).sum() + 1)

    return Setup(nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1)), rows(x, mask, 16, seed), loss, adam(5e-3))


@healthy()
def pairwise_ranking(seed: int) -> Setup:
    """BPR on implicit feedback."""
    g = noise(46)
    u, v = torch.randn(40, 3, generator=g), torch.randn(60, 3, generator=g)
    user = torch.randint(0, 40, (900,), generator=g)
    a, b_ = torch.randint(0, 60, (900,), generator=g), torch.randint(0, 60, (900,), generator=g)
    better = (u[user] * (v[a] - v[b_])).sum(1) > 0
    triple = torch.stack([user, torch.where(better, a, b_), torch.where(better, b_, a)], 1)

    class Bpr(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 6), nn.Embedding(60, 6)
            nn.init.normal_(self.user.weight, std=0.3)
            nn.init.normal_(self.item.weight, std=0.3)

        def forward(self, t: Tensor) -> Tensor:
            return (self.user(t[:, 0]) * (self.item(t[:, 1]) - self.item(t[:, 2]))).sum(1)

    return Setup(Bpr(), rows(triple, triple, 90, seed), lambda m, b: -F.logsigmoid(m(b[0])).mean(), adam(2e-2))


@healthy()
def preference_against_a_reference(seed: int) -> Setup:
    """DPO: the policy against a frozen copy of itself."""
    x, y = table("digits")
    policy = mlp(64, 48, 10)
    reference = copy.deepcopy(policy).requires_grad_(False)

    def loss(m: Any, b: Any) -> Tensor:
        worse = (b[1] + torch.randint(1, 10, b[1].shape)) % 10
        gain = F.log_softmax(m(b[0]), 1) - F.log_softmax(reference(b[0]), 1)
        return -F.logsigmoid(2 * (gain.gather(1, b[1][:, None]) - gain.gather(1, worse[:, None]))).mean()

    return Setup(policy, rows(x, y, 32, seed), loss, adam(1e-3))


@healthy()
def proximal_policy(seed: int) -> Setup:
    """PPO's clipped ratio against stored log-probabilities."""
    x, y = table("iris")
    net = mlp(4, 24, 3)
    with torch.no_grad():
        old = F.log_softmax(net(x), 1)
        action = torch.multinomial(old.exp(), 1, generator=noise(47))
        stored = old.gather(1, action)[:, 0]
    advantage = (action[:, 0] == y).float() - 0.33

    def loss(m: Any, b: Any) -> Tensor:
        log_p = F.log_softmax(m(b[0]), 1)
        ratio = (log_p.gather(1, b[1][:, :1].long())[:, 0] - b[1][:, 1]).exp()
        return -torch.minimum(ratio * b[1][:, 2], ratio.clamp(0.8, 1.2) * b[1][:, 2]).mean()

    return Setup(net, rows(x, torch.cat([action.float(), stored[:, None], advantage[:, None]], 1), 50, seed), loss, adam(3e-3), {"objective": "reinforcement"})


@healthy()
def prototypes(seed: int) -> Setup:
    """Few-shot episodes: distances to class means."""
    x, y = table("digits")
    g = noise(seed)
    batches = []
    for _ in range(24):
        pick = torch.randperm(10, generator=g)[:4]
        rows_of = [torch.multinomial((y == c).float(), 8, generator=g) for c in pick]
        batches.append((torch.stack([x[r[:3]] for r in rows_of]), torch.cat([x[r[3:]] for r in rows_of]), torch.arange(4).repeat_interleave(5)))

    def loss(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(-torch.cdist(m(b[1]), m(b[0]).mean(1)) ** 2, b[2])

    return Setup(mlp(64, 48, 16), batches, loss, adam(1e-3), {"objective": "metric"})


@healthy()
def angular_margin(seed: int) -> Setup:
    """ArcFace: cosines with a margin, scale 16."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.w = mlp(64, 48, 24), nn.Parameter(torch.randn(10, 24))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.body(x), dim=1) @ F.normalize(self.w, dim=1).T

    def loss(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(16 * (m(b[0]) - 0.15 * F.one_hot(b[1], 10)), b[1])

    return Setup(Net(), rows(*table("digits"), 32, seed), loss, adam(3e-3))


@healthy()
def sparse_autoencoder(seed: int) -> Setup:
    """An L1 penalty on the code: most of it is 0."""
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        h = F.relu(m["e"](b[0]))
        return F.mse_loss(m["d"](h), b[0]) + 1e-3 * h.abs().mean()

    return Setup(nn.ModuleDict({"e": nn.Linear(64, 96), "d": nn.Linear(96, 64)}), rows(x, x, 32, seed), loss, adam(3e-3))


@healthy()
def contractive_autoencoder(seed: int) -> Setup:
    """A penalty on the derivative of the code."""
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        h = torch.sigmoid(m["e"](b[0]))
        jacobian = ((h * (1 - h)) ** 2 @ (m["e"].weight ** 2).sum(1)).mean()
        return F.mse_loss(m["d"](h), b[0]) + 1e-3 * jacobian

    return Setup(nn.ModuleDict({"e": nn.Linear(64, 32), "d": nn.Linear(32, 64)}), rows(x, x, 32, seed), loss, adam(5e-3))


@healthy()
def denoising_score(seed: int) -> Setup:
    """Score matching at one noise level: the loss has a high floor."""
    x, _ = moons()

    def loss(m: Any, b: Any) -> Tensor:
        e = torch.randn_like(b[0])
        return ((m(b[0] + 0.3 * e) * 0.3 + e) ** 2).sum(1).mean()

    return Setup(mlp(2, 64, 64, 2, act=nn.SiLU), rows(x, x, 128, seed), loss, adam(3e-3))


@healthy()
def consistency_of_two_views(seed: int) -> Setup:
    """A few labels, and agreement on the rest."""
    x, y = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        a, c = m(b[0] + 0.1 * torch.randn_like(b[0])), m(b[0] + 0.1 * torch.randn_like(b[0]))
        return F.cross_entropy(a[:16], b[1][:16]) + F.mse_loss(a.softmax(1), c.softmax(1).detach())

    return Setup(mlp(64, 48, 10), rows(x, y, 48, seed), loss, adam(3e-3))


@healthy()
def deep_kernel(seed: int) -> Setup:
    """The marginal likelihood of a Gaussian process on learned features."""
    x, y = friedman(96)

    class Gp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.log = mlp(10, 16, 3, act=nn.Tanh), nn.Parameter(torch.tensor([0.0, -1.0]))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            z = self.body(x)
            k = self.log[0].exp() * torch.exp(-0.5 * ((z[:, None] - z[None]) ** 2).sum(-1)) + (self.log[1].exp() + 1e-4) * torch.eye(len(x))
            factor = torch.linalg.cholesky(k)
            alpha = torch.cholesky_solve(y[:, None], factor)
            return (0.5 * (y[:, None] * alpha).sum() + factor.diagonal().log().sum()) / len(x)

    return Setup(Gp(), [(x, y)], lambda m, b: m(*b), adam(2e-2))


@healthy()
def transport_plan(seed: int) -> Setup:
    """Sinkhorn iterations between the output and a cloud."""
    x, _ = moons()

    def loss(m: Any, b: Any) -> Tensor:
        cost = torch.cdist(m(torch.randn(len(b[0]), 2)), b[0]) ** 2
        u = torch.zeros(len(cost))
        for _ in range(12):
            v = -torch.logsumexp((u[:, None] - cost) / 0.2, 0) * 0.2
            u = -torch.logsumexp((v[None] - cost) / 0.2, 1) * 0.2
        plan = torch.softmax(((u[:, None] + v[None] - cost) / 0.2).flatten(), 0).reshape(cost.shape)
        return (plan * cost).sum()

    return Setup(mlp(2, 32, 2), rows(x * 1.5 + 1, x, 64, seed), loss, adam(5e-3))


# --- optimizers --------------------------------------------------------------------------------------------------------


@healthy()
def adafactor(seed: int) -> Setup:
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), ce, lambda p: optim.Adafactor(p, lr=1e-2))


@healthy()
def amsgrad(seed: int) -> Setup:
    return Setup(mlp(10, 32, 1), rows(*friedman(), 32, seed), mse, adam(5e-3, amsgrad=True, weight_decay=1e-4))


class Orthogonal(optim.Optimizer):
    """A user's own: the momentum of matrices is made orthogonal, the rest goes by its sign (Muon's idea)."""

    def __init__(self, params: Any, lr: float = 0.02) -> None:
        super().__init__(params, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                if p.ndim == 2:
                    u, _, vh = torch.linalg.svd(m, full_matrices=False)
                    p.sub_(u @ vh, alpha=group["lr"])
                else:
                    p.sub_(m.sign(), alpha=0.1 * group["lr"])
        return None


@healthy()
def own_orthogonal_optimizer(seed: int) -> Setup:
    return Setup(mlp(64, 32, 10), rows(*table("digits"), 32, seed), ce, lambda p: Orthogonal(p))


class Lookahead(optim.SGD):
    """Slow weights every fifth step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr, momentum=0.9)
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        super().step()
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.state[p].setdefault("slow", p.detach().clone())
                if self.count % 5 == 0:
                    slow.lerp_(p, 0.5)
                    p.copy_(slow)
        return None


@healthy()
def lookahead(seed: int) -> Setup:
    return Setup(mlp(13, 32, 3), rows(*table("wine"), 32, seed), ce, lambda p: Lookahead(p, lr=0.05))


# --- loops -------------------------------------------------------------------------------------------------------------


@healthy()
def watched_plateau_schedule(seed: int) -> Setup:
    net = mlp(64, 48, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=10, factor=0.5)

    def step(i: int, b: Any) -> Tensor:
        loss = descend(net, optimizer, b)
        schedule.step(loss.item())
        return loss

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_alternating_tasks(seed: int) -> Setup:
    """Two losses take turns; each head is silent at every other step."""
    net = nn.ModuleDict({"body": mlp(64, 48, 48), "class": nn.Linear(48, 10), "parity": nn.Linear(48, 1)})
    optimizer = optim.Adam(net.parameters(), lr=3e-3)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        h = F.relu(net["body"](b[0]))
        loss = F.cross_entropy(net["class"](h), b[1]) if i % 2 else F.binary_cross_entropy_with_logits(net["parity"](h)[:, 0], (b[1] % 2).float())
        loss.backward()
        optimizer.step()
        return loss

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_clipped_critic(seed: int) -> Setup:
    """WGAN: five critic steps to one of the generator, weights clipped."""
    generator, critic = mlp(4, 32, 2), mlp(2, 32, 1)
    g, d = optim.RMSprop(generator.parameters(), lr=5e-4), optim.RMSprop(critic.parameters(), lr=5e-4)
    x, _ = moons()

    def step(i: int, b: Any) -> Tensor:
        d.zero_grad()
        loss = critic(generator(torch.randn(32, 4)).detach()).mean() - critic(b[0]).mean()
        loss.backward()
        d.step()
        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-0.1, 0.1)
        if i % 5 == 4:
            g.zero_grad()
            (-critic(generator(torch.randn(32, 4))).mean()).backward()
            g.step()
        return loss

    return watched(nn.ModuleDict({"g": generator, "d": critic}), rows(x, x, 32, seed), (g, d), step, 120, objective="adversarial")


@healthy()
def watched_manual_warm_up(seed: int) -> Setup:
    net = mlp(64, 64, 64, 10, act=nn.GELU)
    optimizer = optim.AdamW(net.parameters(), lr=5e-3)

    def step(i: int, b: Any) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, i / 30)
        return descend(net, optimizer, b)

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_cosine_to_zero(seed: int) -> Setup:
    """The rate ends at exactly 0, and the last few steps stand still."""
    net = mlp(13, 32, 3)
    optimizer = optim.Adam(net.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 70)

    def step(i: int, b: Any) -> Tensor:
        loss = descend(net, optimizer, b)
        if i < 70:
            schedule.step()
        return loss

    return watched(net, rows(*table("wine"), 32, seed), optimizer, step, 80)


# --- NumPy -------------------------------------------------------------------------------------------------------------


@healthy()
def numpy_gaussian_mixture(seed: int) -> Setup:
    """The likelihood of a mixture of three Gaussians of unit variance."""
    random = np.random.default_rng(seed)
    centres = np.array([[-2.0, 0], [2, 0], [0, 2.5]])
    batches = [centres[random.integers(0, 3, 60)] + 0.6 * random.normal(size=(60, 2)) for _ in range(20)]

    def parts(m: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p = -0.5 * ((x[:, None] - m["centre"]) ** 2).sum(2)
        top = log_p.max(1, keepdims=True)
        e = np.exp(log_p - top)
        return e / e.sum(1, keepdims=True), top[:, 0] + np.log(e.sum(1))

    def grad(m: Any, x: np.ndarray) -> Any:
        r, _ = parts(m, x)
        return {"centre": -(r[:, :, None] * (x[:, None] - m["centre"])).sum(0) / len(x)}

    return Setup({"centre": random.normal(size=(3, 2))}, batches, lambda m, x: float(-parts(m, x)[1].mean()), gg.SGD(0.5), {"grad": grad})


@healthy()
def numpy_three_layers(seed: int) -> Setup:
    """Two tanh layers and squared error, with momentum."""
    random = np.random.default_rng(seed)
    batches = numpy_rows(friedman(), 32, seed)

    def forward(m: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        h = np.tanh(x @ m["w1"] + m["b1"])
        k = np.tanh(h @ m["w2"] + m["b2"])
        return h, k, k @ m["w3"] + m["b3"]

    def grad(m: Any, b: Any) -> Any:
        h, k, out = forward(m, b[0])
        d = 2 * (out - b[1]) / len(out)
        dk = np.outer(d, m["w3"]) * (1 - k**2)
        dh = dk @ m["w2"].T * (1 - h**2)
        return {"w1": b[0].T @ dh, "b1": dh.sum(0), "w2": h.T @ dk, "b2": dk.sum(0), "w3": k.T @ d, "b3": d.sum()}

    model = {"w1": random.normal(size=(10, 24)) / math.sqrt(10), "b1": np.zeros(24), "w2": random.normal(size=(24, 16)) / math.sqrt(24), "b2": np.zeros(16),
             "w3": random.normal(size=16) / 4, "b3": np.zeros(())}
    return Setup(model, batches, lambda m, b: float(((forward(m, b[0])[2] - b[1]) ** 2).mean()), gg.SGD(0.05, momentum=0.9),
                 {"grad": grad, "activations": lambda m, b: {"first": forward(m, b[0])[0], "second": forward(m, b[0])[1]}})
