"""Held-out faulty programs, second draw: written after what the first draw had found was mended, and run once.

The codes are the acceptable first findings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import letters, rows
from benchmarks.health.heldout_data import LETTERS, friedman, images, moons, noise, table
from benchmarks.health.heldout_layers import mlp
from benchmarks.health.heldout_loops import adam, ce, compete, mse, per_letter, scheduled, sgd, stepped, watched
from benchmarks.health.heldout_numpy import log_loss, log_loss_slope, numpy_rows, softmax
from benchmarks.health.heldout_programs import Draw, Setup

faulty = Draw()
optim = torch.optim


def cnn(*last: nn.Module, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), act(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), act(), nn.Flatten(),
                         nn.Linear(256, 10), *last)


# --- heads and losses --------------------------------------------------------------------------------------------------


@faulty("GG501")
def hard_sigmoid_logits(seed: int) -> Setup:
    """Hardsigmoid, then cross-entropy, in a CNN."""
    return Setup(cnn(nn.Hardsigmoid()), rows(*images(), 32, seed), ce, adam(1e-3))


@faulty("GG501")
def tanh_logits_of_an_lstm(seed: int) -> Setup:
    """A language model whose head ends in tanh."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(len(LETTERS), 24), nn.LSTM(24, 32, batch_first=True), nn.Linear(32, len(LETTERS))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.head(self.rnn(self.embed(x))[0]))

    return Setup(Net(), letters(12, 16, seed), per_letter, adam(5e-3))


@faulty("GG501")
def sigmoid_twice_in_an_autoencoder(seed: int) -> Setup:
    """The decoder ends in a sigmoid and the loss applies another."""
    x, _ = table("digits")
    return Setup(mlp(64, 24, 64, last=(nn.Sigmoid(),)), rows(x, x, 32, seed), lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]), adam(3e-3))


@faulty("GG303", "GG501", "GG105", "GG205")
def softmax_over_one_score(seed: int) -> Setup:
    """Attention scores (B, T, 1) with softmax over the last axis: every weight is 1."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.score, self.head = nn.Linear(8, 24), nn.Linear(24, 1), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.h(x.reshape(-1, 8, 8)))
            return self.head((torch.softmax(self.score(h), dim=-1) * h).sum(1))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(3e-3))


@faulty("GG501")
def mean_absolute_error_broadcast(seed: int) -> Setup:
    """|pred - y| with (N, 1) and (N,)."""
    return Setup(mlp(10, 32, 1, act=nn.GELU), rows(*friedman(), 40, seed), lambda m, b: (b[1] - m(b[0])).abs().mean(), adam(3e-3))


@faulty("GG501", "GG502")
def softmax_for_three_lengths(seed: int) -> Setup:
    """A softmax head on three measurements in centimetres."""
    x, y = friedman(scaled=False)
    three = torch.stack([y * 6, y + 80, 10 * x[:, 3] + 30], 1)
    return Setup(mlp(10, 32, 3, last=(nn.Softmax(dim=1),)), rows(x, three, 32, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(1e-3))


@faulty("GG501")
def sigmoid_on_standardised_labels(seed: int) -> Setup:
    """Half of the labels are negative."""
    return Setup(mlp(10, 32, 1, last=(nn.Sigmoid(),)), rows(*table("diabetes"), 32, seed),
                 lambda m, b: F.smooth_l1_loss(m(b[0]).squeeze(1), b[1]), adam(3e-3))


@faulty("GG203", "GG102", "GG501", "GG402", "GG401")
def poisson_rate_without_exp(seed: int) -> Setup:
    """log_input=False with a raw linear output."""
    g = noise(3)
    x = torch.randn(480, 6, generator=g)
    y = torch.poisson((x[:, 0] * 0.6).exp(), generator=g)
    return Setup(mlp(6, 24, 1), rows(x, y, 32, seed), lambda m, b: F.poisson_nll_loss(m(b[0]).squeeze(1), b[1], log_input=False, eps=0.0), adam(5e-3))


@faulty("GG203", "GG102", "GG404", "GG402")
def log_of_a_hot_softmax(seed: int) -> Setup:
    """-log softmax(100 z)[y], no clamp: infinite where it is sure of something else."""
    x, y = table("digits")
    return Setup(mlp(64, 64, 10), rows(x, y, 32, seed),
                 lambda m, b: -torch.softmax(1000 * m(b[0]), 1)[torch.arange(len(b[1])), b[1]].log().mean(), adam(1e-3))


@faulty("GG501", "GG404", "GG401", "GG406")
def minus_twice(seed: int) -> Setup:
    """nll_loss of log-probabilities, and a minus in front of it."""
    return Setup(mlp(13, 32, 3, last=(nn.LogSoftmax(dim=1),)), rows(*table("wine"), 32, seed), lambda m, b: -F.nll_loss(m(b[0]), b[1]), sgd(0.05, 0.9))


@faulty("GG501")
def logistic_loss_on_zero_and_one(seed: int) -> Setup:
    """log(1 + exp(-y f)) with labels 0 and 1."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 24, 1, act=nn.ELU), rows(x, y.float(), 32, seed), lambda m, b: F.softplus(-b[1] * m(b[0])[:, 0]).mean(), adam(3e-3))


@faulty("GG501")
def classes_in_the_middle(seed: int) -> Setup:
    """(B, C, T) out of a convolution, viewed as (-1, C)."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(len(LETTERS), 24), nn.Conv1d(24, 32, 3, padding=1), nn.Conv1d(32, len(LETTERS), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(self.embed(x).transpose(1, 2))))

    batches = [(x, x) for x, _ in letters(12, 16, seed)]
    return Setup(Net(), batches, lambda m, b: F.cross_entropy(m(b[0]).reshape(-1, len(LETTERS)), b[1].reshape(-1)), adam(3e-3))


@faulty("GG404", "GG401")
def summed_segmentation(seed: int) -> Setup:
    """Cross-entropy summed over pixels and images, SGD at 0.1."""
    x, _ = images()
    mask = (x[:, 0] > 0.4).long()
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 3, padding=1))
    return Setup(net, rows(x, mask, 16, seed), lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"), sgd(0.1))


# --- not finite --------------------------------------------------------------------------------------------------------


@faulty("GG203", "GG102", "GG402")
def layer_norm_without_epsilon(seed: int) -> Setup:
    """Rows of zeros (empty pages) divided by their own deviation."""
    x, y = table("digits")
    x = x.clone()
    x[::50] = 0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(64, 32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))

    return Setup(Net(), rows(x, y, 64, seed), ce, adam(1e-3))


@faulty("GG203", "GG102", "GG402", "GG502")
def every_label_is_ignored(seed: int) -> Setup:
    """Some batches hold only ignore_index: the mean of nothing."""
    batches = []
    for i, (x, y) in enumerate(letters(8, 12, seed)):
        batches.append((x, torch.full_like(y, -100) if i % 5 == 2 else y))
    return Setup(nn.Sequential(nn.Embedding(len(LETTERS), 24), nn.Linear(24, len(LETTERS))), batches, per_letter, adam(1e-2))


@faulty("GG102", "GG203", "GG402")
def norm_of_a_zero_difference(seed: int) -> Setup:
    """A penalty ||w - w0|| with w = w0 at the start: the derivative of the root at 0."""
    net = mlp(13, 24, 3)
    first = [p.detach().clone() for p in net.parameters()]
    return Setup(net, rows(*table("wine"), 32, seed),
                 lambda m, b: ce(m, b) + 0.1 * sum((p - q).square().sum() for p, q in zip(m.parameters(), first, strict=True)).sqrt(), adam(1e-3))


# --- flow and units ----------------------------------------------------------------------------------------------------


@faulty("GG302", "GG401", "GG404")
def growing_linear_recurrence(seed: int) -> Setup:
    """h = 1.5 Q h + x over 60 steps."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.over, self.head = nn.Linear(2, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 1)
            nn.init.orthogonal_(self.over.weight, gain=1.5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = self.over(h) + self.into(x[:, t])
            return self.head(h)

    x = torch.randn(256, 60, 2, generator=noise(30))
    return Setup(Net(), rows(x, x[:, -5:, 0].sum(1), 32, seed), mse, sgd(1e-3))


@faulty("GG302", "GG404", "GG401")
def unscaled_residual_branches(seed: int) -> Setup:
    """24 blocks x + W2 relu(W1 x) with N(0, 0.5) weights and no normalisation."""
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
            nn.init.normal_(self.a.weight, std=0.5)
            nn.init.normal_(self.b.weight, std=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(F.relu(self.a(x)))

    return Setup(nn.Sequential(nn.Linear(64, 32), *[Block() for _ in range(24)], nn.Linear(32, 10)), rows(*table("digits"), 32, seed), ce, sgd(0.01))


@faulty("GG301")
def sigmoids_in_a_deep_autoencoder(seed: int) -> Setup:
    """An autoencoder of 14 sigmoid layers."""
    x, _ = table("digits")
    return Setup(mlp(64, *[24] * 13, 64, act=nn.Sigmoid), rows(x, x, 32, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), sgd(0.1))


@faulty("GG206")
def constant_filters(seed: int) -> Setup:
    """Every filter of the convolutions is 0.02."""
    net = cnn()
    for i in (0, 3):
        nn.init.constant_(net[i].weight, 0.02)
        nn.init.zeros_(net[i].bias)
    return Setup(net, rows(*images(), 32, seed), ce, adam(1e-3))


@faulty("GG303", "GG206", "GG105", "GG403", "GG406")
def low_rank_update_of_zeros(seed: int) -> Setup:
    """LoRA with A and B both zero on a frozen base."""
    class Lora(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(64, 10).requires_grad_(False)
            self.a, self.b = nn.Parameter(torch.zeros(4, 64)), nn.Parameter(torch.zeros(10, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + x @ self.a.T @ self.b.T

    return Setup(Lora(), rows(*table("digits"), 32, seed), ce, lambda p: optim.AdamW([q for q in p if q.requires_grad], lr=1e-2))


@faulty("GG201")
def shift_of_minus_twelve(seed: int) -> Setup:
    """BatchNorm whose bias is -12 before a ReLU."""
    net = nn.Sequential(nn.Linear(30, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 2))
    nn.init.constant_(net[1].bias, -12.0)
    return Setup(net, rows(*table("breast_cancer"), 32, seed), ce, sgd(0.05, 0.9))


@faulty("GG204", "GG201", "GG303", "GG406")
def one_channel_in_each_group(seed: int) -> Setup:
    """GroupNorm(32, 32) on (N, 32): each value is normalised by itself and is 0."""
    net = nn.Sequential(nn.Linear(64, 32), nn.GroupNorm(32, 32), nn.ReLU(), nn.Linear(32, 10))
    return Setup(net, rows(*table("digits"), 32, seed), ce, adam(3e-3))


@faulty("GG205")
def attention_at_temperature_of_a_thousandth(seed: int) -> Setup:
    """Scores divided by 0.001."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.q, self.k, self.v, self.head = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x.reshape(-1, 8, 8))
            return self.head((torch.softmax(self.q(h) @ self.k(h).transpose(1, 2) / 1e-3, -1) @ self.v(h)).mean(1))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-3))


@faulty("GG207", "GG206")
def codebook_of_zeros(seed: int) -> Setup:
    """All codes are the same vector: argmin takes the first for ever."""
    x, _ = table("digits")

    class VQ(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode, self.codes = mlp(64, 48, 8), mlp(8, 48, 64), nn.Embedding(16, 8)
            nn.init.zeros_(self.codes.weight)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = self.encode(x)
            code = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
            return self.decode(z + (code - z).detach()), z, code

    def loss(m: Any, b: Any) -> Tensor:
        out, z, code = m(b[0])
        return F.mse_loss(out, b[0]) + F.mse_loss(code, z.detach()) + 2.0 * F.mse_loss(z, code.detach())

    return Setup(VQ(), rows(x, x, 32, seed), loss, adam(1e-3))


# --- cut graphs, wrong parameters --------------------------------------------------------------------------------------


@faulty("GG303")
def loss_of_the_argmax(seed: int) -> Setup:
    """The squared error of the predicted class."""
    return Setup(mlp(64, 32, 10), rows(*table("digits"), 32, seed), lambda m, b: ((m(b[0]).argmax(1) - b[1]).float() ** 2).mean(), adam(1e-3))


@faulty("GG303", "GG105")
def rounded_predictions(seed: int) -> Setup:
    """torch.round before the squared error: the gradient is 0."""
    x, y = friedman(scaled=False)
    return Setup(mlp(10, 32, 1), rows(x, y / 4, 32, seed), lambda m, b: F.mse_loss(torch.round(m(b[0]).squeeze(1)), b[1]), adam(3e-3))


@faulty("GG303", "GG113", "GG105")
def hard_threshold_units(seed: int) -> Setup:
    """(h > 0).float() as the activation: the first layer never learns."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(30, 48), nn.Linear(48, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b((self.a(x) > 0).float())

    return Setup(Net(), rows(*table("breast_cancer"), 32, seed), ce, adam(3e-3))


@faulty("GG303", "GG406", "GG405", "GG104")
def head_made_in_forward(seed: int) -> Setup:
    """nn.Linear(32, 10) inside forward: a new random head in every pass."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(64, 32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return nn.Linear(32, 10)(F.relu(self.body(x)))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-3))


@faulty("GG303")
def heads_in_a_dict(seed: int) -> Setup:
    """A plain dict of heads."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = mlp(64, 32, 32), {"digits": nn.Linear(32, 10), "parity": nn.Linear(32, 2)}

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            return torch.cat([self.heads["digits"](h), self.heads["parity"](h)], 1)

    return Setup(Net(), rows(*table("digits"), 32, seed), lambda m, b: F.cross_entropy(m(b[0])[:, :10], b[1]) + F.cross_entropy(m(b[0])[:, 10:], b[1] % 2), adam(3e-3))


@faulty("GG303")
def scale_that_is_no_parameter(seed: int) -> Setup:
    """self.scale = torch.ones(.., requires_grad=True)."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(13, 24), nn.Linear(24, 3), torch.ones(24, requires_grad=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)) * self.scale)

    return Setup(Net(), rows(*table("wine"), 32, seed), ce, adam(1e-2))


@faulty("GG303")
def both_optimizers_hold_the_critic(seed: int) -> Setup:
    """Copy and paste: the generator's optimizer was made of the critic's parameters."""
    generator, critic = mlp(4, 24, 2), mlp(2, 24, 1)
    both = (optim.Adam(critic.parameters(), lr=1e-3), optim.Adam(critic.parameters(), lr=1e-3))
    x, _ = moons()

    def step(i: int, b: Any) -> Tensor:
        return compete(generator, critic, *both, b[0])

    return watched(nn.ModuleDict({"g": generator, "d": critic}), rows(x, x, 32, seed), both, step, 60, objective="adversarial")


# --- data --------------------------------------------------------------------------------------------------------------


@faulty("GG406", "GG204", "GG501", "GG502")
def negatives_only(seed: int) -> Setup:
    """A filter left only class 0."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 24, 1), rows(x, torch.zeros_like(y).float(), 40, seed),
                 lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1]), adam(3e-3))


@faulty("GG406", "GG405")
def labels_of_another_file(seed: int) -> Setup:
    """Ten classes drawn at random, a CNN."""
    x, y = images()
    return Setup(nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 10)),
                 rows(x, y[torch.randperm(len(y), generator=noise(seed))], 90, seed), ce, sgd(0.1))


@faulty("GG502", "GG401", "GG202")
def bytes_into_tanh(seed: int) -> Setup:
    """Pixels of 0 to 255 into a tanh net with momentum."""
    x, y = table("digits")
    return Setup(mlp(64, 48, 48, 10, act=nn.Tanh), rows(x * 255, y, 32, seed), ce, sgd(0.1, 0.9))


@faulty("GG502", "GG403")
def salaries_under_huber(seed: int) -> Setup:
    """Labels of 60000 under a Huber loss with Adam at 1e-3."""
    x, y = friedman(scaled=False)
    return Setup(mlp(10, 32, 1), rows(x, 4000 * y, 32, seed), lambda m, b: F.huber_loss(m(b[0]).squeeze(1), b[1]), adam(1e-3))


# --- rates and loops ---------------------------------------------------------------------------------------------------


@faulty("GG401")
def rmsprop_at_one(seed: int) -> Setup:
    """RMSprop with lr=1."""
    return Setup(mlp(64, 48, 48, 10), rows(*table("digits"), 32, seed), ce, lambda p: optim.RMSprop(p, lr=1.0))


@faulty("GG401")
def adam_at_ten_in_an_autoencoder(seed: int) -> Setup:
    """Adam with lr=10."""
    x, _ = table("digits")
    return Setup(mlp(64, 24, 64), rows(x, x, 32, seed), lambda m, b: F.mse_loss(m(b[0]), b[1]), adam(10.0))


@faulty("GG403")
def convolutions_at_1e_6(seed: int) -> Setup:
    """SGD at 1e-6."""
    return Setup(cnn(), rows(*images(), 32, seed), ce, sgd(1e-6, 0.9))


@faulty("GG403")
def adagrad_at_1e_6(seed: int) -> Setup:
    """Adagrad at 1e-6."""
    return Setup(mlp(13, 32, 3), rows(*table("wine"), 32, seed), ce, lambda p: optim.Adagrad(p, lr=1e-6))


@faulty("GG406", "GG404", "GG204", "GG201", "GG405")
def absolute_penalty_of_one(seed: int) -> Setup:
    """lasso with weight 1 on all weights of a net."""
    return Setup(mlp(64, 48, 10), rows(*table("digits"), 32, seed), lambda m, b: ce(m, b) + sum(p.abs().sum() for p in m.parameters()), adam(1e-3))


@faulty("GG403", "GG303")
def clipped_to_nothing(seed: int) -> Setup:
    """clip_grad_norm_ with a norm of 0."""
    net = mlp(13, 32, 3)
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        loss = ce(net, b)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.0)
        optimizer.step()
        return loss

    return stepped(seed, net, table("wine"), optimizer, step)


@faulty("GG402", "GG401")
def steps_of_ten(seed: int) -> Setup:
    """StepLR with gamma 10."""
    net = mlp(64, 48, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.StepLR(optimizer, 15, 10.0)
    return stepped(seed, net, table("digits"), optimizer, scheduled(net, optimizer, schedule))


@faulty("GG303", "GG403", "GG304")
def loop_without_a_step(seed: int) -> Setup:
    """optimizer.step() was forgotten."""
    net = mlp(64, 48, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.05)

    def step(i: int, b: Any) -> Tensor:
        optimizer.zero_grad()
        loss = ce(net, b)
        loss.backward()
        return loss

    return stepped(seed, net, table("digits"), optimizer, step)


# --- leaks and precision -----------------------------------------------------------------------------------------------


@faulty("GG306")
def mask_of_zeros_and_ones(seed: int) -> Setup:
    """A mask of 0 and 1 is added to the scores instead of 0 and -inf."""
    class Lm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place, self.qkv, self.head = nn.Embedding(len(LETTERS), 24), nn.Embedding(16, 24), nn.Linear(24, 72), nn.Linear(24, len(LETTERS))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x) + self.place(torch.arange(x.shape[1]))
            q, k, v = self.qkv(h).chunk(3, -1)
            scores = q @ k.transpose(1, 2) / math.sqrt(24) + torch.tril(torch.ones(x.shape[1], x.shape[1]))
            return self.head(h + torch.softmax(scores, -1) @ v)

    return Setup(Lm(), letters(12, 16, seed), per_letter, adam(3e-3), {"causal": True})


@faulty("GG306")
def language_model_in_both_directions(seed: int) -> Setup:
    """A bidirectional GRU as a language model."""
    class Lm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(len(LETTERS), 24), nn.GRU(24, 24, batch_first=True, bidirectional=True), nn.Linear(48, len(LETTERS))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    return Setup(Lm(), letters(12, 16, seed), per_letter, adam(5e-3), {"causal": True})


@faulty("GG305")
def batch_as_time(seed: int) -> Setup:
    """An LSTM without batch_first is given (B, T, F): it walks along the batch."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.reshape(-1, 8, 8))[0][:, -1])

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(5e-3), {"independent_samples": True})


@faulty("GG305")
def norm_of_the_whole_batch(seed: int) -> Setup:
    """Features are divided by the norm of the whole batch."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(30, 32), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            return self.b(20 * h / h.norm())

    return Setup(Net(), rows(*table("breast_cancer"), 32, seed), ce, adam(5e-3), {"independent_samples": True})


@faulty("GG307")
def half_precision_under_a_tiny_weight(seed: int) -> Setup:
    """float16 autocast, the loss weighted by 1e-6, no scaler."""
    def loss(m: Any, b: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return 1e-6 * F.cross_entropy(m(b[0]), b[1])

    return Setup(mlp(64, 48, 48, 10), rows(*table("digits"), 64, seed), loss, adam(1e-3))


# --- NumPy -------------------------------------------------------------------------------------------------------------


def _np_net(seed: int, sizes: tuple[int, int, int], fill: float | None = None) -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def weight(a: int, b: int) -> np.ndarray:
        return np.full((a, b), fill) if fill is not None else random.normal(size=(a, b)) * math.sqrt(2 / a)

    return {"a": {"w": weight(*sizes[:2]), "b": np.zeros(sizes[1])}, "c": {"w": weight(*sizes[1:]), "b": np.zeros(sizes[2])}}


def _np_pass(m: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h = np.maximum(x @ m["a"]["w"] + m["a"]["b"], 0)
    return h, softmax(h @ m["c"]["w"] + m["c"]["b"])


def _np_loss(m: Any, b: Any) -> float:
    return log_loss(_np_pass(m, b[0])[1], b[1])


def _np_grad(m: Any, b: Any) -> dict[str, Any]:
    h, p = _np_pass(m, b[0])
    d = log_loss_slope(p, b[1])
    back = (d @ m["c"]["w"].T) * (h > 0)
    return {"a": {"w": b[0].T @ back, "b": back.sum(0)}, "c": {"w": h.T @ d, "b": d.sum(0)}}


@faulty("GG206")
def numpy_all_the_same(seed: int) -> Setup:
    """np.full(.., 0.1) for every weight."""
    return Setup(_np_net(seed, (64, 24, 10), 0.1), numpy_rows(table("digits"), 32, seed), _np_loss, gg.SGD(0.1), {"grad": _np_grad})


@faulty("GG403")
def numpy_rate_of_1e_8(seed: int) -> Setup:
    """SGD at 1e-8."""
    return Setup(_np_net(seed, (13, 24, 3)), numpy_rows(table("wine"), 32, seed), _np_loss, gg.SGD(1e-8), {"grad": _np_grad})


@faulty("GG401", "GG404")
def numpy_sum_for_mean(seed: int) -> Setup:
    """Loss and gradient summed over the batch, at a rate of 1."""
    def grad(m: Any, b: Any) -> Any:
        g = _np_grad(m, b)
        return {k: {n: v * len(b[1]) for n, v in layer.items()} for k, layer in g.items()}

    return Setup(_np_net(seed, (64, 24, 10)), numpy_rows(table("digits"), 32, seed), lambda m, b: _np_loss(m, b) * len(b[1]), gg.SGD(1.0), {"grad": grad})


@faulty("GG201", "GG204")
def numpy_dead(seed: int) -> Setup:
    """Biases of -20 before the ReLU."""
    net = _np_net(seed, (13, 24, 3))
    net["a"]["b"] -= 20.0
    return Setup(net, numpy_rows(table("wine"), 32, seed), _np_loss, gg.SGD(0.1), {"grad": _np_grad, "activations": lambda m, b: {"relu": _np_pass(m, b[0])[0]}})
