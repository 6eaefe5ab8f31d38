"""Held-out faulty programs, fifth draw: what users posted and what fault studies plant, written before any of them was judged.

Each row names its fault and the codes that may head the report. Behind it stands what plain training did in 300 steps or
the row's own loop with seed 0: first loss -> mean of the last 24, and the entropy (H) or variance (var) of the labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import letters, made, on, text, whole
from benchmarks.health.heldout_data import VOCABULARY, graph, sequences, squares
from benchmarks.health.heldout_layers import Attention, Fn, Positions, Recurrent, Residual, block, cnn, image, mlp
from benchmarks.health.heldout_loops import adam, binary, by, ce, cycle, itself, learn, mse, own, per_letter, sgd, steps, use
from benchmarks.health.heldout_nets import Segmenter, changed, language_model, patches, weights
from benchmarks.health.heldout_numpy import Written, digits_numpy, numpy_floats, softmax
from benchmarks.health.heldout_programs import Batch, Body, Table

faulty = Table()
case, loop = faulty.case, faulty.loop
schedules = torch.optim.lr_scheduler

# ---- posts: small nets, and a head, a scale or a rate that does not fit ------------------------------------------------------


def gates() -> Batch:
    """The four rows of exclusive or, a hundred times."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(100, 1)
    return x, (x[:, 0] != x[:, 1]).float()


def curve(low: float, high: float, f: Callable[[Tensor], Tensor], n: int = 400) -> Batch:
    x = torch.linspace(low, high, n)[:, None]
    return x, f(x[:, 0])


def walks(n: int = 256, length: int = 20) -> Batch:
    """Share prices near 3000 that move by 20 a day; the label is the next price."""
    x = 3000 + 20 * torch.randn(n, length + 1, generator=torch.Generator().manual_seed(31)).cumsum(1) + 300 * torch.randn(n, 1, generator=torch.Generator().manual_seed(32))
    return x[:, :-1, None], x[:, -1]


def clicks(n: int = 600) -> Batch:
    """A time stamp in seconds, and three standardised columns of which one decides."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(33))
    y = (x[:, 1] > 0).long()
    x[:, 0] = 1.6e9 + 1e6 * x[:, 0]
    return x, y


def by_hand(model: Any, batch: Batch) -> Tensor:
    """Binary cross-entropy of probabilities, as the formula says and no more."""
    p, y = model(batch[0]).squeeze(-1), batch[1].float()
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def one_hot(k: int) -> Callable[[Tensor, Tensor], Batch]:
    return lambda x, y: (x, F.one_hot(y, k).float())


case("exclusive or with two hidden units and a relu at the end", "GG201 GG501 GG406 GG204 GG403 GG405", lambda: mlp(2, 2, 1, last=(nn.ReLU(),)), made(gates), mse, sgd(0.01), steps=300)  # 0.5 -> 0.501, var 0.25
case("exclusive or without an activation", "GG406 GG405", lambda: mlp(2, 8, 1, act=nn.Identity), made(gates), binary, adam(1e-2), steps=300)  # 0.709 -> 0.694, H 0.693
case("ten digits and one sigmoid", "GG501 GG401 GG402 GG404", lambda: mlp(64, 64, 1), on("digits"), binary, adam(1e-3), steps=300)  # 0.397 -> -438, without bound, acc 0.11
case("a line through areas of 20 to 600", "GG401 GG402 GG502", lambda: nn.Linear(1, 1), made(curve, 20.0, 600.0, lambda x: 0.3 * x + 5, size=1, count=300), mse, sgd(0.01), steps=100)  # 917 -> NaN
case("squares of 0 to 100 through two linear layers", "GG401 GG402 GG502", lambda: mlp(1, 1, 1, act=nn.Identity), made(curve, -1.7, 1.7, lambda x: (29 * x + 50).square() + 3), mse, sgd(0.01), steps=100)  # 1.7e+07 -> NaN
case("powers of x up to 20 cubed", "GG401 GG402 GG502 GG203", lambda: nn.Linear(4, 1), made(lambda: (lambda x: (torch.stack([x**p for p in range(4)], 1), x**3))(torch.linspace(-20, 20, 400))), mse, sgd(1e-3), steps=100)  # 1.3e+07 -> NaN
case("ten times x behind a tanh", "GG501 GG502", lambda: mlp(1, 16, 8, 4, 1, act=nn.Tanh, last=(nn.Tanh(),)), made(curve, -20.0, 20.0, lambda x: 10 * x), mse, adam(1e-3), steps=300)  # 1.13e+04 -> 1.31e+04, var 1.33e+04
case("a sine over 0 to 1000", "GG502 GG406 GG405 GG404", lambda: mlp(1, 10, 1), made(curve, 0.0, 1000.0, lambda x: x.sin()), mse, adam(1e-3), steps=300)  # 3.68e+03 -> 0.504, var 0.5
case("share prices in an lstm", "GG502 GG403 GG406", lambda: Recurrent("LSTM", 1, 32, 1), made(walks), mse, adam(1e-3), steps=300)  # 9.0e+06 -> 9.2e+06, var 97000
case("seconds since 1970 beside other columns", "GG502 GG404 GG401", lambda: mlp(4, 16, 2), made(clicks), ce, adam(1e-3), steps=300)  # 9.9e+07 -> 1.7e+05, H 0.693
case("raw tumours into a logistic regression", "GG502 GG401 GG404", lambda: nn.Linear(30, 2), on("breast_cancer", scaled=False), ce, sgd(0.1), steps=200)  # 14.1 -> 4.85e+03, H 0.66
case("softmax and squares at a ten-thousandth", "GG403 GG406", lambda: mlp(4, 8, 3, last=(nn.Softmax(1),)), on("iris", change=one_hot(3)), by(F.mse_loss), sgd(1e-4), steps=300)  # 0.224 -> 0.225, var 0.222
case("adadelta at a thousandth", "GG403", lambda: mlp(64, 64, 10), on("digits", 128), ce, use("Adadelta", 1e-3), steps=300)  # 2.3 -> 2.31, H 2.3
case("reviews at a rate of 1e-5", "GG403 GG406", lambda: Recurrent("LSTM", 20, 16, 2, ids=True), made(lambda: (lambda i: (i, (i < 10).sum(1).gt(6).long()))(torch.randint(0, 20, (600, 12), generator=torch.Generator().manual_seed(34)))), ce, sgd(1e-5), steps=150)  # 0.706 -> 0.706, H 0.674
case("vectors of length 1 for labels of length 10", "GG501 GG502", lambda: nn.Sequential(mlp(10, 32, 2), Fn(lambda h: F.normalize(h, dim=1))), on("diabetes", change=lambda x, y: (x, torch.stack([10 * y.sin(), 10 * y.cos()], 1))), by(F.mse_loss), adam(3e-3), steps=300)  # 47.9 -> 42.1, cannot fall below 40.5
case("prices without a bias", "GG406 GG405 GG502 GG404", lambda: nn.Linear(10, 1, bias=False), on("diabetes", change=lambda x, y: (x, 50 + 5 * y)), mse, adam(1e-2), steps=300)  # 2.58e+03 -> 2.51e+03, var 24.4
case("column against row in a cross-entropy by hand", "GG501", lambda: mlp(30, 16, 1), on("breast_cancer"), lambda m, b: (F.softplus(m(b[0])) - b[1] * m(b[0])).mean(), adam(1e-2), steps=200)  # 0.697 -> 0.659, H 0.66
case("one label of a million", "GG502 GG401 GG402", lambda: mlp(10, 32, 1), on("diabetes", change=lambda x, y: (x, y.where(torch.arange(len(y)) != 7, torch.tensor(1e6)))), mse, sgd(0.01), steps=100)  # 0.978 -> NaN

# ---- planted: the loss and the labels ------------------------------------------------------------------------------------------

case("logarithms of saturated probabilities", "GG203 GG402 GG502 GG102 GG404", lambda: mlp(30, 16, 1, last=(nn.Sigmoid(),)), on("breast_cancer", scaled=False), by_hand, adam(1e-2), steps=100)  # NaN -> NaN, H 0.66
case("one sign of two in a cross-entropy", "GG401 GG402 GG406", lambda: mlp(2, 16, 1), on("moons"), lambda m, b: (lambda z: (b[1] * F.softplus(-z) - (1 - b[1]) * F.softplus(z)).mean())(m(b[0]).squeeze(-1)), adam(1e-2), steps=300)  # -0.0969 -> -164, without bound, acc 0.50
case("a penalty that is subtracted", "GG401 GG402", lambda: mlp(64, 32, 10), on("digits"), lambda m, b: ce(m, b) - 0.1 * sum(p.square().sum() for p in m.parameters()), sgd(0.1), steps=300)  # 0.92 -> -1.4e+05, without bound
case("an activity penalty of 10", "GG406 GG201 GG204", lambda: mlp(64, 48, 10), on("digits"), lambda m, b: ce(m, b) + 10 * m[:2](b[0]).sum(1).mean(), adam(3e-3), steps=300)  # 62.3 -> 2.3, H 2.3
case("all labels but the right one", "GG404 GG501 GG406", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: (x, 1 - F.one_hot(y, 10).float())), ce, adam(1e-3), steps=200)  # 20.8 -> 20.3, a constant gives 20.72, the floor is 19.78
case("rows of labels that lost their one", "GG303 GG301 GG403 GG404 GG406 GG501", lambda: mlp(13, 16, 3), on("wine", change=lambda x, y: (x, torch.zeros(len(y), 3))), ce, sgd(0.1), steps=100)  # 0 -> 0, loss and gradient are 0
case("nine of ten labels drawn at random", "GG406 GG405", lambda: mlp(64, 24, 10), on("digits", count=56, change=lambda x, y: (x, torch.where(torch.rand(len(y), generator=torch.Generator().manual_seed(35)) < 0.9, torch.randint(0, 10, y.shape, generator=torch.Generator().manual_seed(36)), y))), ce, adam(1e-3), steps=300)  # 2.29 -> 2.28, H 2.3
case("label smoothing of 1", "GG406 GG405 GG403", lambda: mlp(64, 32, 10), on("digits"), by(F.cross_entropy, label_smoothing=1.0), adam(1e-3), steps=300)  # 2.31 -> 2.3, H 2.3
case("noise twenty times the pixels", "GG406 GG502 GG404", lambda: mlp(64, 32, 10), on("digits", count=56, change=lambda x, y: (x + 20 * torch.randn(x.shape, generator=torch.Generator().manual_seed(37)), y)), ce, sgd(1e-3), steps=300)  # 6.37 -> 2.96, H 2.3
case("every word unknown", "GG406 GG204 GG405", lambda: Recurrent("GRU", VOCABULARY, 24, VOCABULARY, ids=True, every=True), lambda s: [(torch.ones_like(x), y) for x, y in text()(s)], per_letter, adam(1e-2), steps=200)  # 3.14 -> 2.75, H 2.74
case("poisson loss of raw outputs", "GG203 GG402 GG501", lambda: mlp(10, 32, 1), on("friedman", change=lambda x, y: (x, y - y.min())), lambda m, b: (lambda p: (p - b[1] * p.log()).mean())(m(b[0]).squeeze(-1)), adam(1e-3), steps=50)  # NaN -> 1.02, or NaN for good, by seed
case("kl divergence with its arguments exchanged", "GG203 GG501 GG402", lambda: mlp(64, 32, 10), on("digits", change=one_hot(10)), lambda m, b: F.kl_div((0.9 * b[1] + 0.01).log(), m(b[0]).log_softmax(1), reduction="batchmean"), adam(1e-3), steps=50)  # NaN -> NaN
case("softmax twice in distillation", "GG501", lambda: mlp(64, 32, 10, last=(nn.Softmax(1),)), on("digits", change=lambda x, y: (x, (5.0 * F.one_hot(y, 10)).softmax(1))), lambda m, b: F.kl_div(m(b[0]).log_softmax(1), b[1], reduction="batchmean"), adam(1e-3), steps=200)  # 1.96 -> 1.42, 0 is within reach without the second softmax
case("a temperature of 1000", "GG403 GG406", lambda: mlp(64, 32, 10), on("digits"), lambda m, b: F.cross_entropy(m(b[0]) / 1000, b[1]), sgd(0.1), steps=300)  # 2.3 -> 2.3, H 2.3
case("class weights of a millionth", "GG403 GG404", lambda: mlp(13, 16, 3), on("wine"), lambda m, b: (1e-6 * F.cross_entropy(m(b[0]), b[1], reduction="none")).mean(), sgd(0.1), steps=300)  # 9.89e-07 -> 9.83e-07, no weight moves
case("summed letters at a mean's rate", "GG404 GG401 GG402", language_model, text(), lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten(), reduction="sum"), sgd(0.3), steps=150)  # 822 -> NaN, H 2.74
case("summed masks at a mean's rate", "GG404 GG401 GG402 GG201", lambda: Segmenter(nn.Identity()), made(squares, size=16), by(F.binary_cross_entropy_with_logits, reduction="sum"), sgd(0.1), steps=100)  # 3.14e+03 -> NaN

# ---- planted: initialisation, activations and depth ------------------------------------------------------------------------------

def alike(model: Any) -> None:
    """All hidden units are copies of the first, on both sides."""
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:1].expand_as(model[0].weight).clone())
        nn.init.zeros_(model[0].bias)
        nn.init.constant_(model[2].weight, 0.1)


case("zeros in a cnn", "GG206 GG303 GG301 GG201 GG406", changed(lambda: cnn(norm=False), weights(torch.zero_, biases=torch.zero_)), on("digits"), ce, sgd(0.1), steps=300)  # 2.3 -> 2.3, H 2.3
case("weights that are all positive", "GG302 GG404 GG503 GG401 GG204", changed(lambda: mlp(64, 64, 64, 10), weights(lambda w: w.uniform_(0, 1), biases=torch.zero_)), on("digits"), ce, sgd(0.1), steps=200)  # 1.16e+03 -> 2.3, H 2.3
case("orthogonal weights times 6", "GG302 GG404 GG503 GG401", changed(lambda: mlp(64, *[64] * 6, 10), weights(lambda w: nn.init.orthogonal_(w, 6.0), biases=torch.zero_)), on("digits"), ce, sgd(0.01), steps=200)  # 1.57e+04 -> NaN
case("an lstm of weights 15 times too large", "GG202 GG503 GG302 GG301 GG401 GG404", changed(lambda: Recurrent("LSTM", 3, 24, 2), weights(lambda w: w.normal_(0, 3.0))), made(sequences, asked=0), ce, sgd(0.1), steps=300)  # 3.79 -> 1.21, H 0.688
case("a tanh layer with a bias of 20", "GG202 GG201 GG204 GG301 GG303", changed(lambda: mlp(13, 24, 3, act=nn.Tanh), lambda m: nn.init.constant_(m[0].bias, 20.0)), on("wine"), ce, sgd(0.1), steps=300)  # 1.13 -> 1.11, H 1.09
case("softmax between the layers", "GG301 GG406 GG403 GG202 GG204", lambda: mlp(64, 32, 32, 32, 10, act=lambda: nn.Softmax(1)), on("digits"), ce, sgd(0.1), steps=300)  # 2.28 -> 2.3, H 2.3
case("exponentials between the layers", "GG203 GG401 GG302 GG402 GG404", lambda: mlp(64, 64, 64, 64, 10, act=lambda: Fn(torch.exp)), on("digits"), ce, sgd(0.1), steps=100)  # 2.88 -> NaN
case("ten hard sigmoids", "GG301 GG406", lambda: mlp(30, *[32] * 10, 2, act=nn.Hardsigmoid), on("breast_cancer"), ce, sgd(0.05, 0.9), steps=300)  # 0.708 -> 0.67, H 0.66
case("one row of weights for all units", "GG206", changed(lambda: mlp(64, 32, 10), alike), on("digits"), ce, sgd(0.1), steps=200)  # 2.33 -> 2.3, one unit 32 times over
case("a recurrent net of sigmoids over 100 steps", "GG301", lambda: SigmoidRecurrent(), made(sequences, 512, 100, asked=0), ce, adam(1e-3), steps=200)  # 0.707 -> 0.691, H 0.693
case("an encoder and decoder of eight sigmoids each way", "GG301 GG204 GG406", lambda: mlp(64, *[32] * 7, 8, *[32] * 7, 64, act=nn.Sigmoid), on("digits"), itself, sgd(0.1, 0.9), steps=300)  # 0.326 -> 0.0734, var 0.0735
case("twenty-four attention layers without a skip", "GG301 GG204 GG406 GG403", lambda: nn.Sequential(Positions(VOCABULARY, 16), *(Attention(16, causal=True) for _ in range(24)), nn.Linear(16, VOCABULARY)), text(), per_letter, sgd(0.1, 0.9), steps=150)  # 3.13 -> 2.75, H 2.74
case("eight graph layers over plain sums", "GG302 GG404 GG401 GG503 GG203", lambda: Summed(8), whole(*graph()), lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), sgd(0.05), steps=200)  # 3.78e+04 -> NaN
case("group norm with as many groups as features", "GG204 GG301 GG303 GG406", lambda: nn.Sequential(nn.Linear(13, 24), nn.GroupNorm(24, 24), nn.ReLU(), nn.Linear(24, 3)), on("wine"), ce, adam(1e-2), steps=300)  # 1.11 -> 1.09, H 1.09
case("a deep trunk killed by negative biases", "GG201 GG301 GG303", changed(lambda: mlp(30, 32, 32, 32, 2), lambda m: [nn.init.constant_(m[i].bias, -3.0) for i in (2, 4)]), on("breast_cancer"), ce, sgd(0.05), steps=300)  # 0.693 -> 0.661, H 0.66


class SigmoidRecurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.across, self.head = nn.Linear(3, 24), nn.Linear(24, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            h = torch.sigmoid(self.inside(x[:, t]) + self.across(h))
        return self.head(h)


class Summed(nn.Module):
    """Graph layers that add up the neighbours, with no division by their number."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([12, *[32] * (depth - 1), 3]))

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        a = (a > 0).float()
        for i, layer in enumerate(self.layers):
            x = layer(a @ x)
            x = x.relu() if i < len(self.layers) - 1 else x
        return x


# ---- values that are no numbers ---------------------------------------------------------------------------------------------------


def angles(model: Any, batch: Batch) -> Tensor:
    """The angle between two views of which every eighth pair is the same row."""
    a = F.normalize(model(batch[0]), dim=1)
    b = F.normalize(model(batch[0] + 0.1 * (torch.arange(len(batch[0])) % 8 > 0)[:, None]), dim=1)
    return (a * b).sum(1).clamp(-1, 1).acos().mean() + 0.1 * (a @ a.T).square().mean()


case("the angle between equal vectors", "GG102 GG203", lambda: mlp(13, 24, 4), on("wine"), angles, adam(1e-3), steps=50)  # 0.122 -> NaN
case("generalised mean of negative features", "GG203", lambda: Generalised(), on("digits"), ce, adam(1e-3), steps=50)  # NaN -> NaN
case("squares beyond half precision", "GG203 GG402 GG502 GG307", lambda: mlp(10, 32, 1).half(), on("friedman", change=lambda x, y: (x.half(), (y * 500 + 1000).half())), mse, sgd(1e-3), steps=50)  # inf -> NaN
case("adam's epsilon in half precision", "GG203 GG402 GG401 GG307 GG102", lambda: mlp(64, 32, 10).half(), on("digits", change=lambda x, y: (x.half(), y)), ce, lambda p: HalfAdam(p, 1e-3), steps=50)  # 2.34 -> NaN


class Generalised(nn.Module):
    """Pooling by the p-th root of the mean of p-th powers, with the clamp left out."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.p, self.head = nn.Sequential(image(), nn.Conv2d(1, 16, 3)), nn.Parameter(torch.tensor(3.0)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).pow(self.p).mean((2, 3)).pow(1 / self.p))


class HalfAdam(torch.optim.Optimizer):
    """Adam as the paper states it, with its averages in the precision of the weights: in float16 its epsilon is 0."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                state["m"].mul_(0.9).add_(p.grad, alpha=0.1)
                state["v"].mul_(0.999).add_(p.grad * p.grad * 0.001)
                m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.999 ** state["t"])
                p.sub_(group["lr"] * m / (v.sqrt() + torch.tensor(1e-8, dtype=p.dtype)))


# ---- cuts, and parts that do not take part -------------------------------------------------------------------------------------------


class Routed(nn.Module):
    """The best expert is chosen, but the router's probability does not multiply its output."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts, self.head = nn.Linear(64, 3), nn.ModuleList(mlp(64, 24, 16) for _ in range(3)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        chosen = F.one_hot(self.router(x).argmax(1), 3).float()
        return self.head(torch.einsum("be,ebd->bd", chosen, torch.stack([e(x) for e in self.experts])))


class Unbalanced(nn.Module):
    """The best of four experts, weighted by its probability; the term that should spread the load is subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 24, 10) for _ in range(4))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        p = self.router(x).softmax(1)
        chosen = F.one_hot(p.argmax(1), 4).float()
        z = torch.einsum("be,ebd->bd", chosen * p, torch.stack([e(x) for e in self.experts]))
        return F.cross_entropy(z, y) - 4 * (chosen.mean(0) * p.mean(0)).sum()


class Codes(nn.Module):
    """A codebook with a straight-through estimator and no loss of its own: no gradient reaches the codes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = mlp(64, 32, 4), mlp(4, 32, 64), nn.Embedding(16, 4)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return F.mse_loss(self.decoder(z + (q - z).detach()), x)


class Sampled(nn.Module):
    """A noisy code from sample(), where rsample() was meant."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 32, 8), mlp(4, 32, 64)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_scale = self.encoder(x).chunk(2, 1)
        return F.mse_loss(self.decoder(torch.distributions.Normal(mean, log_scale.exp()).sample()), x)


class Twins(nn.Module):
    """Two views are pulled together, nothing is stopped and nothing pushes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(64, 48, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (self(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        return (a - b).square().sum(1).mean()


class Clipped(nn.Module):
    """Features are clamped to a range that lies above all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = mlp(64, 32, 16, act=nn.Tanh), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).tanh().clamp(1.0, 6.0))


case("a balance loss with its sign reversed", "GG207", Unbalanced, on("digits"), own, adam(3e-3), steps=200)  # 0.815 -> -3.72, one of four experts takes every row
case("a router that only chooses", "GG303 GG113", Routed, on("digits"), ce, adam(3e-3), steps=50)  # 2.27 -> 0.153, learns without its router, which has no gradient
case("codes without a loss of their own", "GG303 GG113 GG207", Codes, on("digits"), own, adam(1e-3), steps=100)  # 0.335 -> 0.0667, var 0.0735; the codes keep their first values
case("sample where rsample was meant", "GG303 GG113", Sampled, on("digits"), own, adam(1e-3), steps=100)  # 0.333 -> 0.0788, var 0.0735; no gradient to the encoder
case("two views and nothing that holds them apart", "GG204", Twins, on("digits"), own, adam(3e-3), steps=300)  # 0.154 -> 1.21e-05, all outputs the same to 1e-4
case("features clamped above their range", "GG303 GG301 GG201 GG204 GG202 GG406", Clipped, on("digits"), ce, adam(3e-3), steps=200)  # 2.37 -> 2.31, H 2.3
case("a feature extractor in inference mode", "GG303", lambda: Inferred(), on("digits"), ce, adam(3e-3), steps=50)  # 2.37 -> 2.3, H 2.3
case("future tokens and no past", "GG306", lambda: nn.Sequential(Positions(VOCABULARY, 24), Reversed(24), nn.Linear(24, VOCABULARY)), text(), per_letter, use("AdamW", 3e-3), steps=50, causal=True)  # 3.06 -> 0.372, sees the answer
case("a mean over time in a causal model", "GG306", lambda: nn.Sequential(Positions(VOCABULARY, 24), Fn(lambda h: h - h.mean(1, keepdim=True)), block(24, causal=True), nn.Linear(24, VOCABULARY)), text(), per_letter, use("AdamW", 3e-3), steps=50, causal=True)  # 3.37 -> 0.812, sees the answer
case("attention normalised over the queries", "GG306", lambda: nn.Sequential(Positions(VOCABULARY, 24), OverQueries(24), nn.Linear(24, VOCABULARY)), text(), per_letter, use("AdamW", 3e-3), steps=50, causal=True)  # 3.43 -> 1, later letters change earlier outputs
case("text beside the labels of another row", "GG406 GG405", lambda: Recurrent("LSTM", VOCABULARY, 16, VOCABULARY, ids=True, every=True), lambda s: [(x, y.roll(1, 0)) for x, y in letters(16, 16, s, 150)], per_letter, adam(3e-3), steps=150)  # 3.1 -> 2.75, H 2.75
case("scores that are divided by the batch's maximum", "GG305", lambda: nn.Sequential(mlp(13, 24, 3), Fn(lambda h: h / h.abs().max().clamp(min=1e-3))), on("wine"), ce, adam(1e-2), steps=50, independent_samples=True)  # 1.05 -> 0.433, samples depend on each other
case("reshape where permute was meant in a cnn", "GG305", lambda: nn.Sequential(image(), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Fn(lambda h: h.transpose(0, 1).reshape(h.shape[0], -1)), nn.Linear(512, 10)), on("digits"), ce, adam(3e-3), steps=50, independent_samples=True)  # 2.33 -> 1.56, samples depend on each other, acc 0.55


class Reversed(Attention):
    """The triangle of the mask is the wrong one: each letter sees itself and what follows."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) * self.scale).masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(-1), -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class OverQueries(Attention):
    """The softmax runs over the queries, so that each weight depends on all later positions."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) * self.scale).masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), -math.inf)
        return x + self.out((scores.softmax(-2) @ v).transpose(1, 2).flatten(2))


class Inferred(nn.Module):
    """Meant to be fine-tuned; its features are computed in inference mode and cloned outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = mlp(64, 32, 2, act=nn.Sigmoid), nn.Linear(2, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            h = self.features(x)
        return self.head(h.clone())


# ---- rates and optimizers ------------------------------------------------------------------------------------------------------------

case("adagrad at 5 in a cnn", "GG401 GG201 GG402", lambda: cnn(norm=False), on("digits"), ce, use("Adagrad", 5.0), steps=150)  # 2.31 -> 2.33, H 2.30, peak 354000
case("nadam at 10 in an lstm", "GG401 GG202 GG201 GG402 GG406", lambda: Recurrent("LSTM", 3, 24, 2), made(sequences, asked=0), ce, use("NAdam", 10.0), steps=200)  # 0.69 -> 6.37, H 0.688
case("adamw at 1 in an autoencoder", "GG401 GG402 GG201", lambda: mlp(64, 32, 8, 32, 64), on("digits"), itself, use("AdamW", 1.0), steps=200)  # 0.29 -> 0.0757, var 0.0735
case("adam at 1 in a vision transformer", "GG401 GG201 GG204 GG406 GG402 GG205", lambda: patches(layers=3), on("digits"), ce, adam(1.0), steps=150)  # 2.43 -> 1.22e+03, H 2.3
case("nesterov at 1 in a residual net", "GG401 GG402 GG201 GG302", lambda: nn.Sequential(nn.Linear(64, 32), *(Residual(mlp(32, 32, 32)) for _ in range(8)), nn.Linear(32, 10)), on("digits"), ce, sgd(1.0, 0.9, nesterov=True), steps=150)  # 2.26 -> NaN
case("a rate of 0 for all but the biases", "GG403 GG303", lambda: mlp(64, 32, 10), on("digits"), ce, lambda ps: (lambda p: torch.optim.SGD([{"params": [q for q in p if q.dim() > 1], "lr": 0.0}, {"params": [q for q in p if q.dim() < 2], "lr": 1e-4}]))(list(ps)), steps=200)  # 2.34 -> 2.33, H 2.3

# ---- loops ---------------------------------------------------------------------------------------------------------------------------


def body(step: Callable[[Any, Any, Any, int], None], data: Any, loss: Any, count: int) -> Body:
    """A loop whose part after the loss is ``step(model, optimizer, loss, i)``."""

    def run(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        for i, batch in enumerate(cycle(data(seed), count)):
            value = loss(model, batch)
            watch.record(loss=value)
            step(model, optimizer, value, i)

    return run


def scaled(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """The loss is scaled for half precision, the gradient is never divided again."""
    optimizer.zero_grad()
    (value * 65536).backward()
    optimizer.step()


def clipped_too_early(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """The norm is clipped to 1 while the gradient is still scaled."""
    optimizer.zero_grad()
    (value * 65536).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for p in model.parameters():
        p.grad.div_(65536)
    optimizer.step()


def accumulated(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """Sixteen batches are added up, no division, and the rate is that of one."""
    value.backward()
    if i % 16 == 15:
        optimizer.step()
        optimizer.zero_grad()


def climbed(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """Sharpness-aware steps whose way up is never taken back."""
    optimizer.zero_grad()
    value.backward()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.add_(p.grad / norm)
    optimizer.step()


def wrapped(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """The loss is put into a new tensor, which requires a gradient and has no history."""
    optimizer.zero_grad()
    torch.tensor(value.item(), requires_grad=True).backward()
    optimizer.step()


def by_plateau(mode: str) -> Body:
    """The rate falls when the loss has not *risen*."""

    def run(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        plateau = schedules.ReduceLROnPlateau(optimizer, mode=mode, patience=1, min_lr=0.0, eps=0.0)  # type: ignore[arg-type]
        for batch in cycle(on("digits")(seed), 200):
            value = ce(model, batch)
            learn(watch, optimizer, value)
            plateau.step(value.item())

    return run


def restored(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """The best checkpoint, which was kept by reference to the first weights, is loaded after each step."""
    best = copy.deepcopy(model.state_dict())
    steps(on("digits"), ce, 150, after=lambda m, i: m.load_state_dict(best))(model, optimizer, seed, watch)


def uncleared_game(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    """The generator's loss leaves its gradient in both nets, and neither optimizer clears."""
    for_g, for_d = optimizers
    for real, _ in cycle(on("moons")(seed), 100):
        fake = model["g"](torch.randn(len(real), 4))
        loss = F.binary_cross_entropy_with_logits(model["d"](real), torch.ones(len(real), 1)) + F.binary_cross_entropy_with_logits(model["d"](fake.detach()), torch.zeros(len(real), 1))
        watch.record(loss=loss)
        loss.backward()
        for_d.step()
        F.binary_cross_entropy_with_logits(model["d"](fake), torch.ones(len(real), 1)).backward()
        for_g.step()


def halves(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    """Encoder and decoder have an optimizer each; the encoder's is never stepped."""
    for_encoder, for_decoder = optimizers
    for x, _ in cycle(on("digits")(seed), 150):
        for_encoder.zero_grad()
        for_decoder.zero_grad()
        loss = F.mse_loss(model["decoder"](model["encoder"](x)), x)
        watch.record(loss=loss)
        loss.backward()
        for_decoder.step()


def headless(model: Any) -> Any:
    """The parameters go to the optimizer, and then the head is replaced for ten classes."""
    held = list(model.parameters())
    model[-1] = nn.Linear(96, 10)
    return held


def half_cleared(model: Any, optimizer: Any, value: Tensor, i: int) -> None:
    """Only the head's gradients are cleared."""
    model[-1].zero_grad()
    value.backward()
    optimizer.step()


digits = on("digits")
loop("a decay of the rate of 100", "GG403", lambda: mlp(64, 32, 10), steps(digits, ce, 200, schedule=lambda o: schedules.LambdaLR(o, lambda i: 1 / (1 + 100 * i))), sgd(0.05))  # 2.34 -> 2.32, H 2.30
loop("a plateau that waits for the loss to rise", "GG403", lambda: mlp(64, 32, 10), by_plateau("max"), sgd(0.05))  # 2.34 -> 2.32, H 2.30
loop("a scaled loss that is never unscaled", "GG401 GG402 GG302", lambda: mlp(64, 32, 10), body(scaled, digits, ce, 150), sgd(0.1))  # 2.34 -> 2.97e+03
loop("clipped before it is unscaled", "GG403", cnn, body(clipped_too_early, digits, ce, 200), sgd(0.1))  # 2.33 -> 2.34, H 2.30
loop("sixteen batches added up at the rate of one", "GG401 GG402 GG201 GG204 GG406", lambda: mlp(64, 32, 32, 10), body(accumulated, digits, ce, 480), sgd(0.5))  # 2.32 -> 2.3, H 2.30, peak 221
loop("a climb that is never taken back", "GG401 GG402", lambda: mlp(64, 32, 10), body(climbed, digits, ce, 200), sgd(0.05))  # 2.34 -> 62.4
loop("the loss in a new tensor", "GG303 GG403 GG113", lambda: mlp(30, 16, 2), body(wrapped, on("breast_cancer"), ce, 100), sgd(0.1))  # 0.675 -> 0.639, no weight moves
loop("the first weights are loaded after each step", "GG403 GG303 GG402", lambda: mlp(64, 32, 10), restored, adam(1e-3))  # 2.34 -> 2.33, H 2.30
loop("a game whose gradients are never cleared", "GG304", lambda: nn.ModuleDict({"g": mlp(4, 24, 2), "d": mlp(2, 24, 1)}), uncleared_game, lambda m: [torch.optim.Adam(m[k].parameters(), lr=1e-3) for k in "gd"], holds=lambda m: m, objective="adversarial")  # 1.29 -> 1.65, gradients of 100 steps added up
loop("an encoder whose optimizer is never stepped", "GG303", lambda: nn.ModuleDict({"encoder": mlp(64, 32, 4), "decoder": mlp(4, 32, 64)}), halves, lambda m: [torch.optim.Adam(m[k].parameters(), lr=1e-3) for k in ("encoder", "decoder")], holds=lambda m: m)  # 0.281 -> 0.0751, var 0.0735
loop("a head that came after the optimizer", "GG303", lambda: cnn(out=4), steps(digits, ce, 100), adam(3e-3), holds=headless)  # 2.31 -> 1.56, the head keeps its first weights
loop("only the gradients of the head are cleared", "GG304", lambda: mlp(64, 32, 32, 10), body(half_cleared, digits, ce, 150), sgd(0.05, 0.9))  # 2.32 -> 2.3, H 2.30, after a best of 0.99
loop("a transformer in eval mode after ten steps", "GG309", lambda: nn.Sequential(*patches()[:2], nn.Dropout(0.2), *patches()[2:]), steps(digits, ce, 120, before=lambda m, i: m.eval() if i == 10 else None), adam(3e-3))  # 2.42 -> 0.999, without its dropout
loop("a decay of the weights to a half on each step", "GG403 GG406 GG204 GG301 GG201", lambda: mlp(64, 32, 10), steps(digits, ce, 200, after=lambda m, i: [p.data.mul_(0.5) for p in m.parameters()]), sgd(0.05))  # 2.34 -> 2.3, H 2.30

# ---- NumPy: gradients by hand ----------------------------------------------------------------------------------------------------------


class Deep:
    """Sigmoid layers, the last one linear, softmax and cross-entropy; parameters ``w0``, ``b0`` and on."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def start(self) -> dict[str, Any]:
        r, sizes = np.random.default_rng(3), [64, *[32] * (self.depth - 1), 10]
        return {f"w{i}": r.normal(0, a**-0.5, (a, b)) for i, (a, b) in enumerate(pairwise(sizes))} | {f"b{i}": np.zeros(b) for i, b in enumerate(sizes[1:])}

    def layers(self, p: Any, x: Any) -> list[Any]:
        h = [x]
        for i in range(self.depth):
            z = h[-1] @ p[f"w{i}"] + p[f"b{i}"]
            h.append(z if i == self.depth - 1 else 1 / (1 + np.exp(-z)))
        return h

    def probabilities(self, p: Any, x: Any) -> Any:
        return softmax(self.layers(p, x)[-1])

    def loss(self, p: Any, batch: Any) -> Any:
        return -(batch[1] * np.log(self.probabilities(p, batch[0]))).sum(1).mean()

    def grad(self, p: Any, batch: Any) -> Any:
        h, g = self.layers(p, batch[0]), {}
        delta = (self.probabilities(p, batch[0]) - batch[1]) / len(batch[0])
        for i in reversed(range(self.depth)):
            g[f"w{i}"], g[f"b{i}"] = h[i].T @ delta, delta.sum(0)
            delta = delta @ p[f"w{i}"].T * h[i] * (1 - h[i])
        return g

    def activations(self, p: Any, batch: Any) -> Any:
        return {f"layer{i}": h for i, h in enumerate(self.layers(p, batch[0])[1:-1])}


class Line:
    """Linear regression on raw columns, with squares; the gradient may forget to divide by the rows."""

    def __init__(self, forgets: bool = False) -> None:
        self.forgets = forgets

    def loss(self, p: Any, batch: Any) -> Any:
        return np.mean((batch[0] @ p["w"] + p["b"] - batch[1]) ** 2)

    def grad(self, p: Any, batch: Any) -> Any:
        r = 2 * (batch[0] @ p["w"] + p["b"] - batch[1]) / (1 if self.forgets else len(batch[1]))
        return {"w": batch[0].T @ r, "b": r.sum(keepdims=True)}


def line_rows(scaled: bool) -> Callable[[int], list[Any]]:
    return numpy_floats(on("friedman", 64, scaled=scaled))


def wide() -> dict[str, Any]:
    r = np.random.default_rng(1)
    return {"w1": r.normal(0, 3.0, (64, 128)), "b1": np.zeros(128), "w2": r.normal(0, 3.0, (128, 10)), "b2": np.zeros(10)}


deep, line, hasty, relu = Deep(9), Line(), Line(True), Written("relu")
case("numpy with nine sigmoid layers", "GG301 GG406", deep.start, lambda s: digits_numpy(), deep.loss, gg.SGD(0.3), steps=200, grad=deep.grad, activations=deep.activations)  # 2.49 -> 2.31, H 2.30
case("numpy regression beyond its rate", "GG401 GG402 GG502", lambda: {"w": np.zeros(10), "b": np.zeros(1)}, line_rows(False), line.loss, gg.SGD(0.5), steps=100, grad=line.grad)  # 228 -> 7.2e+249
case("numpy gradient of a sum under a mean", "GG101 GG401 GG402", lambda: {"w": np.zeros(10), "b": np.zeros(1)}, line_rows(True), hasty.loss, gg.SGD(0.1), steps=100, grad=hasty.grad)  # 0.919 -> NaN
case("numpy weights of 3 and a plain logarithm", "GG302 GG404 GG203 GG503 GG401 GG402", wide, lambda s: digits_numpy(), relu.loss, gg.SGD(0.1), steps=200, grad=relu.grad, activations=relu.activations)  # NaN -> NaN, 0 * log 0 on most batches
