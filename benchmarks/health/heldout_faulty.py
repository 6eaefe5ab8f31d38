"""Held-out faulty programs, first draw: written without sight of a rule, a measurement or the other programs.

The codes are the acceptable first findings. The truth is in the docstring: what is wrong, as its author would say it.
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
from benchmarks.health.heldout_data import LETTERS, friedman, moons, noise, table, xor
from benchmarks.health.heldout_layers import mlp
from benchmarks.health.heldout_loops import adam, ce, cycle, descend, mse, per_letter, scheduled, sgd, stepped, watched
from benchmarks.health.heldout_nets import TimeFirst
from benchmarks.health.heldout_numpy import log_loss, log_loss_slope, numpy_rows, softmax
from benchmarks.health.heldout_programs import Draw, Setup

faulty = Draw()

# --- the head and the loss ---------------------------------------------------------------------------------------------


@faulty("GG501")
def sigmoid_before_bce_with_logits(seed: int) -> Setup:
    """Sigmoid, then BCEWithLogitsLoss: the outputs lie in (0.5, 0.73)."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 16, 1, last=(nn.Sigmoid(),)), rows(x, y.float(), 32, seed),
                 lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1]), adam(1e-3))


@faulty("GG501")
def softmax_then_nll(seed: int) -> Setup:
    """NLLLoss wants log-probabilities and is given probabilities."""
    x, y = table("wine")
    return Setup(mlp(13, 32, 3, last=(nn.Softmax(dim=1),)), rows(x, y, 16, seed),
                 lambda m, b: F.nll_loss(m(b[0]), b[1]), adam(1e-2))


@faulty("GG501", "GG401", "GG404")
def logits_to_nll(seed: int) -> Setup:
    """NLLLoss is given raw logits: it falls without bound."""
    x, y = table("digits")
    return Setup(mlp(64, 48, 10), rows(x, y, 32, seed), lambda m, b: F.nll_loss(m(b[0]), b[1]), adam(1e-3))


@faulty("GG501", "GG201")
def relu_head_before_cross_entropy(seed: int) -> Setup:
    """ReLU on the logits, small classes lose their gradient."""
    x, y = table("wine")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(13, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc2(F.relu(self.fc1(x))))

    return Setup(Net(), rows(x, y, 16, seed), ce, adam(1e-3))


@faulty("GG501", "GG502")
def tanh_head_on_raw_diabetes(seed: int) -> Setup:
    """The labels go to 346, the head to 1."""
    x, y = table("diabetes", scaled=False)
    return Setup(mlp(10, 32, 1, last=(nn.Tanh(),)), rows(x * 20, y, 32, seed), mse, adam(1e-3))


@faulty("GG501")
def softmax_over_one_unit(seed: int) -> Setup:
    """Softmax over a single unit is 1 for every sample."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 16, 1, last=(nn.Softmax(dim=-1),)), rows(x, y.float(), 32, seed),
                 lambda m, b: F.binary_cross_entropy(m(b[0]).squeeze(1), b[1]), adam(1e-3))


@faulty("GG501")
def log_softmax_over_the_batch(seed: int) -> Setup:
    """log_softmax(dim=0): normalised over the samples."""
    x, y = table("iris")
    return Setup(mlp(4, 16, 3), rows(x, y, 30, seed), lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), dim=0), b[1]), adam(1e-2))


@faulty("GG501")
def column_against_row(seed: int) -> Setup:
    """(N, 1) outputs against (N,) labels under Huber: broadcast to N x N."""
    x, y = table("diabetes")
    return Setup(mlp(10, 32, 1), rows(x, y, 32, seed), lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), adam(3e-3))


@faulty("GG501")
def smooth_l1_broadcast(seed: int) -> Setup:
    """The same through torch's own smooth_l1 after an explicit expand."""
    x, y = friedman()

    def loss(m: Any, b: Any) -> Tensor:
        p = m(b[0])
        return torch.where((p - b[1]).abs() < 1, 0.5 * (p - b[1]) ** 2, (p - b[1]).abs() - 0.5).mean()

    return Setup(mlp(10, 32, 32, 1), rows(x, y, 32, seed), loss, adam(3e-3))


@faulty("GG501")
def sigmoid_head_on_class_ids(seed: int) -> Setup:
    """MSE on class ids 0..9 with one sigmoid unit."""
    x, y = table("digits")
    return Setup(mlp(64, 32, 1, last=(nn.Sigmoid(),)), rows(x, y.float(), 32, seed), mse, adam(1e-3))


@faulty("GG501", "GG201", "GG404", "GG406", "GG405")
def bce_on_clamped_logits(seed: int) -> Setup:
    """The sigmoid was forgotten; a clamp into (0, 1) hides it and stops the gradient of most samples."""
    x, y = table("breast_cancer")

    def loss(m: Any, b: Any) -> Tensor:
        p = m(b[0]).squeeze(1).clamp(1e-7, 1 - 1e-7)
        return -(b[1] * p.log() + (1 - b[1]) * (1 - p).log()).mean()

    return Setup(mlp(30, 16, 1), rows(x, y.float(), 32, seed), loss, sgd(0.05))


@faulty("GG501", "GG203", "GG102", "GG402", "GG404")
def tanh_head_in_handmade_bce(seed: int) -> Setup:
    """log of a tanh output: NaN where it is negative."""
    x, y = moons()
    return Setup(mlp(2, 16, 1, last=(nn.Tanh(),)), rows(x, y.float(), 32, seed),
                 lambda m, b: -(b[1] * m(b[0]).squeeze(1).log() + (1 - b[1]) * (1 - m(b[0]).squeeze(1)).log()).mean(), adam(1e-3))


@faulty("GG501", "GG406", "GG204")
def hinge_on_zero_one_labels(seed: int) -> Setup:
    """Hinge loss wants labels -1 and 1; with 0 and 1 the negatives are free."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 16, 1), rows(x, y.float(), 32, seed), lambda m, b: F.relu(1 - b[1] * m(b[0]).squeeze(1)).mean(), adam(1e-2))


@faulty("GG501", "GG401")
def kl_div_of_probabilities(seed: int) -> Setup:
    """kl_div wants log-probabilities as its input and is given probabilities."""
    x, y = table("digits")
    soft = F.one_hot(y, 10).float() * 0.9 + 0.01
    return Setup(mlp(64, 32, 10, last=(nn.Softmax(dim=-1),)), rows(x, soft, 32, seed),
                 lambda m, b: F.kl_div(m(b[0]), b[1], reduction="batchmean"), adam(1e-3))


@faulty("GG501")
def softmax_then_cross_entropy_in_segmentation(seed: int) -> Setup:
    """Per-pixel softmax, then CrossEntropyLoss."""
    x, _ = table("digits")
    image = x.reshape(-1, 1, 8, 8)
    mask = (image[:, 0] > 0.5).long() + (image[:, 0] > 0.2).long()
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 3, padding=1), nn.Softmax(dim=1))
    return Setup(net, rows(image + 0.1, mask, 16, seed), ce, adam(1e-3))


@faulty("GG501", "GG406")
def softmax_over_the_pixels(seed: int) -> Setup:
    """log_softmax over the image's width, not its classes."""
    x, _ = table("digits")
    image = x.reshape(-1, 1, 8, 8)
    mask = (image[:, 0] > 0.5).long()
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 3, padding=1))
    return Setup(net, rows(image, mask, 16, seed), lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), dim=-1), b[1]), adam(3e-3))


@faulty("GG501", "GG406", "GG405")
def softmax_for_multi_label(seed: int) -> Setup:
    """Several labels at once, and outputs that sum to one."""
    g = noise(0)
    x = torch.randn(512, 12, generator=g)
    y = (x @ torch.randn(12, 6, generator=g) > -1.5).float()
    return Setup(mlp(12, 32, 6, last=(nn.Softmax(dim=1),)), rows(x, y, 32, seed), lambda m, b: F.binary_cross_entropy(m(b[0]), b[1]), adam(3e-3))


@faulty("GG501", "GG406", "GG405")
def view_for_permute(seed: int) -> Setup:
    """(T, B, C) logits viewed as rows against (B, T) labels: every label meets another letter's logits."""
    return Setup(TimeFirst(), letters(12, 16, seed), lambda m, b: F.cross_entropy(m(b[0]).reshape(-1, len(LETTERS)), b[1].reshape(-1)), adam(3e-3))


@faulty("GG401", "GG404", "GG406", "GG501", "GG402")
def negated_loss(seed: int) -> Setup:
    """The minus of a hand-written likelihood was lost: it maximises the cross-entropy."""
    x, y = table("iris")
    return Setup(mlp(4, 16, 3), rows(x, y, 30, seed),
                 lambda m, b: F.log_softmax(m(b[0]), dim=1).gather(1, b[1][:, None]).mean(), sgd(0.1))


@faulty("GG401", "GG406", "GG402", "GG404")
def maximize_was_left_on(seed: int) -> Setup:
    """maximize=True with a loss."""
    x, y = table("wine")
    return Setup(mlp(13, 32, 3), rows(x, y, 32, seed), ce, sgd(0.1, maximize=True))


@faulty("GG404", "GG401", "GG406")
def regulariser_outweighs(seed: int) -> Setup:
    """L2 with weight 5 inside the loss."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 32, 2), rows(x, y, 32, seed), lambda m, b: ce(m, b) + 5 * sum(p.square().sum() for p in m.parameters()), sgd(0.02))


@faulty("GG406", "GG405", "GG204", "GG201")
def weight_decay_of_ten(seed: int) -> Setup:
    """weight_decay=10: everything shrinks to zero."""
    x, y = table("digits")
    return Setup(mlp(64, 64, 64, 10), rows(x, y, 32, seed), ce, sgd(0.05, weight_decay=10.0))


@faulty("GG406", "GG405", "GG204", "GG404")
def posterior_collapse(seed: int) -> Setup:
    """A VAE with the KL term weighted by 500: the code says nothing about the input."""
    x, _ = table("digits")

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = mlp(64, 48, 16), mlp(8, 48, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log_variance = self.encode(x).chunk(2, dim=1)
            return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance

    def loss(m: Any, b: Any) -> Tensor:
        out, mean, lv = m(b[0])
        return F.mse_loss(out, b[0], reduction="sum") / len(out) + 500 * 0.5 * (mean**2 + lv.exp() - lv - 1).sum(1).mean()

    return Setup(VAE(), rows(x, x, 32, seed), loss, adam(1e-3))


# --- labels and data ---------------------------------------------------------------------------------------------------


@faulty("GG406", "GG405")
def labels_shifted_by_one_row(seed: int) -> Setup:
    """x was dropped of its first row, y was not, after the rows had been shuffled."""
    x, y = table("digits")
    order = torch.randperm(len(x), generator=noise(seed))
    x, y = x[order], y[order]
    return Setup(mlp(64, 32, 10), rows(x[1:], y[:-1], 64, seed), ce, sgd(0.1))


@faulty("GG406", "GG405")
def shuffled_regression(seed: int) -> Setup:
    """The labels were shuffled on their own."""
    x, y = friedman()
    y = y[torch.randperm(len(y), generator=noise(seed))]
    return Setup(mlp(10, 16, 1), rows(x, y, 32, seed), mse, adam(1e-3))


@faulty("GG406", "GG204", "GG405", "GG501", "GG502")
def constant_labels(seed: int) -> Setup:
    """A bad join: every label is class 2."""
    x, y = table("wine")
    return Setup(mlp(13, 32, 3), rows(x, torch.full_like(y, 2), 32, seed), ce, adam(1e-2))


@faulty("GG203", "GG502", "GG102", "GG402")
def missing_values_in_a_table(seed: int) -> Setup:
    """One column holds NaN in three rows."""
    x, y = table("wine")
    x = x.clone()
    x[[5, 60, 150], 4] = float("nan")
    return Setup(mlp(13, 32, 3), rows(x, y, 16, seed), ce, adam(1e-3))


@faulty("GG203", "GG502", "GG102", "GG402")
def missing_labels(seed: int) -> Setup:
    """Some labels of the regression are NaN."""
    x, y = table("diabetes")
    y = y.clone()
    y[::40] = float("nan")
    return Setup(mlp(10, 32, 1), rows(x, y, 32, seed), mse, adam(1e-3))


@faulty("GG502", "GG401", "GG202")
def raw_wine_into_tanh(seed: int) -> Setup:
    """proline goes to 1680: the tanh units are saturated."""
    x, y = table("wine", scaled=False)
    return Setup(mlp(13, 32, 32, 3, act=nn.Tanh), rows(x, y, 32, seed), ce, sgd(0.05))


@faulty("GG502", "GG401", "GG403")
def house_prices_in_dollars(seed: int) -> Setup:
    """Labels around 200000 with Adam at 1e-3: the bias alone needs 200 million steps."""
    x, y = friedman(scaled=False)
    return Setup(mlp(10, 32, 32, 1), rows(x * 2 - 1, y * 1.5e4, 32, seed), mse, adam(1e-3))


@faulty("GG502", "GG401")
def year_and_income_columns(seed: int) -> Setup:
    """Two columns in the thousands and tens of thousands beside standardised ones, SGD."""
    x, y = friedman()
    x = x.clone()
    x[:, 0] = 1950 + 50 * x[:, 0]
    x[:, 1] = 4e4 + 2e4 * x[:, 1]
    return Setup(mlp(10, 32, 1), rows(x, y, 32, seed), mse, sgd(1e-2))


@faulty("GG203", "GG502", "GG102", "GG402")
def division_by_zero_deviation(seed: int) -> Setup:
    """Per-batch standardisation with a pixel that is constant."""
    x, y = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(64, 32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x - x.mean(0)) / x.std(0))

    return Setup(Net(), rows(x, y, 32, seed), ce, adam(1e-3))


# --- non-finite --------------------------------------------------------------------------------------------------------


@faulty("GG102", "GG203", "GG402", "GG401")
def entropy_of_hard_probabilities(seed: int) -> Setup:
    """p log p with p exactly 0 after a confident softmax (temperature 0.002)."""
    x, y = table("iris")

    def loss(m: Any, b: Any) -> Tensor:
        p = F.softmax(m(b[0]) / 0.002, dim=1)
        return F.cross_entropy(m(b[0]), b[1]) + 0.1 * (p * p.log()).sum(1).mean()

    return Setup(mlp(4, 16, 3), rows(x, y, 30, seed), loss, adam(1e-3))


@faulty("GG102", "GG203", "GG402")
def square_root_at_zero(seed: int) -> Setup:
    """Pairwise distances with sqrt: the diagonal is 0, its derivative infinite."""
    x, y = table("iris")

    def loss(m: Any, b: Any) -> Tensor:
        e = m(b[0])
        d = ((e[:, None] - e[None]) ** 2).sum(-1).sqrt()
        same = (b[1][:, None] == b[1][None]).float()
        return (same * d + (1 - same) * F.relu(1 - d)).mean()

    return Setup(mlp(4, 16, 2), rows(x, y, 30, seed), loss, adam(1e-3), {"objective": "metric"})


@faulty("GG102", "GG203", "GG402", "GG401", "GG501")
def variance_without_softplus(seed: int) -> Setup:
    """Gaussian likelihood with a linear output as variance: log of a negative number."""
    x, y = friedman()

    def loss(m: Any, b: Any) -> Tensor:
        mean, variance = m(b[0]).unbind(1)
        return (variance.log() + (b[1] - mean) ** 2 / variance).mean()

    return Setup(mlp(10, 32, 2), rows(x, y, 32, seed), loss, adam(1e-3))


@faulty("GG203", "GG102", "GG404", "GG402", "GG401")
def exp_overflow_in_softmax(seed: int) -> Setup:
    """Hand-written softmax without the shift, on inputs of several hundred."""
    x, y = table("digits")

    def loss(m: Any, b: Any) -> Tensor:
        e = (m(b[0])).exp()
        return -(e / e.sum(1, keepdim=True)).gather(1, b[1][:, None]).log().mean()

    net = mlp(64, 64, 10)
    nn.init.normal_(net[0].weight)
    nn.init.normal_(net[2].weight, std=3.0)
    return Setup(net, rows(x * 16, y, 32, seed), loss, sgd(1e-3))


# --- gradient flow -----------------------------------------------------------------------------------------------------


@faulty("GG301")
def fifteen_sigmoid_layers(seed: int) -> Setup:
    """Depth and sigmoids."""
    x, y = table("wine")
    return Setup(mlp(13, *[24] * 15, 3, act=nn.Sigmoid), rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG301")
def small_init_in_a_deep_tanh_net(seed: int) -> Setup:
    """Weights N(0, 0.01) in 12 tanh layers."""
    x, y = table("breast_cancer")
    net = mlp(30, *[32] * 12, 2, act=nn.Tanh)
    for p in net.parameters():
        nn.init.normal_(p, std=0.01)
    return Setup(net, rows(x, y, 32, seed), ce, sgd(0.1))


@faulty("GG301", "GG201", "GG204")
def forty_relu_layers_without_skips(seed: int) -> Setup:
    """Default initialisation, 40 layers, width 16."""
    x, y = table("digits")
    return Setup(mlp(64, *[16] * 40, 10), rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG302", "GG404", "GG401")
def unit_normal_init_in_depth(seed: int) -> Setup:
    """N(0, 1) weights in 8 ReLU layers of width 48."""
    x, y = table("breast_cancer")
    net = mlp(30, *[48] * 8, 2)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return Setup(net, rows(x, y, 32, seed), ce, sgd(1e-2))


class Recurrent(nn.Module):
    """A plain recurrent net read at its last state."""

    def __init__(self, gain: float, act: Any, width: int = 24) -> None:
        super().__init__()
        self.into, self.over, self.head, self.act = nn.Linear(1, width), nn.Linear(width, width, bias=False), nn.Linear(width, 2), act
        nn.init.orthogonal_(self.over.weight, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), self.over.in_features)
        for t in range(x.shape[1]):
            h = self.act(self.into(x[:, t, None]) + self.over(h))
        return self.head(h)


def _first_sign(n: int, length: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, length, generator=noise(2)) * 0.3
    x[:, 0] = torch.where(x[:, 0] > 0, 1.0, -1.0)
    return x, (x[:, 0] > 0).long()


@faulty("GG302", "GG401", "GG404", "GG502")
def recurrence_with_gain_1_6(seed: int) -> Setup:
    """ReLU recurrence over 50 steps with an orthogonal matrix times 1.6."""
    x, y = _first_sign(256, 50)
    return Setup(Recurrent(1.6, F.relu), rows(x, y, 32, seed), ce, sgd(0.05))


@faulty("GG301", "GG406")
def forgetful_recurrence(seed: int) -> Setup:
    """The answer is in the first of 40 steps, the recurrent matrix has gain 0.3."""
    x, y = _first_sign(256, 40)
    return Setup(Recurrent(0.3, torch.tanh), rows(x, y, 32, seed), ce, sgd(0.1))


# --- units -------------------------------------------------------------------------------------------------------------


@faulty("GG201")
def bias_of_minus_ten(seed: int) -> Setup:
    """A bias loaded with the wrong sign kills the second layer."""
    x, y = table("digits")
    net = mlp(64, 48, 48, 10)
    nn.init.constant_(net[2].bias, -10.0)
    return Setup(net, rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG201")
def negative_weights_on_positive_pixels(seed: int) -> Setup:
    """uniform(-1, 0) weights, pixels in 0..1."""
    x, y = table("digits")
    net = mlp(64, 48, 10)
    nn.init.uniform_(net[0].weight, -1.0, 0.0)
    nn.init.zeros_(net[0].bias)
    return Setup(net, rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG201")
def dead_convolution(seed: int) -> Setup:
    """A convolution in the middle whose bias is -5."""
    x, y = table("digits")
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                        nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(net[2].bias, -5.0)
    return Setup(net, rows(x.reshape(-1, 1, 8, 8), y, 32, seed), ce, sgd(0.05, 0.9))


@faulty("GG401", "GG201")
def killed_by_the_rate(seed: int) -> Setup:
    """SGD at 20 on a ReLU net."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 32, 32, 2), rows(x, y, 32, seed), ce, sgd(20.0))


@faulty("GG206")
def all_weights_one_tenth(seed: int) -> Setup:
    """Constant initialisation."""
    x, y = table("wine")
    net = mlp(13, 16, 3, act=nn.Tanh)
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    return Setup(net, rows(x, y, 32, seed), ce, adam(1e-2))


@faulty("GG206", "GG204", "GG303", "GG301")
def all_weights_zero(seed: int) -> Setup:
    """Two layers, both zero: only the last bias ever moves."""
    x, y = xor()
    net = mlp(2, 16, 2)
    for p in net.parameters():
        nn.init.zeros_(p)
    return Setup(net, rows(x, y, 32, seed), ce, sgd(0.1))


@faulty("GG202", "GG502", "GG301", "GG404")
def saturated_by_large_weights(seed: int) -> Setup:
    """N(0, 300) weights before a sigmoid layer."""
    x, y = table("iris")
    net = mlp(4, 24, 24, 3, act=nn.Sigmoid)
    nn.init.normal_(net[0].weight, std=300.0)
    nn.init.normal_(net[2].weight, std=300.0)
    return Setup(net, rows(x, y, 30, seed), ce, sgd(0.01))


class Attention(nn.Module):
    """One head over rows of an image, pooled."""

    def __init__(self, scale: float, width: int = 16) -> None:
        super().__init__()
        self.embed, self.qkv, self.head, self.scale = nn.Linear(8, width), nn.Linear(width, 3 * width), nn.Linear(width, 10), scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(x.reshape(len(x), 8, 8))).chunk(3, dim=-1)
        return self.head((F.softmax(q @ k.transpose(1, 2) * self.scale, dim=-1) @ v).mean(1))


@faulty("GG205")
def attention_multiplied_by_the_width(seed: int) -> Setup:
    """The scores are multiplied by 16**2 instead of divided by 4."""
    x, y = table("digits")
    net = Attention(256.0)
    nn.init.normal_(net.qkv.weight, std=1.0)
    return Setup(net, rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG201", "GG204", "GG303", "GG105", "GG406")
def dropout_of_one(seed: int) -> Setup:
    """keep probability and drop probability mixed up: Dropout(1.0)."""
    x, y = table("iris")
    return Setup(nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Dropout(1.0), nn.Linear(24, 3)), rows(x, y, 30, seed), ce, adam(1e-2))


@faulty("GG204", "GG201", "GG303", "GG406")
def batch_norm_by_hand_with_one_sample(seed: int) -> Setup:
    """Batches of one, normalised over the batch: the features are all 0."""
    x, y = table("wine")

    class Norm(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))

        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * self.weight + self.bias

    net = nn.Sequential(nn.Linear(13, 24), Norm(24), nn.ReLU(), nn.Linear(24, 3))
    return Setup(net, rows(x, y, 1, seed, count=40), ce, sgd(0.02))


@faulty("GG207")
def codebook_far_from_the_codes(seed: int) -> Setup:
    """VQ-VAE whose codebook starts far from the encodings: one code takes everything."""
    x, _ = table("digits")

    class VQ(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = mlp(64, 48, 8), mlp(8, 48, 64)
            self.codebook = nn.Embedding(32, 8)
            nn.init.normal_(self.codebook.weight, mean=5.0, std=5.0)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = self.encode(x)
            code = self.codebook(torch.cdist(z, self.codebook.weight).argmin(1))
            return self.decode(z + (code - z).detach()), z, code

    def loss(m: Any, b: Any) -> Tensor:
        out, z, code = m(b[0])
        return F.mse_loss(out, b[0]) + F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())

    return Setup(VQ(), rows(x, x, 32, seed), loss, adam(1e-3))


class Experts(nn.Module):
    """Top-1 routing over 6 experts."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.into, self.router, self.head = nn.Linear(64, 24), nn.Linear(24, 6), nn.Linear(24, 10)
        self.experts = nn.ModuleList(mlp(24, 24, 24) for _ in range(6))
        with torch.no_grad():
            self.router.bias[0] = bias

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.into(x))
        gate, index = F.softmax(self.router(h), dim=1).max(1)
        out = torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            chosen = (index == i).nonzero()[:, 0]
            if len(chosen):
                out = out.index_add(0, chosen, gate[chosen, None] * expert(h[chosen]))
        return self.head(h + out)


@faulty("GG207", "GG303")
def router_that_knows_one_expert(seed: int) -> Setup:
    """No balancing, and a bias of 15 for the first expert."""
    x, y = table("digits")
    return Setup(Experts(15.0), rows(x, y, 32, seed), ce, adam(1e-3))


# --- cut graphs --------------------------------------------------------------------------------------------------------


class Cut(nn.Module):
    """A body, something between, a head."""

    def __init__(self, between: Any, sizes: tuple[int, int, int] = (64, 32, 10)) -> None:
        super().__init__()
        self.body, self.head, self.between = nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], sizes[2]), between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.between(self.body(x))))


@faulty("GG303", "GG113")
def data_of_a_tensor(seed: int) -> Setup:
    """.data in the middle of forward."""
    x, y = table("digits")
    return Setup(Cut(lambda h: h.data), rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG303", "GG113")
def numpy_round_trip(seed: int) -> Setup:
    """Features go through NumPy for a clip."""
    x, y = table("wine")
    return Setup(Cut(lambda h: torch.from_numpy(np.clip(h.detach().numpy(), -3, 3)), (13, 32, 3)), rows(x, y, 32, seed), ce, adam(1e-2))


@faulty("GG303", "GG113")
def new_tensor_of_values(seed: int) -> Setup:
    """torch.tensor(list) of the encoder's values."""
    x, y = table("iris")
    return Setup(Cut(lambda h: torch.tensor(h.tolist()), (4, 16, 3)), rows(x, y, 30, seed), ce, adam(1e-2))


@faulty("GG303", "GG113")
def encoder_under_no_grad(seed: int) -> Setup:
    """The encoder is meant to be trained (its parameters are in the optimizer) but runs under no_grad."""
    x, y = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = mlp(64, 32, 16), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.encoder(x)
            return self.head(h)

    return Setup(Net(), rows(x, y, 32, seed), ce, sgd(0.1))


@faulty("GG303", "GG113", "GG105")
def argmax_into_an_embedding(seed: int) -> Setup:
    """A hard choice in the middle: what is before it never learns."""
    x, y = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choose, self.codes, self.head = mlp(64, 32, 20), nn.Embedding(20, 16), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.codes(self.choose(x).argmax(1)))

    return Setup(Net(), rows(x, y, 32, seed), ce, adam(1e-2))


@faulty("GG303", "GG902")
def layers_in_a_python_list(seed: int) -> Setup:
    """self.layers = [..] instead of ModuleList: the hidden layers are not the model's parameters."""
    x, y = table("digits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(64, 32), nn.Linear(32, 32)]
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x))
            return self.head(x)

    return Setup(Net(), rows(x, y, 32, seed), ce, adam(1e-3))


@faulty("GG303")
def optimizer_of_the_old_model(seed: int) -> Setup:
    """The model was built again after the optimizer."""
    x, y = table("wine")
    old = mlp(13, 32, 3)
    optimizer = torch.optim.Adam(old.parameters(), lr=1e-2)
    model = mlp(13, 32, 3)
    return watched(model, rows(x, y, 32, seed), optimizer, lambda i, b: descend(model, optimizer, b), 60, loss=ce)


@faulty("GG303")
def head_replaced_after_the_optimizer(seed: int) -> Setup:
    """Fine-tuning: the new head is not in the optimizer, the old one is."""
    x, y = table("digits")
    model = mlp(64, 32, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model[2] = nn.Linear(32, 10)
    return watched(model, rows(x, y, 32, seed), optimizer, lambda i, b: descend(model, optimizer, b), 60, loss=ce)


@faulty("GG303", "GG403", "GG406", "GG405")
def everything_frozen_but_a_scale(seed: int) -> Setup:
    """requires_grad was set to False in a loop that also caught the head; an unused temperature is left."""
    x, y = table("digits")
    model = mlp(64, 32, 10)
    for p in model.parameters():
        p.requires_grad = False
    model.register_parameter("temperature", nn.Parameter(torch.ones(())))
    return Setup(model, rows(x, y, 32, seed), lambda m, b: F.cross_entropy(m(b[0]) * m.temperature, b[1]), lambda p: torch.optim.SGD(p, lr=1e-2))


@faulty("GG303")
def generator_behind_a_detach(seed: int) -> Setup:
    """fake.detach() was copied into the generator's step too."""
    generator, critic = mlp(4, 24, 2), mlp(2, 24, 1)
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    real, _ = moons()
    both = (torch.optim.Adam(generator.parameters(), lr=1e-3), torch.optim.Adam(critic.parameters(), lr=1e-3))
    batches = rows(real, real, 32, seed)

    def loop(watch: Any) -> None:
        bce = F.binary_cross_entropy_with_logits
        for b in cycle(batches, 60):
            fake = generator(torch.randn(32, 4))
            both[1].zero_grad()
            d = bce(critic(b[0]), torch.ones(32, 1)) + bce(critic(fake.detach()), torch.zeros(32, 1))
            d.backward()
            both[1].step()
            both[0].zero_grad()
            g = bce(critic(fake.detach()), torch.ones(32, 1))
            g.backward()
            both[0].step()
            watch.record(loss=g)

    return Setup(model, batches, None, both, {"objective": "adversarial"}, loop=loop)


@faulty("GG303", "GG113")
def detached_log_probabilities(seed: int) -> Setup:
    """REINFORCE whose log-probabilities were stored detached: only the value head learns."""
    x, y = table("digits")

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = mlp(64, 32, 10), mlp(64, 32, 1)

    def loss(m: Any, b: Any) -> Tensor:
        log_p = F.log_softmax(m.policy(b[0]), dim=1)
        action = torch.multinomial(log_p.exp().detach(), 1)
        reward = (action.squeeze(1) == b[1]).float()
        value = m.value(b[0]).squeeze(1)
        return -(log_p.gather(1, action).squeeze(1).detach() * (reward - value.detach())).mean() + F.mse_loss(value, reward)

    return Setup(Agent(), rows(x, y, 32, seed), loss, adam(1e-3), {"objective": "reinforcement"})


@faulty("GG113", "GG101", "GG105")
def gradient_penalty_without_create_graph(seed: int) -> Setup:
    """The penalty's gradient was taken without create_graph and is a constant; the lip parameter is trained by it alone."""
    x, _ = moons()

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = mlp(2, 24, 1, act=nn.Tanh), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    def loss(m: Any, b: Any) -> Tensor:
        points = b[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad((m.scale * m(points)).sum(), points)
        return m(b[0]).mean() - m(b[1]).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

    return Setup(Critic(), rows(x, torch.randn(x.shape, generator=noise(1)), 32, seed), loss, adam(1e-3), {"objective": "adversarial"}, way="audit")


# --- loops -------------------------------------------------------------------------------------------------------------


@faulty("GG304")
def no_zero_grad_with_adam(seed: int) -> Setup:
    """zero_grad was forgotten; Adam hides it for a while."""
    net = mlp(13, 32, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def step(i: int, b: Any) -> Tensor:
        loss = ce(net, b)
        loss.backward()
        optimizer.step()
        return loss

    return stepped(seed, net, table("wine"), optimizer, step)


@faulty("GG304")
def zero_grad_of_another_optimizer(seed: int) -> Setup:
    """Two optimizers, the first is cleared twice."""
    net = mlp(64, 48, 10)
    first, second = torch.optim.SGD(net[0].parameters(), lr=0.05), torch.optim.SGD(net[2].parameters(), lr=0.05)

    def step(i: int, b: Any) -> Tensor:
        first.zero_grad()
        first.zero_grad()
        loss = ce(net, b)
        loss.backward()
        first.step()
        second.step()
        return loss

    return stepped(seed, net, table("digits"), (first, second), step)


@faulty("GG403", "GG303", "GG105", "GG406")
def zero_grad_after_backward(seed: int) -> Setup:
    """zero_grad(set_to_none=False) between backward and step: nothing ever moves."""
    net = mlp(30, 32, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def step(i: int, b: Any) -> Tensor:
        loss = ce(net, b)
        loss.backward()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        return loss

    return stepped(seed, net, table("breast_cancer"), optimizer, step)


@faulty("GG403", "GG406")
def schedule_down_to_nothing(seed: int) -> Setup:
    """StepLR(1, 0.1) made for epochs and stepped at every batch."""
    net = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    return stepped(seed, net, table("digits"), optimizer, scheduled(net, optimizer, schedule))


@faulty("GG402", "GG401")
def schedule_that_doubles(seed: int) -> Setup:
    """ExponentialLR with gamma 1.25 where 0.8 was meant."""
    net = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.25)
    return stepped(seed, net, table("digits"), optimizer, scheduled(net, optimizer, schedule))


# --- rates -------------------------------------------------------------------------------------------------------------


@faulty("GG401")
def momentum_of_0_999(seed: int) -> Setup:
    """momentum 0.999 with a rate made for 0.9."""
    x, y = table("wine")
    return Setup(mlp(13, 32, 3), rows(x, y, 32, seed), ce, sgd(0.5, 0.999))


@faulty("GG401")
def adam_at_one(seed: int) -> Setup:
    """Adam with lr=1."""
    x, y = table("digits")
    return Setup(mlp(64, 48, 48, 10), rows(x, y, 32, seed), ce, adam(1.0))


@faulty("GG401", "GG404")
def summed_loss_with_the_rate_of_a_mean(seed: int) -> Setup:
    """reduction="sum" over 64 rows, SGD at 0.1."""
    x, y = table("diabetes")
    return Setup(mlp(10, 32, 1), rows(x, y, 64, seed), lambda m, b: F.mse_loss(m(b[0]).squeeze(1), b[1], reduction="sum"), sgd(0.1))


@faulty("GG401", "GG404", "GG402")
def summed_pixels(seed: int) -> Setup:
    """An autoencoder with BCE summed over pixels and rows, SGD at 0.1 with momentum."""
    x, _ = table("digits")
    return Setup(mlp(64, 24, 64, last=(nn.Sigmoid(),)), rows(x, x, 64, seed),
                 lambda m, b: F.binary_cross_entropy(m(b[0]), b[1], reduction="sum"), sgd(0.1, 0.9))


@faulty("GG403")
def rate_of_1e_7(seed: int) -> Setup:
    """A rate meant for fine-tuning a large model."""
    x, y = table("breast_cancer")
    return Setup(mlp(30, 32, 2), rows(x, y, 32, seed), ce, sgd(1e-7))


@faulty("GG403")
def rate_of_zero(seed: int) -> Setup:
    """lr=0.0 out of a broken config."""
    x, y = table("iris")
    return Setup(mlp(4, 16, 3), rows(x, y, 30, seed), ce, adam(0.0))


class Clipped(torch.optim.SGD):
    """SGD that clips the norm first."""

    def __init__(self, parameters: Any, lr: float, norm: float) -> None:
        super().__init__(parameters, lr=lr)
        self.norm = norm

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([p for g in self.param_groups for p in g["params"]], self.norm)
        return super().step(closure)


@faulty("GG403")
def clipped_to_1e_6(seed: int) -> Setup:
    """Gradients clipped to a norm of 1e-6."""
    x, y = table("wine")
    return Setup(mlp(13, 32, 3), rows(x, y, 32, seed), ce, lambda p: Clipped(p, 0.1, 1e-6))


@faulty("GG403")
def adadelta_at_1e_5(seed: int) -> Setup:
    """Adadelta with the rate of an Adam: it wants 1."""
    x, y = moons()
    return Setup(mlp(2, 32, 2), rows(x, y, 32, seed), ce, lambda p: torch.optim.Adadelta(p, lr=1e-5))


# --- precision, leaks --------------------------------------------------------------------------------------------------


@faulty("GG307")
def float16_without_scaling(seed: int) -> Setup:
    """A float16 model whose loss is divided by 1e5 for the logs before backward."""
    x, y = table("digits")
    return Setup(mlp(64, 48, 10).half(), rows(x.half(), y, 32, seed),
                 lambda m, b: F.cross_entropy(m(b[0]).float(), b[1]) / 1e5, adam(1e-3, eps=1e-4))


@faulty("GG305")
def softmax_of_attention_over_the_batch(seed: int) -> Setup:
    """Attention weights normalised over dim 0."""
    x, y = table("digits")

    class Net(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.embed(x.reshape(len(x), 8, 8))).chunk(3, dim=-1)
            return self.head((F.softmax(q @ k.transpose(1, 2) / 4, dim=0) @ v).mean(1))

    return Setup(Net(1.0), rows(x, y, 32, seed), ce, adam(3e-3), {"independent_samples": True})


@faulty("GG305")
def layer_norm_over_the_batch(seed: int) -> Setup:
    """A hand-made layer norm with dim=0."""
    x, y = table("wine")

    class Norm(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return (h - h.mean(0)) / (h.std(0) + 1e-5)

    return Setup(nn.Sequential(nn.Linear(13, 32), Norm(), nn.ReLU(), nn.Linear(32, 3)), rows(x, y, 32, seed), ce, adam(3e-3),
                 {"independent_samples": True})


class Lm(nn.Module):
    """A one-layer causal transformer over letters, with a mask to choose."""

    def __init__(self, mask: Any, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(LETTERS), width), nn.Embedding(32, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head, self.mask = nn.Linear(width, len(LETTERS)), mask

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        return self.head(self.block(h, src_mask=self.mask(x.shape[1])))


@faulty("GG306")
def mask_that_lets_the_next_letter_through(seed: int) -> Setup:
    """triu(diagonal=2): off by one."""
    return Setup(Lm(lambda n: torch.triu(torch.full((n, n), -math.inf), diagonal=2)), letters(12, 16, seed), per_letter, adam(3e-3), {"causal": True})


@faulty("GG306")
def symmetric_padding_in_a_causal_convolution(seed: int) -> Setup:
    """padding="same" in a language model of convolutions."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(len(LETTERS), 24), nn.Linear(24, len(LETTERS))
            self.a, self.b = nn.Conv1d(24, 24, 3, padding="same"), nn.Conv1d(24, 24, 3, padding="same")

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x).transpose(1, 2)
            return self.head(F.gelu(self.b(F.gelu(self.a(h)))).transpose(1, 2))

    return Setup(Net(), letters(12, 16, seed), per_letter, adam(3e-3), {"causal": True})


# --- NumPy -------------------------------------------------------------------------------------------------------------


def _numpy_net(seed: int, sizes: tuple[int, int, int], scale: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"w1": random.normal(size=sizes[:2]) * scale, "b1": np.zeros(sizes[1]),
            "w2": random.normal(size=sizes[1:]) * scale, "b2": np.zeros(sizes[2])}


def _forward(m: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h = np.tanh(x @ m["w1"] + m["b1"])
    return h, softmax(h @ m["w2"] + m["b2"])


def _np_loss(m: Any, b: Any) -> float:
    return log_loss(_forward(m, b[0])[1], b[1])


def _np_grad(m: Any, b: Any) -> dict[str, np.ndarray]:
    h, p = _forward(m, b[0])
    d = log_loss_slope(p, b[1])
    back = d @ m["w2"].T * (1 - h**2)
    return {"w1": b[0].T @ back, "b1": back.sum(0), "w2": h.T @ d, "b2": d.sum(0)}


@faulty("GG206", "GG303", "GG204")
def numpy_zeros(seed: int) -> Setup:
    """np.zeros for every weight."""
    return Setup(_numpy_net(seed, (13, 16, 3), 0.0), numpy_rows(table("wine"), 32, seed), _np_loss, gg.SGD(0.1), {"grad": _np_grad})


@faulty("GG401", "GG402", "GG406")
def numpy_plus_for_minus(seed: int) -> Setup:
    """The gradient has the wrong sign: p - y became y - p."""
    def grad(m: Any, b: Any) -> Any:
        return {k: -v for k, v in _np_grad(m, b).items()}

    return Setup(_numpy_net(seed, (4, 16, 3), 0.4), numpy_rows(table("iris"), 30, seed), _np_loss, gg.SGD(0.1), {"grad": grad})


@faulty("GG401")
def numpy_rate_of_fifty(seed: int) -> Setup:
    """SGD at 50."""
    return Setup(_numpy_net(seed, (64, 32, 10), 0.2), numpy_rows(table("digits"), 32, seed), _np_loss, gg.SGD(50.0), {"grad": _np_grad})


@faulty("GG303", "GG105", "GG101")
def numpy_forgotten_layer(seed: int) -> Setup:
    """The first layer's gradient was never written: zeros."""
    def grad(m: Any, b: Any) -> Any:
        g = _np_grad(m, b)
        return {**g, "w1": np.zeros_like(g["w1"]), "b1": np.zeros_like(g["b1"])}

    return Setup(_numpy_net(seed, (13, 16, 3), 0.3), numpy_rows(table("wine"), 32, seed), _np_loss, gg.SGD(0.1), {"grad": grad})


@faulty("GG202", "GG404", "GG401", "GG502")
def numpy_saturated(seed: int) -> Setup:
    """randn weights on 13 raw columns: every tanh at its limit."""
    x, y = table("wine", scaled=False)
    batches = numpy_rows((x, y), 32, seed)
    return Setup(_numpy_net(seed, (13, 16, 3), 1.0), batches, _np_loss, gg.SGD(0.01),
                 {"grad": _np_grad, "activations": lambda m, b: {"tanh": _forward(m, b[0])[0]}})
