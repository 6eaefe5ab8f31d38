"""Held-out healthy programs, first draw: written without sight of a rule, a measurement or the other programs.

Each is what a practitioner would keep; no finding of severity error is right on any of them.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import gradguard as gg
from benchmarks.health.heldout_batches import letters, rows
from benchmarks.health.heldout_data import LETTERS, friedman, images, moons, noise, table, xor
from benchmarks.health.heldout_layers import Lora, mlp
from benchmarks.health.heldout_loops import adam, ce, compete, descend, mse, per_letter, scheduled, sgd, watched
from benchmarks.health.heldout_numpy import numpy_rows, softmax
from benchmarks.health.heldout_programs import Draw, Setup

healthy = Draw()
optim = torch.optim


# --- optimizers --------------------------------------------------------------------------------------------------------


@healthy()
def iris_softplus_adadelta(seed: int) -> Setup:
    return Setup(mlp(4, 24, 24, 3, act=nn.Softplus), rows(*table("iris"), 30, seed), ce, lambda p: optim.Adadelta(p, lr=1.0))


@healthy()
def wine_regression_lbfgs(seed: int) -> Setup:
    return Setup(nn.Linear(13, 3), [table("wine")], ce, lambda p: optim.LBFGS(p, lr=0.5, max_iter=5))


@healthy()
def cancer_nadam_pos_weight(seed: int) -> Setup:
    x, y = table("breast_cancer")
    return Setup(mlp(30, 32, 1), rows(x, y.float(), 32, seed),
                 lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1], pos_weight=torch.tensor(0.6)), lambda p: optim.NAdam(p, lr=2e-3))


@healthy()
def diabetes_huber_radam(seed: int) -> Setup:
    return Setup(mlp(10, 48, 24, 1, act=nn.LeakyReLU), rows(*table("diabetes"), 32, seed),
                 lambda m, b: F.huber_loss(m(b[0]).squeeze(1), b[1]), lambda p: optim.RAdam(p, lr=5e-3))


@healthy()
def pinball_adamax(seed: int) -> Setup:
    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(m: Any, b: Any) -> Tensor:
        d = b[1][:, None] - m(b[0])
        return torch.maximum(levels * d, (levels - 1) * d).mean()

    return Setup(mlp(10, 48, 3), rows(*friedman(), 32, seed), loss, lambda p: optim.Adamax(p, lr=1e-2))


@healthy()
def digits_adagrad(seed: int) -> Setup:
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), ce, lambda p: optim.Adagrad(p, lr=0.05))


@healthy()
def full_batch_rprop(seed: int) -> Setup:
    return Setup(mlp(30, 24, 2, act=nn.Tanh), [table("breast_cancer")], ce, lambda p: optim.Rprop(p, lr=1e-3))


@healthy()
def averaged_sgd(seed: int) -> Setup:
    return Setup(mlp(13, 32, 3), rows(*table("wine"), 32, seed), ce, lambda p: optim.ASGD(p, lr=0.1))


@healthy()
def rmsprop_centered(seed: int) -> Setup:
    return Setup(mlp(64, 48, 48, 10), rows(*table("digits"), 32, seed), ce, lambda p: optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.5))


class SignSgd(optim.Optimizer):
    """A user's own optimizer: the sign of an averaged gradient (Lion without decay)."""

    def __init__(self, params: Any, lr: float = 1e-3, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    average.mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                    p.sub_(average.sign(), alpha=group["lr"])
        return None


@healthy()
def own_sign_optimizer(seed: int) -> Setup:
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), ce, lambda p: SignSgd(p, lr=2e-3))


@healthy()
def sparse_adam_embedding_bag(seed: int) -> Setup:
    """A bag-of-words classifier whose only weights are a sparse embedding: most rows get nothing."""
    g = noise(0)
    word = torch.randint(0, 400, (480, 12), generator=g)
    y = (word < 130).sum(1).gt(3).long()
    net = nn.EmbeddingBag(400, 2, mode="mean", sparse=True)
    return Setup(net, rows(word, y, 32, seed), ce, lambda p: optim.SparseAdam(list(p), lr=3e-2))


@healthy()
def decay_on_weights_only(seed: int) -> Setup:
    net = mlp(64, 64, 10)
    optimizer = optim.AdamW([{"params": [net[0].weight, net[2].weight], "weight_decay": 0.1},
                             {"params": [net[0].bias, net[2].bias], "weight_decay": 0.0}], lr=3e-3)
    return Setup(net, rows(*table("digits"), 32, seed), ce, optimizer)


@healthy()
def lower_rate_for_the_body(seed: int) -> Setup:
    """Discriminative rates: a hundredth for the pretrained body."""
    net = mlp(64, 64, 10)
    optimizer = optim.SGD([{"params": net[0].parameters(), "lr": 1e-3}, {"params": net[2].parameters(), "lr": 0.2}], lr=0.1, momentum=0.9)
    return Setup(net, rows(*table("digits"), 32, seed), ce, optimizer)


# --- losses ------------------------------------------------------------------------------------------------------------


@healthy()
def gaussian_nll(seed: int) -> Setup:
    def loss(m: Any, b: Any) -> Tensor:
        mean, raw = m(b[0]).unbind(1)
        return F.gaussian_nll_loss(mean, b[1], F.softplus(raw) + 1e-3)

    return Setup(mlp(10, 48, 48, 2), rows(*friedman(), 32, seed), loss, adam(3e-3))


@healthy()
def poisson_counts(seed: int) -> Setup:
    g = noise(3)
    x = torch.randn(480, 6, generator=g)
    y = torch.poisson((x[:, 0] * 0.6 + 0.4 * x[:, 1] + 0.5).exp(), generator=g)
    return Setup(mlp(6, 24, 1), rows(x, y, 32, seed), lambda m, b: F.poisson_nll_loss(m(b[0]).squeeze(1), b[1]), adam(5e-3))


@healthy()
def multi_margin(seed: int) -> Setup:
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), lambda m, b: F.multi_margin_loss(m(b[0]), b[1]), sgd(0.2, 0.9, nesterov=True))


@healthy()
def svm_hinge(seed: int) -> Setup:
    x, y = table("breast_cancer")
    return Setup(nn.Linear(30, 1), rows(x, y.float() * 2 - 1, 32, seed), lambda m, b: F.relu(1 - b[1] * m(b[0]).squeeze(1)).mean(), sgd(0.02, weight_decay=1e-3))


@healthy()
def log_softmax_and_nll(seed: int) -> Setup:
    return Setup(mlp(13, 32, 3, last=(nn.LogSoftmax(dim=1),)), rows(*table("wine"), 32, seed), lambda m, b: F.nll_loss(m(b[0]), b[1]), adam(1e-2))


@healthy()
def log_softmax_before_cross_entropy(seed: int) -> Setup:
    """Redundant and harmless: log_softmax of log_softmax is itself."""
    return Setup(mlp(13, 32, 3, last=(nn.LogSoftmax(dim=1),)), rows(*table("wine"), 32, seed), ce, adam(1e-2))


@healthy()
def sigmoid_and_bce(seed: int) -> Setup:
    x, y = table("breast_cancer")
    return Setup(mlp(30, 16, 1, last=(nn.Sigmoid(),)), rows(x, y.float(), 32, seed), lambda m, b: F.binary_cross_entropy(m(b[0]).squeeze(1), b[1]), adam(3e-3))


@healthy()
def distillation(seed: int) -> Setup:
    x, y = table("digits")
    teacher = mlp(64, 64, 10)
    opt = optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(60):
        opt.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        opt.step()
    teacher.requires_grad_(False)
    return Setup(mlp(64, 24, 10), rows(x, y, 32, seed),
                 lambda m, b: 4 * F.kl_div(F.log_softmax(m(b[0]) / 2, 1), F.softmax(teacher(b[0]) / 2, 1), reduction="batchmean") + 0.3 * ce(m, b), adam(5e-3))


@healthy()
def ctc(seed: int) -> Setup:
    g = noise(4)
    word = torch.randint(1, 6, (160, 4), generator=g)
    x = F.one_hot(word.repeat_interleave(4, dim=1), 6).float() + 0.2 * torch.randn(160, 16, 6, generator=g)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(6, 24, batch_first=True, bidirectional=True), nn.Linear(48, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.head(self.rnn(x)[0]), -1)

    def loss(m: Any, b: Any) -> Tensor:
        n = len(b[0])
        return F.ctc_loss(m(b[0]).transpose(0, 1), b[1], torch.full((n,), 16), torch.full((n,), 4))

    return Setup(Net(), rows(x, word, 16, seed), loss, adam(1e-2))


@healthy()
def triplets(seed: int) -> Setup:
    x, y = table("digits")
    g = noise(seed)
    batches = []
    for _ in range(24):
        a = torch.randint(0, len(x), (32,), generator=g)
        same = torch.tensor([int(torch.multinomial((y == y[i]).float(), 1, generator=g)) for i in a])
        other = torch.tensor([int(torch.multinomial((y != y[i]).float(), 1, generator=g)) for i in a])
        batches.append((x[a], x[same], x[other]))
    return Setup(mlp(64, 48, 16), batches, lambda m, b: F.triplet_margin_loss(m(b[0]), m(b[1]), m(b[2]), margin=1.0), adam(1e-3), {"objective": "metric"})


@healthy()
def info_nce(seed: int) -> Setup:
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        u = F.normalize(m(b[0] + 0.15 * torch.randn_like(b[0])), dim=1)
        v = F.normalize(m(b[0] + 0.15 * torch.randn_like(b[0])), dim=1)
        return F.cross_entropy(u @ v.T / 0.2, torch.arange(len(u)))

    return Setup(mlp(64, 64, 24), rows(x, x, 48, seed), loss, adam(1e-3), {"objective": "metric"})


@healthy()
def cosine_pairs(seed: int) -> Setup:
    x, y = table("digits")
    i = torch.randperm(len(x), generator=noise(1))
    same = torch.where(y == y[i], 1.0, -1.0)
    keep = torch.cat([(same > 0).nonzero()[:, 0], (same < 0).nonzero()[:180, 0]])
    pair = torch.stack([x, x[i]], 1)[keep]
    return Setup(mlp(64, 48, 16), rows(pair, same[keep], 32, seed),
                 lambda m, b: F.cosine_embedding_loss(m(b[0][:, 0]), m(b[0][:, 1]), b[1], margin=0.2), adam(2e-3), {"objective": "metric"})


@healthy()
def focal_on_rare_class(seed: int) -> Setup:
    x, y = table("breast_cancer")
    keep = torch.cat([(y == 1).nonzero()[:, 0], (y == 0).nonzero()[:40, 0]])

    def loss(m: Any, b: Any) -> Tensor:
        raw = F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1], reduction="none")
        return ((1 - (-raw).exp()) ** 2 * raw).mean()

    return Setup(mlp(30, 24, 1), rows(x[keep], y[keep].float(), 32, seed), loss, adam(3e-3))


class Vae(nn.Module):
    """A VAE over digits with a learned noise level."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 48, 8), mlp(4, 48, 64)
        self.log_sigma = nn.Parameter(torch.zeros(()), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        mean, lv = self.encode(x).chunk(2, 1)
        out = self.decode(mean + torch.randn_like(mean) * (lv / 2).exp())
        fit = (0.5 * ((out - x) / self.log_sigma.exp()) ** 2 + self.log_sigma).sum(1)
        return (fit + 0.5 * (mean**2 + lv.exp() - lv - 1).sum(1)).mean()


@healthy()
def vae_elbo(seed: int) -> Setup:
    x, _ = table("digits")
    return Setup(Vae(False), rows(x, x, 32, seed), lambda m, b: m(b[0]), adam(2e-3))


@healthy()
def vae_with_negative_loss(seed: int) -> Setup:
    x, _ = table("digits")
    net = Vae(True)
    with torch.no_grad():
        net.log_sigma.fill_(-0.5)
    return Setup(net, rows(x, x, 32, seed), lambda m, b: m(b[0]), adam(3e-3))


@healthy()
def beta_bernoulli_vae(seed: int) -> Setup:
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        mean, lv = m["e"](b[0]).chunk(2, 1)
        out = m["d"](mean + torch.randn_like(mean) * (lv / 2).exp())
        return F.binary_cross_entropy_with_logits(out, b[0], reduction="sum") / len(out) - 0.5 * (1 + lv - mean**2 - lv.exp()).sum() / len(out)

    return Setup(nn.ModuleDict({"e": mlp(64, 48, 12), "d": mlp(6, 48, 64)}), rows(x, x, 32, seed), loss, adam(2e-3))


@healthy()
def chain_crf(seed: int) -> Setup:
    """A linear-chain CRF: forward algorithm minus the score of the gold path."""
    g = noise(6)
    y = torch.randint(0, 4, (200, 1), generator=g)
    for _ in range(9):
        y = torch.cat([y, (y[:, -1:] + torch.randint(0, 2, (200, 1), generator=g)) % 4], 1)
    x = F.one_hot(y, 4).float() + 0.7 * torch.randn(200, 10, 4, generator=g)

    class Crf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emit, self.move = mlp(4, 16, 4), nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            e = self.emit(x)
            alpha = e[:, 0]
            gold = e[:, 0].gather(1, y[:, :1])[:, 0]
            for t in range(1, e.shape[1]):
                alpha = torch.logsumexp(alpha[:, :, None] + self.move, 1) + e[:, t]
                gold = gold + self.move[y[:, t - 1], y[:, t]] + e[:, t].gather(1, y[:, t : t + 1])[:, 0]
            return (torch.logsumexp(alpha, 1) - gold).mean()

    return Setup(Crf(), rows(x, y, 25, seed), lambda m, b: m(b[0], b[1]), adam(1e-2))


@healthy()
def reinforce_with_baseline(seed: int) -> Setup:
    x, y = table("iris")

    def loss(m: Any, b: Any) -> Tensor:
        log_p = F.log_softmax(m["policy"](b[0]), 1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        reward = (action[:, 0] == b[1]).float()
        value = m["value"](b[0])[:, 0]
        return -(log_p.gather(1, action)[:, 0] * (reward - value.detach())).mean() + F.mse_loss(value, reward) + 0.01 * (log_p * log_p.exp()).sum(1).mean()

    return Setup(nn.ModuleDict({"policy": mlp(4, 24, 3), "value": mlp(4, 24, 1)}), rows(x, y, 50, seed), loss, adam(3e-3), {"objective": "reinforcement"})


@healthy()
def q_learning_with_target_network(seed: int) -> Setup:
    g = noise(7)
    state = torch.randn(400, 4, generator=g)
    action = torch.randint(0, 3, (400,), generator=g)
    reward = state[torch.arange(400), action]
    online = mlp(4, 32, 3)
    frozen = copy.deepcopy(online).requires_grad_(False)

    def loss(m: Any, b: Any) -> Tensor:
        with torch.no_grad():
            wanted = b[1][:, 1] + 0.5 * m["target"](b[0].flip(0)).max(1).values
        return F.smooth_l1_loss(m["online"](b[0]).gather(1, b[1][:, :1].long())[:, 0], wanted)

    return Setup(nn.ModuleDict({"online": online, "target": frozen}), rows(state, torch.stack([action.float(), reward], 1), 40, seed), loss, adam(3e-3),
                 {"objective": "reinforcement"})


@healthy()
def multi_label_rare(seed: int) -> Setup:
    g = noise(8)
    x = torch.randn(600, 16, generator=g)
    y = (x @ torch.randn(16, 8, generator=g) > 5.0).float()
    return Setup(mlp(16, 48, 8), rows(x, y, 40, seed), lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]), adam(5e-3))


@healthy()
def ordinal_thresholds(seed: int) -> Setup:
    x, y = friedman()
    rank = torch.bucketize(y, torch.tensor([-1.0, -0.3, 0.3, 1.0]))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.cut = mlp(10, 32, 1), nn.Parameter(torch.tensor([-1.0, -0.3, 0.3, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.score(x) - self.cut

    return Setup(Net(), rows(x, rank, 32, seed),
                 lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), (b[1][:, None] > torch.arange(4)).float()), adam(5e-3))


@healthy()
def mixture_density(seed: int) -> Setup:
    g = noise(9)
    x = torch.rand(512, 1, generator=g) * 2 - 1
    y = torch.where(torch.rand(512, generator=g) > 0.5, x[:, 0], -x[:, 0]) + 0.05 * torch.randn(512, generator=g)

    def loss(m: Any, b: Any) -> Tensor:
        weight, mean, log_s = m(b[0]).chunk(3, 1)
        return -torch.logsumexp(F.log_softmax(weight, 1) - log_s - 0.5 * ((b[1][:, None] - mean) / log_s.exp()) ** 2 - 0.92, 1).mean()

    return Setup(mlp(1, 32, 12, act=nn.Tanh), rows(x, y, 64, seed), loss, adam(5e-3))


@healthy()
def coupling_flow(seed: int) -> Setup:
    """RealNVP on the moons: the likelihood goes below zero."""
    x, _ = moons()

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp(1, 24, 2, act=nn.Tanh) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(len(x))
            for i, net in enumerate(self.nets):
                a, b = (x[:, :1], x[:, 1:]) if i % 2 else (x[:, 1:], x[:, :1])
                s, t = net(a).chunk(2, 1)
                s = torch.tanh(s)
                b = b * s.exp() + t
                x = torch.cat([a, b] if i % 2 else [b, a], 1)
                total = total + s[:, 0]
            return -(total - 0.5 * (x**2).sum(1)).mean()

    return Setup(Flow(), rows(x * 0.4, x, 64, seed), lambda m, b: m(b[0]), adam(5e-3))


@healthy()
def cox_survival(seed: int) -> Setup:
    g = noise(10)
    x = torch.randn(320, 8, generator=g)
    time = torch.empty(320).exponential_(generator=g) * (-1.2 * x[:, 0] + x[:, 1]).exp()

    def loss(m: Any, b: Any) -> Tensor:
        risk = m(b[0])[:, 0][b[1].argsort(descending=True)]
        return -(risk - risk.logcumsumexp(0)).mean()

    return Setup(mlp(8, 24, 1), rows(x, time, 64, seed), loss, adam(5e-3))


@healthy()
def ratings_factorised(seed: int) -> Setup:
    """Matrix factorisation with a global mean, user and item biases."""
    g = noise(11)
    u, v = torch.randn(60, 3, generator=g), torch.randn(40, 3, generator=g)
    pair = torch.stack([torch.randint(0, 60, (900,), generator=g), torch.randint(0, 40, (900,), generator=g)], 1)
    y = (3.5 + (u[pair[:, 0]] * v[pair[:, 1]]).sum(1) * 0.5).clamp(1, 5)

    class Mf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(60, 4), nn.Embedding(40, 4)
            self.user_bias, self.item_bias = nn.Embedding(60, 1), nn.Embedding(40, 1)
            for e in (self.user, self.item, self.user_bias, self.item_bias):
                nn.init.normal_(e.weight, std=0.1)
            self.mean = nn.Parameter(torch.tensor(3.5))

        def forward(self, pair: Tensor) -> Tensor:
            a, b = pair.unbind(1)
            return self.mean + (self.user_bias(a) + self.item_bias(b))[:, 0] + (self.user(a) * self.item(b)).sum(1)

    return Setup(Mf(), rows(pair, y, 90, seed), mse, adam(2e-2))


@healthy()
def skip_gram(seed: int) -> Setup:
    ids = torch.tensor([LETTERS.index(c) for c in (b for b in "".join(LETTERS) * 40)])
    pair = torch.stack([ids[:-1], ids[1:]], 1)

    def loss(m: Any, b: Any) -> Tensor:
        centre, near = m["in"](b[0][:, 0]), m["out"](b[0][:, 1])
        far = m["out"](torch.randint(0, len(LETTERS), (len(centre), 4)))
        return -(F.logsigmoid((centre * near).sum(1)) + F.logsigmoid(-(far @ centre[:, :, None])[:, :, 0]).sum(1)).mean()

    net = nn.ModuleDict({"in": nn.Embedding(len(LETTERS), 12), "out": nn.Embedding(len(LETTERS), 12)})
    nn.init.zeros_(net["out"].weight)
    return Setup(net, rows(pair, pair, 64, seed), loss, adam(2e-2))


@healthy()
def log_cosh(seed: int) -> Setup:
    def loss(m: Any, b: Any) -> Tensor:
        d = m(b[0]).squeeze(1) - b[1]
        return (d + F.softplus(-2 * d) - math.log(2)).mean()

    return Setup(mlp(10, 48, 1, act=nn.ELU), rows(*friedman(), 32, seed), loss, sgd(0.1, 0.9))


@healthy()
def uncertainty_weights(seed: int) -> Setup:
    """Two tasks with learned log-variances: the total goes below zero."""
    x, y = friedman()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads, self.s = mlp(10, 48, 32, last=(nn.ReLU(),)), nn.Linear(32, 2), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.heads(self.body(x))

    def loss(m: Any, b: Any) -> Tensor:
        error = ((m(b[0]) - torch.stack([b[1], b[0][:, 3]], 1)) ** 2).mean(0)
        return (0.5 * (-m.s).exp() * error + 0.5 * m.s).sum()

    return Setup(Net(), rows(x, y, 32, seed), loss, adam(5e-3))


@healthy()
def label_noise(seed: int) -> Setup:
    """A quarter of the labels is wrong: the loss stays high, and that is right."""
    x, y = table("digits")
    g = noise(12)
    wrong = torch.rand(len(y), generator=g) < 0.25
    y = torch.where(wrong, torch.randint(0, 10, y.shape, generator=g), y)
    return Setup(mlp(64, 48, 10), rows(x, y, 64, seed), ce, sgd(0.2, 0.9))


@healthy()
def three_percent_positive(seed: int) -> Setup:
    x, y = table("breast_cancer")
    keep = torch.cat([(y == 1).nonzero()[:, 0], (y == 0).nonzero()[:14, 0]])
    return Setup(mlp(30, 16, 1), rows(x[keep], y[keep].float(), 64, seed),
                 lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1]), adam(3e-3))


@healthy()
def mixup(seed: int) -> Setup:
    def loss(m: Any, b: Any) -> Tensor:
        lam = torch.distributions.Beta(0.4, 0.4).sample()
        i = torch.randperm(len(b[0]))
        out = m(lam * b[0] + (1 - lam) * b[0][i])
        return lam * F.cross_entropy(out, b[1]) + (1 - lam) * F.cross_entropy(out, b[1][i])

    return Setup(mlp(64, 64, 10), rows(*table("digits"), 48, seed), loss, adam(3e-3))


@healthy()
def barlow_twins(seed: int) -> Setup:
    x, _ = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        u, v = (m(b[0] + 0.1 * torch.randn_like(b[0])) for _ in range(2))
        u, v = (u - u.mean(0)) / (u.std(0) + 1e-4), (v - v.mean(0)) / (v.std(0) + 1e-4)
        c = u.T @ v / len(u)
        d = torch.diagonal(c)
        return ((d - 1) ** 2).sum() + 5e-3 * ((c**2).sum() - (d**2).sum())

    return Setup(mlp(64, 64, 16), rows(x, x, 64, seed), loss, adam(1e-3), {"objective": "metric"})


# --- architectures -----------------------------------------------------------------------------------------------------


@healthy()
def small_u_net(seed: int) -> Setup:
    x, _ = images()
    mask = (F.avg_pool2d(x, 3, 1, 1) > 0.35).float()

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.mid, self.up, self.out = (nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1),
                                                      nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 1, 3, padding=1))
            self.norm = nn.InstanceNorm2d(16, affine=True)

        def forward(self, x: Tensor) -> Tensor:
            a = F.relu(self.down(x))
            b = F.relu(self.norm(self.mid(F.max_pool2d(a, 2))))
            return self.out(torch.cat([a, self.up(b)], 1))

    def loss(m: Any, b: Any) -> Tensor:
        z = m(b[0])
        p = z.sigmoid()
        dice = 1 - (2 * (p * b[1]).sum() + 1) / (p.sum() + b[1].sum() + 1)
        return F.binary_cross_entropy_with_logits(z, b[1]) + dice

    return Setup(UNet(), rows(x, mask, 16, seed), loss, adam(3e-3))


@healthy()
def convolutional_autoencoder(seed: int) -> Setup:
    x, _ = images()
    net = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(192, 12), nn.Linear(12, 192), nn.GELU(),
                        nn.Unflatten(1, (12, 4, 4)), nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1), nn.Sigmoid())
    return Setup(net, rows(x, x, 32, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(5e-3))


@healthy()
def sequence_to_sequence(seed: int) -> Setup:
    """GRU encoder and decoder that reverse a word, teacher forcing."""
    word = torch.randint(1, 8, (320, 6), generator=noise(13))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder, self.decoder, self.head = nn.Embedding(8, 16), nn.GRU(16, 48, batch_first=True), nn.GRU(16, 48, batch_first=True), nn.Linear(48, 8)

        def forward(self, x: Tensor) -> Tensor:
            _, h = self.encoder(self.embed(x))
            before = F.pad(x.flip(1)[:, :-1], (1, 0))
            return self.head(self.decoder(self.embed(before), h)[0])

    return Setup(Net(), rows(word, word.flip(1), 32, seed), per_letter, adam(5e-3))


@healthy()
def padded_transformer_encoder(seed: int) -> Setup:
    g = noise(14)
    length = torch.randint(4, 13, (320,), generator=g)
    x = torch.randint(1, 10, (320, 12), generator=g)
    x = torch.where(torch.arange(12) < length[:, None], x, 0)
    y = (x == 3).any(1).long()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 24, padding_idx=0), nn.Linear(24, 2)
            self.block = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            pad = x == 0
            h = self.block(self.embed(x), src_key_padding_mask=pad)
            return self.head((h * ~pad[..., None]).sum(1) / (~pad).sum(1, keepdim=True))

    return Setup(Net(), rows(x, y, 32, seed), ce, adam(3e-3))


@healthy()
def graph_convolution(seed: int) -> Setup:
    """A dense adjacency, full batch, a tenth of the nodes labelled."""
    g = noise(15)
    group = torch.randint(0, 3, (90,), generator=g)
    near = (torch.rand(90, 90, generator=g) < torch.where(group[:, None] == group, 0.3, 0.03)).float()
    adjacency = torch.maximum(near, near.T) + torch.eye(90)
    d = adjacency.sum(1).rsqrt()
    adjacency = d[:, None] * adjacency * d
    x = torch.randn(90, 12, generator=g) + 0.8 * F.one_hot(group, 12)
    mask = torch.rand(90, generator=g) < 0.3

    class Gcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return adjacency @ self.b(F.relu(adjacency @ self.a(x)))

    return Setup(Gcn(), [(x, adjacency, group, mask)], lambda m, b: F.cross_entropy(m(b[0], b[1])[b[3]], b[2][b[3]]), adam(1e-2, weight_decay=5e-4))


@healthy()
def deep_sets(seed: int) -> Setup:
    x = torch.randn(400, 10, 3, generator=noise(16))
    y = x.max(1).values.sum(1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = mlp(3, 32, 32), mlp(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.all(self.each(x).amax(1))

    return Setup(Net(), rows(x, (y - y.mean()) / y.std(), 32, seed), mse, adam(3e-3))


@healthy()
def mixture_of_experts(seed: int) -> Setup:
    """Top-2 of 4 experts with a balancing loss."""
    class Moe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.router, self.head = nn.Linear(64, 24), nn.Linear(24, 4, bias=False), nn.Linear(24, 10)
            self.experts = nn.ModuleList(mlp(24, 24, 24) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.gelu(self.into(x))
            p = F.softmax(self.router(h), 1)
            value, index = p.topk(2, 1)
            value = value / value.sum(1, keepdim=True)
            out = torch.zeros_like(h)
            for i, expert in enumerate(self.experts):
                row, slot = (index == i).nonzero(as_tuple=True)
                if len(row):
                    out = out.index_add(0, row, value[row, slot, None] * expert(h[row]))
            share = F.one_hot(index, 4).float().mean((0, 1))
            return self.head(h + out), 4 * (share * p.mean(0)).sum()

    def loss(m: Any, b: Any) -> Tensor:
        out, balance = m(b[0])
        return F.cross_entropy(out, b[1]) + 0.01 * balance

    return Setup(Moe(), rows(*table("digits"), 48, seed), loss, adam(3e-3))


@healthy()
def vector_quantised(seed: int) -> Setup:
    x, _ = table("digits")

    class VQ(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode, self.codes = mlp(64, 48, 16), mlp(16, 48, 64), nn.Embedding(8, 4)
            with torch.no_grad():
                z = self.encode(x[:64]).reshape(-1, 4)
                self.codes.weight.copy_(z[torch.randperm(len(z))[:8]])

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = self.encode(x).reshape(-1, 4)
            code = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
            return self.decode((z + (code - z).detach()).reshape(len(x), 16)), z, code

    def loss(m: Any, b: Any) -> Tensor:
        out, z, code = m(b[0])
        return F.mse_loss(out, b[0]) + F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())

    return Setup(VQ(), rows(x, x, 32, seed), loss, adam(2e-3))


@healthy()
def hypernetwork(seed: int) -> Setup:
    """A net writes the weights of another from a task's code."""
    g = noise(17)
    task = torch.randn(400, 2, generator=g)
    x = torch.rand(400, 1, generator=g) * 4 - 2
    y = task[:, 0] * torch.sin(x[:, 0]) + task[:, 1] * 0.5

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write = mlp(2, 32, 25)

        def forward(self, both: Tensor) -> Tensor:
            w = self.write(both[:, :2])
            h = torch.tanh(w[:, :8] * both[:, 2:] + w[:, 8:16])
            return ((h * w[:, 16:24]).sum(1) + w[:, 24])[:, None]

    return Setup(Hyper(), rows(torch.cat([task, x], 1), y, 40, seed), mse, adam(1e-2))


@healthy()
def weight_normed(seed: int) -> Setup:
    net = mlp(64, 48, 48, 10)
    for i in (0, 2, 4):
        parametrizations.weight_norm(net[i])
    return Setup(net, rows(*table("digits"), 32, seed), ce, adam(3e-3))


@healthy()
def spectrally_normed(seed: int) -> Setup:
    net = mlp(30, 48, 48, 2, act=nn.LeakyReLU)
    for i in (0, 2, 4):
        parametrizations.spectral_norm(net[i])
    return Setup(net, rows(*table("breast_cancer"), 32, seed), ce, adam(5e-3))


@healthy()
def orthogonal_recurrence(seed: int) -> Setup:
    x = torch.randn(300, 12, 4, generator=noise(18))
    y = (x[:, 0].sum(1) > 0).long()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.over, self.head = nn.Linear(4, 24), parametrizations.orthogonal(nn.Linear(24, 24, bias=False)), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 24)
            for t in range(x.shape[1]):
                h = F.leaky_relu(self.into(x[:, t]) + self.over(h), 0.5)
            return self.head(h)

    return Setup(Net(), rows(x, y, 30, seed), ce, adam(5e-3))


class Positive(nn.Module):
    """A user's parametrization: weights through softplus."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


@healthy()
def monotone_network(seed: int) -> Setup:
    """Positive weights by a parametrization of one's own."""
    x, _ = friedman()
    y = x[:, 0] + x[:, 1] ** 3 + 0.3 * x[:, 2]
    net = mlp(10, 16, 1, act=nn.Tanh)
    for i in (0, 2):
        parametrize.register_parametrization(net[i], "weight", Positive())
        with torch.no_grad():
            net[i].parametrizations.weight.original.sub_(2.0)
    return Setup(net, rows(x, (y - y.mean()) / y.std(), 32, seed), mse, adam(1e-2))


@healthy()
def low_rank_adapters(seed: int) -> Setup:
    x, y = table("digits")
    net = mlp(64, 48, 48, 10)
    opt = optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(15):
        opt.zero_grad()
        F.cross_entropy(net(x[:900] + 0.5 * torch.randn(900, 64)), y[:900]).backward()
        opt.step()
    for i in (0, 2, 4):
        net[i] = Lora(net[i])
    return Setup(net, rows(x, y, 32, seed), ce, lambda p: optim.AdamW([q for q in p if q.requires_grad], lr=1e-2))


@healthy()
def tied_letters(seed: int) -> Setup:
    class Lm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(len(LETTERS), 32), nn.LSTM(32, 32, batch_first=True), nn.Linear(32, len(LETTERS))
            nn.init.normal_(self.embed.weight, std=0.1)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    return Setup(Lm(), letters(16, 20, seed), per_letter, adam(1e-2), {"causal": True, "independent_samples": True})


@healthy()
def highway(seed: int) -> Setup:
    """Six highway layers with carry bias -2."""
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.t = nn.Linear(32, 32), nn.Linear(32, 32)
            nn.init.constant_(self.t.bias, -2.0)

        def forward(self, x: Tensor) -> Tensor:
            t = torch.sigmoid(self.t(x))
            return t * F.relu(self.h(x)) + (1 - t) * x

    return Setup(nn.Sequential(nn.Linear(64, 32), *[Layer() for _ in range(6)], nn.Linear(32, 10)), rows(*table("digits"), 32, seed), ce, adam(2e-3))


@healthy()
def gated_units(seed: int) -> Setup:
    return Setup(nn.Sequential(nn.Linear(13, 64), nn.GLU(), nn.Linear(32, 64), nn.GLU(), nn.Linear(32, 3)), rows(*table("wine"), 32, seed), ce, adam(5e-3))


@healthy()
def maxout(seed: int) -> Setup:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(30, 96), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).reshape(-1, 32, 3).amax(2))

    return Setup(Net(), rows(*table("breast_cancer"), 32, seed), ce, sgd(0.05, 0.9))


@healthy()
def prelu_cnn(seed: int) -> Setup:
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.PReLU(12), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.PReLU(24),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    return Setup(net, rows(*images(), 32, seed), ce, adam(5e-3))


@healthy()
def self_normalising(seed: int) -> Setup:
    net = nn.Sequential(*[m for i in range(6) for m in (nn.Linear(30 if i == 0 else 32, 32), nn.SELU(), nn.AlphaDropout(0.05))], nn.Linear(32, 2))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
    return Setup(net, rows(*table("breast_cancer"), 32, seed), ce, sgd(0.05))


class SqueezeExcite(nn.Module):
    """Channel weights from pooled channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(n, n // 4), nn.Linear(n // 4, n)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))[:, :, None, None]


@healthy()
def mobile_block(seed: int) -> Setup:
    """Depthwise convolution, squeeze-excitation, hard swish, BatchNorm."""
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
                        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.Hardswish(), SqueezeExcite(16),
                        nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 10))
    return Setup(net, rows(*images(), 32, seed), ce, sgd(0.1, 0.9, weight_decay=4e-5))


@healthy()
def fourier_features(seed: int) -> Setup:
    """An image as a function of its coordinates."""
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, 24), torch.linspace(0, 1, 24), indexing="ij"), -1).reshape(-1, 2)
    y = torch.sin(9 * grid[:, 0]) * torch.cos(7 * grid[:, 1])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.randn(2, 24) * 2)
            self.body = mlp(48, 48, 1)

        def forward(self, x: Tensor) -> Tensor:
            z = 2 * math.pi * x @ self.b
            return self.body(torch.cat([z.sin(), z.cos()], 1))

    return Setup(Net(), rows(grid, y, 96, seed), mse, adam(5e-3))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


@healthy()
def siren(seed: int) -> Setup:
    x = torch.linspace(-1, 1, 256)[:, None]
    net = mlp(1, 32, 32, 1, act=Sine)
    with torch.no_grad():
        nn.init.uniform_(net[0].weight, -1.0, 1.0)
        for i in (2, 4):
            bound = math.sqrt(6 / 32) / 30
            nn.init.uniform_(net[i].weight, -bound, bound)
    return Setup(net, [(x, torch.sin(12 * x[:, 0]) + 0.3 * torch.cos(31 * x[:, 0]))], mse, adam(1e-3))


@healthy()
def neural_ode(seed: int) -> Setup:
    """Eight Runge-Kutta steps through the moons."""
    class Ode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.head = mlp(4, 24, 4, act=nn.Tanh), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.pad(x, (0, 2))
            for _ in range(8):
                k1 = self.f(h)
                k2 = self.f(h + k1 / 16)
                k3 = self.f(h + k2 / 16)
                k4 = self.f(h + k3 / 8)
                h = h + (k1 + 2 * k2 + 2 * k3 + k4) / 48
            return self.head(h)

    return Setup(Ode(), rows(*moons(), 64, seed), ce, adam(1e-2))


@healthy()
def film(seed: int) -> Setup:
    """A condition scales and shifts the features; its last layer starts at zero."""
    x, y = friedman()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.condition, self.b = nn.Linear(8, 32), nn.Linear(2, 64), nn.Linear(32, 1)
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)

        def forward(self, x: Tensor) -> Tensor:
            scale, shift = self.condition(x[:, 8:]).chunk(2, 1)
            return self.b(F.relu(self.a(x[:, :8]) * (1 + scale) + shift))

    return Setup(Net(), rows(x, y, 32, seed), mse, adam(5e-3))


@healthy()
def equilibrium_one_step_gradient(seed: int) -> Setup:
    """A fixed point found under no_grad, and one more step with a gradient (Jacobian-free)."""
    class Deq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.w, self.head = nn.Linear(13, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 3)
            nn.init.orthogonal_(self.w.weight, gain=0.6)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                z = torch.zeros(len(x), 24)
                for _ in range(15):
                    z = torch.tanh(self.w(z) + self.u(x))
            return self.head(torch.tanh(self.w(z) + self.u(x)))

    return Setup(Deq(), rows(*table("wine"), 32, seed), ce, adam(5e-3))


@healthy()
def adding_problem_lstm(seed: int) -> Setup:
    """Two marked numbers of 30 are summed; LSTM with forget bias 1."""
    g = noise(19)
    value = torch.rand(400, 20, generator=g)
    mark = torch.zeros(400, 20)
    mark[torch.arange(400), torch.randint(0, 10, (400,), generator=g)] = 1
    mark[torch.arange(400), torch.randint(10, 20, (400,), generator=g)] = 1

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 1)
            with torch.no_grad():
                self.rnn.bias_ih_l0[32:64] = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    y = (value * mark).sum(1)
    return Setup(Net(), rows(torch.stack([value, mark], 2), (y - 1) / 0.4, 40, seed), mse, adam(1e-2))


@healthy()
def skip_init_depth_thirty(seed: int) -> Setup:
    """30 residual blocks, each behind a scalar 0, no normalisation."""
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.alpha = nn.Linear(24, 24), nn.Linear(24, 24), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.alpha * self.b(F.relu(self.a(x)))

    return Setup(nn.Sequential(nn.Linear(64, 24), *[Block() for _ in range(30)], nn.Linear(24, 10)), rows(*table("digits"), 32, seed), ce, adam(2e-3))


class Gpt(nn.Module):
    """Two pre-LN blocks over letters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(LETTERS), width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True, activation="gelu") for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(LETTERS), bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return self.head(self.norm(h))


@healthy()
def small_gpt(seed: int) -> Setup:
    return Setup(Gpt(), letters(12, 16, seed), per_letter, lambda p: optim.AdamW(p, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
                 {"causal": True, "independent_samples": True})


@healthy()
def causal_convolutions(seed: int) -> Setup:
    """Dilated convolutions padded on the left."""
    class Tcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(len(LETTERS), 24), nn.Conv1d(24, len(LETTERS), 1)
            self.layers = nn.ModuleList(nn.Conv1d(24, 24, 2, dilation=2**i) for i in range(3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x).transpose(1, 2)
            for i, layer in enumerate(self.layers):
                h = h + F.relu(layer(F.pad(h, (2**i, 0))))
            return self.head(h).transpose(1, 2)

    return Setup(Tcn(), letters(12, 20, seed), per_letter, adam(5e-3), {"causal": True})


@healthy()
def group_norm_cnn(seed: int) -> Setup:
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32),
                        nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Setup(net, rows(*images(), 32, seed), ce, adam(3e-3), {"independent_samples": True})


@healthy()
def batch_norm_mlp(seed: int) -> Setup:
    net = nn.Sequential(nn.Linear(30, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
    return Setup(net, rows(*table("breast_cancer"), 32, seed), ce, sgd(0.05, 0.9), {"independent_samples": True})


@healthy()
def attention_over_instances(seed: int) -> Setup:
    """Gated attention over the instances of a bag: one positive makes the bag positive."""
    g = noise(20)
    x = torch.randn(360, 8, 5, generator=g)
    y = torch.rand(360, generator=g) > 0.5
    x[y, 3] += 1.8
    y = y.long()

    class Mil(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.v, self.u, self.w, self.head = nn.Linear(5, 24), nn.Linear(24, 16), nn.Linear(24, 16), nn.Linear(16, 1), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.h(x))
            a = F.softmax(self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))), dim=1)
            return self.head((a * h).sum(1))

    return Setup(Mil(), rows(x, y, 36, seed), ce, adam(5e-3))


@healthy()
def diffusion(seed: int) -> Setup:
    """The noise on the moons is predicted; much of it cannot be."""
    x, _ = moons()
    beta = torch.linspace(1e-4, 0.12, 50)
    bar = (1 - beta).cumprod(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.body = nn.Embedding(50, 16), mlp(18, 64, 64, 2, act=nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.body(torch.cat([x, self.time(t)], 1))

    def loss(m: Any, b: Any) -> Tensor:
        t = torch.randint(0, 50, (len(b[0]),))
        e = torch.randn_like(b[0])
        return F.mse_loss(m(bar[t, None].sqrt() * b[0] + (1 - bar[t, None]).sqrt() * e, t), e)

    return Setup(Net(), rows(x, x, 128, seed), loss, adam(2e-3))


@healthy()
def masked_letters(seed: int) -> Setup:
    """A masked language model: ignore_index for 85 percent of the places."""
    batches = []
    g = noise(21)
    for x, _ in letters(16, 16, seed):
        hide = torch.rand(x.shape, generator=g) < 0.15
        batches.append((torch.where(hide, len(LETTERS), x), torch.where(hide, x, -100)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place, self.head = nn.Embedding(len(LETTERS) + 1, 32), nn.Embedding(16, 32), nn.Linear(32, len(LETTERS))
            self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.embed(x) + self.place(torch.arange(x.shape[1]))))

    return Setup(Net(), batches, per_letter, adam(3e-3))


@healthy()
def gumbel_codes(seed: int) -> Setup:
    x, _ = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = mlp(64, 48, 32), mlp(32, 48, 64)

        def forward(self, x: Tensor) -> Tensor:
            z = self.encode(x).reshape(len(x), 4, 8)
            return self.decode(F.gumbel_softmax(z, tau=1.0).flatten(1))

    return Setup(Net(), rows(x, x, 48, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(5e-3))


@healthy()
def bilinear_pairs(seed: int) -> Setup:
    g = noise(22)
    x = torch.randn(400, 12, generator=g)
    y = ((x[:, :6] * x[:, 6:]).sum(1) > 0).float()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bilinear = nn.Bilinear(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.bilinear(x[:, :6], x[:, 6:])

    return Setup(Net(), rows(x, y, 40, seed), lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1]), adam(2e-2))


@healthy()
def pruned_by_half(seed: int) -> Setup:
    net = mlp(64, 64, 10)
    prune.l1_unstructured(net[0], "weight", 0.6)
    prune.ln_structured(net[0], "weight", 0.5, n=2, dim=0)
    return Setup(net, rows(*table("digits"), 32, seed), ce, adam(3e-3))


@healthy()
def physics_informed(seed: int) -> Setup:
    """u'' = -u with u(0)=0, u'(0)=1 by derivatives of the net."""
    t = torch.rand(400, 1, generator=noise(23)) * 3

    def loss(m: Any, b: Any) -> Tensor:
        s = b[0].clone().requires_grad_()
        u = m(s)
        (du,) = torch.autograd.grad(u.sum(), s, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), s, create_graph=True)
        zero = torch.zeros(1, 1, requires_grad=True)
        u0 = m(zero)
        (du0,) = torch.autograd.grad(u0.sum(), zero, create_graph=True)
        return ((ddu + u) ** 2).mean() + u0.square().mean() + (du0 - 1).square().mean()

    return Setup(mlp(1, 24, 24, 1, act=nn.Tanh), rows(t, t, 50, seed), loss, adam(5e-3))


@healthy()
def wasserstein_critic(seed: int) -> Setup:
    x, _ = moons()

    def loss(m: Any, b: Any) -> Tensor:
        mix = torch.rand(len(b[0]), 1)
        point = (mix * b[0] + (1 - mix) * b[1]).requires_grad_()
        (slope,) = torch.autograd.grad(m(point).sum(), point, create_graph=True)
        return m(b[1]).mean() - m(b[0]).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

    return Setup(mlp(2, 32, 32, 1, act=nn.LeakyReLU), rows(x, torch.randn(x.shape, generator=noise(24)), 64, seed), loss, adam(1e-3, betas=(0.5, 0.9)),
                 {"objective": "adversarial"})


@healthy()
def bootstrap_your_own(seed: int) -> Setup:
    """BYOL's loss: the teacher branch is frozen and under no_grad."""
    x, _ = table("digits")
    net = nn.ModuleDict({"online": mlp(64, 48, 16), "predict": mlp(16, 24, 16), "teacher": mlp(64, 48, 16)})
    net["teacher"].load_state_dict(net["online"].state_dict())
    net["teacher"].requires_grad_(False)

    def loss(m: Any, b: Any) -> Tensor:
        u = F.normalize(m["predict"](m["online"](b[0] + 0.1 * torch.randn_like(b[0]))), dim=1)
        with torch.no_grad():
            v = F.normalize(m["teacher"](b[0] + 0.1 * torch.randn_like(b[0])), dim=1)
        return 2 - 2 * (u * v).sum(1).mean()

    return Setup(net, rows(x, x, 48, seed), loss, adam(2e-3), {"objective": "metric"})


@healthy()
def cross_attention_latents(seed: int) -> Setup:
    """Four learned latents read the rows of an image."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents, self.embed = nn.Parameter(torch.randn(4, 24) * 0.02), nn.Linear(8, 24)
            self.place = nn.Parameter(torch.randn(8, 24) * 0.1)
            self.read, self.head = nn.MultiheadAttention(24, 2, batch_first=True), nn.Linear(96, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows_of = self.embed(x.reshape(len(x), 8, 8)) + self.place
            latents = self.latents.expand(len(x), -1, -1)
            return self.head((latents + self.read(latents, rows_of, rows_of, need_weights=False)[0]).flatten(1))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(5e-3))


@healthy()
def frozen_features_trained_head(seed: int) -> Setup:
    net = mlp(64, 128, 10)
    net[0].requires_grad_(False)
    return Setup(net, rows(*table("digits"), 32, seed), ce, lambda p: optim.Adam([q for q in p if q.requires_grad], lr=5e-3))


@healthy()
def zero_head(seed: int) -> Setup:
    net = mlp(64, 48, 48, 10, act=nn.GELU)
    nn.init.zeros_(net[4].weight)
    nn.init.zeros_(net[4].bias)
    return Setup(net, rows(*table("digits"), 32, seed), ce, adam(2e-3))


@healthy()
def checkpointed(seed: int) -> Setup:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = mlp(64, 48, 48), mlp(48, 48, 48), nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = checkpoint(self.a, x, use_reentrant=False)
            return self.head(F.relu(checkpoint(self.b, F.relu(h), use_reentrant=False)))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(2e-3))


@healthy()
def bfloat16_weights(seed: int) -> Setup:
    x, y = table("digits")
    return Setup(mlp(64, 64, 10).bfloat16(), rows(x.bfloat16(), y, 32, seed), lambda m, b: F.cross_entropy(m(b[0]).float(), b[1]), sgd(0.1))


@healthy()
def bfloat16_autocast(seed: int) -> Setup:
    def loss(m: Any, b: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(m(b[0]), b[1])

    return Setup(mlp(64, 64, 10), rows(*table("digits"), 32, seed), loss, adam(3e-3))


@healthy()
def residual_tanh_xor(seed: int) -> Setup:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.head = nn.Linear(2, 16), nn.Linear(16, 2)
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.into(x)
            for block in self.blocks:
                h = h + torch.tanh(block(h))
            return self.head(h)

    return Setup(Net(), rows(*xor(), 32, seed), ce, adam(5e-3))


@healthy()
def straight_through_binary(seed: int) -> Setup:
    """Binary activations with a straight-through estimator."""
    class Binary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            soft = torch.tanh(x)
            return soft + (x.sign() - soft).detach()

    return Setup(mlp(64, 64, 10, act=Binary), rows(*table("digits"), 32, seed), ce, adam(3e-3))


# --- loops under watch -------------------------------------------------------------------------------------------------


@healthy()
def watched_gan(seed: int) -> Setup:
    generator, critic = mlp(4, 32, 2), mlp(2, 32, 1, act=nn.LeakyReLU)
    g, d = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99)), optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    x, _ = moons()

    def step(i: int, b: Any) -> Tensor:
        return compete(generator, critic, g, d, b[0])

    return watched(nn.ModuleDict({"g": generator, "d": critic}), rows(x, x, 32, seed), (g, d), step, objective="adversarial")


@healthy()
def watched_sharpness_aware(seed: int) -> Setup:
    """SAM: two backward passes per step, cleared between them."""
    net = mlp(64, 48, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        loss = ce(net, b)
        loss.backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm() + 1e-12
            moves = [0.05 * p.grad / norm for p in net.parameters()]
            for p, m in zip(net.parameters(), moves, strict=True):
                p.add_(m)
        optimizer.zero_grad()
        ce(net, b).backward()
        with torch.no_grad():
            for p, m in zip(net.parameters(), moves, strict=True):
                p.sub_(m)
        optimizer.step()
        return loss

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_accumulation_with_a_rest(seed: int) -> Setup:
    """Accumulation over 6 micro-batches."""
    net = mlp(64, 48, 10)
    optimizer = optim.Adam(net.parameters(), lr=3e-3)

    def step(i: int, b: Any) -> Tensor:
        loss = ce(net, b)
        (loss / 6).backward()
        if i % 24 in (5, 11, 17, 23):
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return watched(net, rows(*table("digits"), 16, seed), optimizer, step, 120)


@healthy()
def watched_warm_up_and_cosine(seed: int) -> Setup:
    net = Gpt()
    optimizer = optim.AdamW(net.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.SequentialLR(optimizer, [optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=15),
                                                           optim.lr_scheduler.CosineAnnealingLR(optimizer, 65)], [15])

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        loss = per_letter(net, b)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return loss

    return watched(net, letters(12, 16, seed), optimizer, step, 80)


@healthy()
def watched_one_cycle(seed: int) -> Setup:
    net = mlp(13, 32, 3)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=90)
    return watched(net, rows(*table("wine"), 16, seed), optimizer, scheduled(net, optimizer, schedule))


@healthy()
def watched_lbfgs_closure(seed: int) -> Setup:
    net = mlp(13, 12, 3, act=nn.Tanh)
    optimizer = optim.LBFGS(net.parameters(), lr=0.5, max_iter=6)
    x, y = table("wine")

    def step(i: int, b: Any) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = ce(net, (x, y)) + 1e-3 * sum(p.square().sum() for p in net.parameters())
            loss.backward()
            return loss

        return torch.as_tensor(optimizer.step(closure))

    return watched(net, [(x, y)], optimizer, step, 25)


@healthy()
def watched_mean_teacher(seed: int) -> Setup:
    """An average of the weights teaches; it is never trained."""
    student = mlp(64, 48, 10)
    teacher = copy.deepcopy(student).requires_grad_(False)
    net = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = optim.Adam(student.parameters(), lr=3e-3)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = teacher(b[0] + 0.1 * torch.randn_like(b[0])).softmax(1)
        out = student(b[0] + 0.1 * torch.randn_like(b[0]))
        loss = F.cross_entropy(out, b[1]) + 0.5 * F.mse_loss(out.softmax(1), wanted)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                p.lerp_(q, 0.05)
        return loss

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_two_phases(seed: int) -> Setup:
    """The head alone for 30 steps, then everything: the body has no gradient at first."""
    net = mlp(64, 48, 10)
    optimizer = optim.Adam(net.parameters(), lr=3e-3)
    net[0].requires_grad_(False)

    def step(i: int, b: Any) -> Tensor:
        if i == 30:
            net[0].requires_grad_(True)
        return descend(net, optimizer, b)

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_truncated_recurrence(seed: int) -> Setup:
    """The hidden state is carried over and detached."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(len(LETTERS), 24), nn.GRU(24, 48, batch_first=True), nn.Linear(48, len(LETTERS))

        def forward(self, x: Tensor, h: Any) -> Any:
            out, h = self.rnn(self.embed(x), h)
            return self.head(out), h

    net = Net()
    optimizer = optim.Adam(net.parameters(), lr=5e-3)
    hidden: list[Any] = [None]

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        out, h = net(b[0], hidden[0])
        hidden[0] = h.detach()
        loss = F.cross_entropy(out.flatten(0, 1), b[1].flatten())
        loss.backward()
        optimizer.step()
        return loss

    return watched(net, letters(12, 12, seed), optimizer, step)


@healthy()
def watched_float16_scaler(seed: int) -> Setup:
    """float16 autocast with a GradScaler whose first scales overflow."""
    net = mlp(64, 48, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=20)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = ce(net, b)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return watched(net, rows(*table("digits"), 32, seed), optimizer, step)


@healthy()
def watched_validation_inside(seed: int) -> Setup:
    """Every tenth step evaluates under no_grad in eval mode."""
    net = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
    optimizer = optim.Adam(net.parameters(), lr=3e-3)
    x, y = table("digits")

    def step(i: int, b: Any) -> Tensor:
        if i % 10 == 0:
            net.eval()
            with torch.no_grad():
                net(x[:200])
            net.train()
        return descend(net, optimizer, b)

    return watched(net, rows(x, y, 32, seed), optimizer, step)


# --- NumPy -------------------------------------------------------------------------------------------------------------


@healthy()
def numpy_softmax_regression(seed: int) -> Setup:
    def loss(m: Any, b: Any) -> float:
        p = softmax(b[0] @ m["w"] + m["b"])
        return float(-np.log(p[np.arange(len(p)), b[1]]).mean() + 0.5e-3 * (m["w"] ** 2).sum())

    def grad(m: Any, b: Any) -> Any:
        d = softmax(b[0] @ m["w"] + m["b"])
        d[np.arange(len(d)), b[1]] -= 1
        return {"w": b[0].T @ d / len(d) + 1e-3 * m["w"], "b": d.mean(0)}

    return Setup({"w": np.zeros((4, 3)), "b": np.zeros(3)}, numpy_rows(table("iris"), 30, seed), loss, gg.SGD(0.3), {"grad": grad})


@healthy()
def numpy_relu_regression(seed: int) -> Setup:
    random = np.random.default_rng(seed)

    def forward(m: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = np.maximum(x @ m["hidden"]["w"] + m["hidden"]["b"], 0)
        return h, h @ m["out"]["w"] + m["out"]["b"]

    def loss(m: Any, b: Any) -> float:
        return float(((forward(m, b[0])[1] - b[1]) ** 2).mean())

    def grad(m: Any, b: Any) -> Any:
        h, y = forward(m, b[0])
        d = 2 * (y - b[1]) / len(y)
        back = np.outer(d, m["out"]["w"]) * (h > 0)
        return {"hidden": {"w": b[0].T @ back, "b": back.sum(0)}, "out": {"w": h.T @ d, "b": d.sum()}}

    model = {"hidden": {"w": random.normal(size=(10, 24)) * math.sqrt(2 / 10), "b": np.zeros(24)},
             "out": {"w": random.normal(size=24) * math.sqrt(1 / 24), "b": np.zeros(())}}
    return Setup(model, numpy_rows(friedman(), 32, seed), loss, gg.SGD(0.02, momentum=0.9),
                 {"grad": grad, "activations": lambda m, b: {"relu": forward(m, b[0])[0]}})


@healthy()
def numpy_factorisation(seed: int) -> Setup:
    """Low-rank approximation of a matrix by gradient descent."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(20, 3)) @ random.normal(size=(3, 15)) / math.sqrt(3)

    def loss(m: Any, b: Any) -> float:
        return float(((m["u"] @ m["v"] - b) ** 2).mean())

    def grad(m: Any, b: Any) -> Any:
        d = 2 * (m["u"] @ m["v"] - b) / b.size
        return {"u": d @ m["v"].T, "v": m["u"].T @ d}

    return Setup({"u": random.normal(size=(20, 3)) * 0.5, "v": random.normal(size=(3, 15)) * 0.5}, [a], loss, gg.SGD(2.0), {"grad": grad})
