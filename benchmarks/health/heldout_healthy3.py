"""Held-out healthy programs, third draw: near the edges of what the second mending added; written before it was judged."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_batches import letters, rows
from benchmarks.health.heldout_data import LETTERS, friedman, moons, noise, table
from benchmarks.health.heldout_layers import mlp
from benchmarks.health.heldout_loops import adam, ce, scheduled, sgd, watched
from benchmarks.health.heldout_programs import Draw, Setup

healthy = Draw()
optim = torch.optim


class Reverse(torch.autograd.Function):
    """The identity whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.3 * gradient


@healthy()
def domain_adversarial(seed: int) -> Setup:
    """A domain classifier behind a gradient reversal: at best it guesses."""
    x, y = table("digits")
    domain = torch.randint(0, 2, (len(y),), generator=noise(60))
    net = nn.ModuleDict({"body": mlp(64, 48, 32), "label": nn.Linear(32, 10), "domain": nn.Linear(32, 2)})

    def loss(m: Any, b: Any) -> Tensor:
        h = F.relu(m["body"](b[0]))
        return F.cross_entropy(m["label"](h), b[1] % 10) + F.cross_entropy(m["domain"](Reverse.apply(h)), b[1] // 10)

    return Setup(net, rows(x, y + 10 * domain, 48, seed), loss, adam(3e-3))


@healthy()
def logits_clamped_for_safety(seed: int) -> Setup:
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), lambda m, b: F.cross_entropy(m(b[0]).clamp(-30, 30), b[1]), adam(3e-3))


@healthy()
def leaky_logits(seed: int) -> Setup:
    return Setup(mlp(13, 32, 3, last=(nn.LeakyReLU(0.2),)), rows(*table("wine"), 32, seed), ce, adam(1e-2))


@healthy()
def module_held_by_a_list_and_by_name(seed: int) -> Setup:
    """A list beside the attributes; everything is registered all the same."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
            self.order = [self.a, self.b]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = F.relu(layer(x))
            return self.c(x)

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(3e-3))


@healthy()
def frozen_teacher_hidden_in_a_list(seed: int) -> Setup:
    """The list keeps the teacher out of the checkpoint."""
    x, y = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(64, 32, 10)
            self.teacher = [mlp(64, 48, 10)]

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    def loss(m: Any, b: Any) -> Tensor:
        with torch.no_grad():
            wanted = m.teacher[0](b[0])
        return F.cross_entropy(m(b[0]), b[1]) + 0.01 * F.mse_loss(m(b[0]), wanted)

    return Setup(Net(), rows(x, y, 32, seed), loss, adam(3e-3))


@healthy()
def rows_of_labels_with_zeros(seed: int) -> Setup:
    """One-hot labels under a sigmoid each; some rows have no label at all."""
    x, y = table("digits")
    hot = F.one_hot(y, 10).float()
    hot[::7] = 0
    return Setup(mlp(64, 48, 10, last=(nn.Sigmoid(),)), rows(x, hot, 32, seed), lambda m, b: F.binary_cross_entropy(m(b[0]), b[1]), adam(5e-3))


@healthy()
def pooling_over_time(seed: int) -> Setup:
    """Attention pooling with the softmax where it belongs."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.score, self.head = nn.Linear(8, 24), nn.Linear(24, 1), nn.Linear(24, 10)
            self.place = nn.Parameter(torch.randn(8, 24) * 0.3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.h(x.reshape(-1, 8, 8)) + self.place)
            return self.head((torch.softmax(self.score(h), dim=1) * h).sum(1))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-2))


@healthy()
def weighted_likelihood(seed: int) -> Setup:
    """-(w * log p[y]).sum() / w.sum() by hand, with some weights of 0."""
    x, y = table("digits")
    w = torch.rand(len(y), generator=noise(61)).round(decimals=1)

    def loss(m: Any, b: Any) -> Tensor:
        log_p = F.log_softmax(m(b[0]), 1).gather(1, b[1][:, :1].long())[:, 0]
        return -(b[1][:, 1] * log_p).sum() / b[1][:, 1].sum()

    return Setup(mlp(64, 48, 10), rows(x, torch.stack([y.float(), w], 1), 32, seed), loss, adam(3e-3))


@healthy()
def advantage_undeclared(seed: int) -> Setup:
    """A policy gradient with a baseline, nothing declared."""
    x, y = table("iris")

    def loss(m: Any, b: Any) -> Tensor:
        log_p = F.log_softmax(m(b[0]), 1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        reward = (action[:, 0] == b[1]).float()
        return -(log_p.gather(1, action)[:, 0] * (reward - reward.mean())).mean()

    return Setup(mlp(4, 24, 3), rows(x, y, 50, seed), loss, adam(5e-3))


@healthy()
def experts_by_comparison(seed: int) -> Setup:
    """Top-1 routing by (index == i) with a balancing loss."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 24, 10) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            p = torch.softmax(self.router(x), 1)
            gate, index = p.max(1)
            out = torch.zeros(len(x), 10)
            for i, expert in enumerate(self.experts):
                mine = index == i
                if mine.any():
                    out[mine] = gate[mine, None] * expert(x[mine]) * 4
            share = torch.stack([(index == i).float().mean() for i in range(4)])
            return out, 4 * (share * p.mean(0)).sum()

    def loss(m: Any, b: Any) -> Tensor:
        out, balance = m(b[0])
        return F.cross_entropy(out, b[1]) + 0.1 * balance

    return Setup(Net(), rows(*table("digits"), 48, seed), loss, adam(3e-3))


@healthy()
def strong_decay_that_works(seed: int) -> Setup:
    """Weight decay of 0.05 in the loss: the weights shrink and it learns."""
    return Setup(mlp(30, 32, 2), rows(*table("breast_cancer"), 32, seed), lambda m, b: ce(m, b) + 1e-2 * sum(p.square().sum() for p in m.parameters()), adam(3e-3))


@healthy()
def kl_weighted_autoencoder(seed: int) -> Setup:
    """A VAE with the KL term at 0.2 of the summed error, Adam."""
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        mean, lv = m["e"](b[0]).chunk(2, 1)
        out = m["d"](mean + torch.randn_like(mean) * (lv / 2).exp())
        return F.mse_loss(out, b[0], reduction="sum") / len(out) + 0.1 * (mean**2 + lv.exp() - lv - 1).sum(1).mean()

    return Setup(nn.ModuleDict({"e": mlp(64, 48, 8), "d": mlp(4, 48, 64)}), rows(x, x, 32, seed), loss, adam(3e-3))


@healthy()
def network_distillation_bonus(seed: int) -> Setup:
    """RND: a random net is imitated; it is frozen."""
    x = torch.randn(600, 8, generator=noise(62))
    net = nn.ModuleDict({"predict": mlp(8, 32, 32, 6), "random": mlp(8, 16, 6).requires_grad_(False)})
    return Setup(net, rows(x, x, 40, seed), lambda m, b: F.mse_loss(m["predict"](b[0]), m["random"](b[0])), adam(3e-3), {"objective": "reinforcement"})


@healthy()
def large_targets_scaled_inside(seed: int) -> Setup:
    """Labels in the thousands; the net's output is multiplied by their deviation and shifted by their mean."""
    x, y = friedman(scaled=False)
    y = 1000 * y

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(10, 48, 1)
            self.register_buffer("mean", y.mean())
            self.register_buffer("std", y.std())

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x * 2 - 1).squeeze(1) * self.std + self.mean

    return Setup(Net(), rows(x, y, 32, seed), lambda m, b: F.l1_loss(m(b[0]), b[1]), adam(5e-3))


@healthy()
def watched_shared_encoder(seed: int) -> Setup:
    """Two optimizers that both hold the encoder, a target copy that none holds."""
    encoder, a, c = mlp(64, 32, 32), nn.Linear(32, 10), nn.Linear(32, 1)
    net = nn.ModuleDict({"encoder": encoder, "actor": a, "critic": c, "target": copy.deepcopy(c)})
    first = optim.Adam([*encoder.parameters(), *a.parameters()], lr=3e-3)
    second = optim.Adam([*encoder.parameters(), *c.parameters()], lr=3e-3)

    def step(i: int, b: Any) -> Tensor:
        first.zero_grad()
        loss = F.cross_entropy(a(F.relu(encoder(b[0]))), b[1])
        loss.backward()
        first.step()
        second.zero_grad()
        with torch.no_grad():
            wanted = 0.5 * net["target"](F.relu(encoder(b[0])))[:, 0] + (b[1] % 2).float()
        F.mse_loss(c(F.relu(encoder(b[0])))[:, 0], wanted).backward()
        second.step()
        with torch.no_grad():
            for p, q in zip(net["target"].parameters(), c.parameters(), strict=True):
                p.lerp_(q, 0.05)
        return loss

    return watched(net, rows(*table("digits"), 32, seed), (first, second), step)


@healthy()
def watched_long_accumulation(seed: int) -> Setup:
    """One step for every 24 micro-batches."""
    net = mlp(64, 48, 10)
    optimizer = optim.Adam(net.parameters(), lr=1e-2)

    def step(i: int, b: Any) -> Tensor:
        loss = ce(net, b)
        (loss / 24).backward()
        if i % 24 == 23:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return watched(net, rows(*table("digits"), 8, seed, count=240), optimizer, step, 240)


@healthy()
def watched_step_decay(seed: int) -> Setup:
    """The rate falls to a ten-thousandth at the end."""
    net = mlp(13, 32, 3)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = optim.lr_scheduler.MultiStepLR(optimizer, [40, 60, 70, 80], 0.1)
    return watched(net, rows(*table("wine"), 32, seed), optimizer, scheduled(net, optimizer, schedule))


@healthy()
def reversed_letters_classes_second(seed: int) -> Setup:
    """(B, C, T) into cross_entropy as it is."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(len(LETTERS), 24), nn.Conv1d(24, 48, 3, padding=1), nn.Conv1d(48, len(LETTERS), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(self.embed(x).transpose(1, 2))))

    return Setup(Net(), [(x, x.flip(1)) for x, _ in letters(12, 5, seed)], ce, adam(1e-2))


@healthy()
def moons_with_huge_batches(seed: int) -> Setup:
    return Setup(mlp(2, 24, 24, 2, act=nn.Tanh), [moons(2000)], ce, sgd(0.5, 0.9))
