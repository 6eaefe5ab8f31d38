"""Held-out faulty programs, sixth draw: the faults that people report most, written before any of them was judged.

Each row names its fault and the codes that may head the report. Behind it stands what plain training did in 300 steps or
the row's own loop with seed 0: first loss -> mean of the last 24, and the entropy (H) or variance (var) of the labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import made, on, text
from benchmarks.health.heldout_data import VOCABULARY, bags, blobs, houses, reviews, rings, sequences, series, waves
from benchmarks.health.heldout_layers import Fn, Recurrent, mlp
from benchmarks.health.heldout_loops import adam, by, ce, cycle, mse, per_letter, sgd, steps, use
from benchmarks.health.heldout_nets import changed, forecaster, patches, signal_net, weights
from benchmarks.health.heldout_numpy import Written, digits_numpy
from benchmarks.health.heldout_programs import Batch, Body, Data, Table

faulty = Table()
case, loop = faulty.case, faulty.loop
schedules = torch.optim.lr_scheduler

# ---- data of this draw ------------------------------------------------------------------------------------------------------

signals, homes, raw_homes, windows = made(waves), made(houses), made(houses, scaled=False), made(series)

# ---- rates ----------------------------------------------------------------------------------------------------------------------

case("adam at 1 over signals", "GG401 GG201 GG204 GG402", lambda: signal_net(3), signals, ce, adam(1.0), steps=200)  # 1.12 -> 1.23, H 1.1, acc 0.34
case("momentum at 3 on two rings", "GG401 GG201 GG402", lambda: mlp(2, 32, 32, 2), made(rings), ce, sgd(3.0, 0.9), steps=200)  # 0.69 -> 0.827, H 0.693, acc 0.51
case("rmsprop at 0.5 on letters", "GG401 GG202 GG204 GG402 GG406", lambda: Recurrent("GRU", VOCABULARY, 32, VOCABULARY, ids=True, every=True), text(), per_letter, use("RMSprop", 0.5), steps=100)  # 3.14 -> 5.64, H 2.74, acc 0.41
case("gradient descent at 1e-6 on a forecast", "GG403 GG406", lambda: forecaster("LSTM"), windows, mse, sgd(1e-6), steps=200)  # 0.544 -> 0.596, var 0.65

# ---- heads, axes and shapes -------------------------------------------------------------------------------------------------------

case("softmax in a signal net and cross-entropy", "GG501", lambda: signal_net(last=(nn.Softmax(1),)), signals, ce, sgd(0.05, 0.9), steps=200)  # 1.09 -> 0.553, H 1.1, acc 1.00, cannot fall below 0.551
case("softmax twice and then a logarithm", "GG501", lambda: nn.Sequential(nn.EmbeddingBag(50, 16), nn.Linear(16, 2), nn.Softmax(1)), made(reviews), lambda m, b: F.nll_loss(m(b[0]).softmax(1).log(), b[1]), adam(1e-2), steps=200)  # 0.689 -> 0.341, H 0.649, acc 1.00, cannot fall below 0.313
case("sigmoids before the cross-entropy of five classes", "GG501", lambda: mlp(6, 24, 5, last=(nn.Sigmoid(),)), made(blobs), ce, sgd(0.1), steps=200)  # 1.65 -> 1.01, H 1.61, acc 1.00, cannot fall below 0.905
case("a forecast that cannot be negative", "GG501 GG201", lambda: nn.Sequential(forecaster(), nn.ReLU()), windows, mse, adam(3e-3), steps=200)  # 0.578 -> 0.649, var 0.65, no negative value is in reach
case("a decoder's sigmoid for grey levels of 0 to 255", "GG501 GG502", lambda: mlp(64, 24, 8, 24, 64, last=(nn.Sigmoid(),)), on("digits"), lambda m, b: F.mse_loss(m(b[0]), 255 * b[0]), adam(1e-3), steps=200)  # 1.58e+04 -> 1.51e+04, a constant per pixel has 4770
case("a forecast as a column against a row", "GG501", forecaster, windows, by(F.mse_loss), adam(3e-3), steps=200)  # 0.691 -> 0.649, var 0.65, no better than a constant
case("an lstm that takes time first", "GG305", lambda: Timely(), made(sequences, 512, 20), ce, adam(3e-3), steps=200, independent_samples=True)  # 0.698 -> 0.059, H 0.693, acc 0.98, samples depend on each other
case("ids divided by their number and cast again", "GG204 GG406 GG405", lambda: nn.Sequential(Fn(lambda x: (x / 50).long()), nn.Embedding(50, 16), Fn(lambda h: h.mean(1)), nn.Linear(16, 2)), made(reviews), ce, adam(3e-3), steps=300)  # 0.706 -> 0.65, H 0.649, acc 0.65


class Timely(nn.Module):
    """The forgotten ``batch_first``: the recurrence runs over the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.head = nn.LSTM(3, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x)[0][:, -1])


# ---- data and labels ---------------------------------------------------------------------------------------------------------------


def apart(seed: int) -> list[Batch]:
    """Inputs and labels are each shuffled on their own."""
    x, y = blobs()
    g = torch.Generator().manual_seed(seed)
    return [(x[torch.randperm(len(x), generator=g)[:48]], y[torch.randperm(len(x), generator=g)[:48]]) for _ in range(300)]


case("inputs and labels shuffled apart", "GG406 GG405", lambda: mlp(6, 16, 5), apart, ce, adam(3e-3), steps=300)  # 1.59 -> 1.61, H 1.61, acc 0.22
case("a table of houses as it comes", "GG502 GG401 GG402 GG404", lambda: mlp(4, 16, 1), raw_homes, mse, sgd(1e-3), steps=100)  # 6.44e+04 -> 4.92e+10, var 1.6e+04
case("years and areas beside standardised prices", "GG502 GG202 GG404 GG401", lambda: mlp(4, 32, 32, 1, act=nn.Tanh), made(lambda: (houses(scaled=False)[0], houses()[1])), mse, sgd(0.01), steps=300)  # 1.15 -> 0.991, var 0.986

# ---- units and initial weights -----------------------------------------------------------------------------------------------------

case("units that a rate of 0.7 has killed in a regression", "GG401 GG201 GG402 GG204", lambda: mlp(4, 48, 48, 1), homes, mse, sgd(0.7), steps=200)  # 0.955 -> 1.05, var 0.986
case("uniform weights in sigmoid units", "GG202 GG503 GG301 GG404 GG204", changed(lambda: mlp(64, 64, 64, 10, act=nn.Sigmoid), weights(lambda w: w.uniform_(0, 1))), on("digits"), ce, sgd(0.05), steps=300)  # 3.87 -> 2.33, H 2.3, acc 0.09
case("a bias of -4 in each layer over signals", "GG201 GG303 GG301", changed(lambda: signal_net(3), weights(lambda w: w, biases=lambda b: b.fill_(-4.0))), signals, ce, adam(1e-3), steps=300)  # 1.1 -> 1.1, H 1.1, acc 0.33
case("one number for all weights on two rings", "GG206 GG406", changed(lambda: mlp(2, 32, 32, 2), weights(lambda w: w.fill_(0.2), biases=torch.zero_)), made(rings), ce, sgd(0.05, 0.9), steps=200)  # 0.693 -> 0.589, H 0.693, acc 0.65, one unit 32 times over
case("normal weights in a plain deep net", "GG302 GG503 GG404 GG401 GG402", changed(lambda: mlp(6, *[48] * 9, 5), weights(lambda w: w.normal_(), biases=torch.zero_)), made(blobs), ce, sgd(1e-3), steps=200)  # 4.12e+06 -> NaN, H 1.61, acc 0.19

# ---- depth and time ------------------------------------------------------------------------------------------------------------------

case("twenty tanh layers as they come", "GG301 GG503 GG204 GG406", lambda: mlp(64, *[32] * 20, 10, act=nn.Tanh), on("digits"), ce, sgd(0.05), steps=300)  # 2.31 -> 2.3, H 2.3, acc 0.13
case("sixteen convolutions without a skip", "GG301 GG204 GG406 GG201", lambda: signal_net(16, width=8), signals, ce, sgd(0.05, 0.9), steps=200)  # 1.09 -> 1.1, H 1.1, acc 0.34
case("a tanh recurrence asked for its first input", "GG301 GG406", lambda: Recurrent("RNN", 3, 24, 2), made(sequences, 2048, 80, asked=0, count=64), ce, sgd(0.1), steps=300)  # 0.714 -> 0.692, H 0.693, acc 0.54
case("a relu recurrence of gain 2", "GG302 GG401 GG402 GG203 GG503 GG404", changed(lambda: forecaster("RNN", nonlinearity="relu"), lambda m: nn.init.orthogonal_(m.core.weight_hh_l0, 2.0)), made(series, 480, 48), mse, sgd(0.01), steps=100)  # 3.63e+13 -> NaN, var 0.62

# ---- penalties, noise and reductions --------------------------------------------------------------------------------------------------

case("adam with a weight decay of 1", "GG406 GG204 GG201 GG301", lambda: signal_net(3), signals, ce, adam(3e-3, weight_decay=1.0), steps=300)  # 1.12 -> 1.1, H 1.1, acc 0.33
case("dropout of 0.95 on each of three layers", "GG406 GG405 GG403", lambda: nn.Sequential(*(p for a in (64, 48, 48) for p in (nn.Linear(a, 48), nn.ReLU(), nn.Dropout(0.95))), nn.Linear(48, 10)), on("digits"), ce, adam(1e-3), steps=300)  # 3.06 -> 2.32, H 2.3, acc 0.10
case("summed squares of a forecast at a mean's rate", "GG404 GG401 GG402 GG302", lambda: forecaster("RNN"), made(series, size=64), lambda m, b: F.mse_loss(m(b[0]).squeeze(-1), b[1], reduction="sum"), sgd(0.1), steps=100)  # 34.8 -> NaN, var 0.648
case("a loss divided by the size of the data set", "GG403 GG404 GG406", lambda: mlp(6, 24, 5), made(blobs), lambda m, b: ce(m, b) / 60000, sgd(0.1), steps=300)  # 2.97e-05 -> 2.96e-05, H 1.61, acc 0.01, hardly a weight moves

# ---- values that are no numbers ---------------------------------------------------------------------------------------------------------


class Spread(nn.Module):
    """Mean and spread of each row's features; of an empty document all are 0, and the root there has no slope."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(30, 24, bias=False), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x).tanh()
        return self.head(torch.stack([h.mean(1), h.var(1).sqrt()], 1))


case("logarithm of one plus a negative forecast", "GG203 GG402 GG501", lambda: mlp(4, 24, 1), made(lambda: (houses()[0], houses()[1].exp())), lambda m, b: ((1 + 10 * m(b[0]).squeeze(-1)).log() - (1 + b[1]).log()).square().mean(), adam(1e-2), steps=50)  # NaN -> NaN, var 1.98
case("shares of words in empty documents", "GG203", lambda: nn.Sequential(Fn(lambda x: x / x.sum(1, keepdim=True)), mlp(30, 16, 2)), made(bags), ce, adam(3e-3), steps=50)  # NaN -> NaN, H 0.681, acc 0.58
case("the spread of a document without words", "GG102 GG203", Spread, made(bags), ce, adam(1e-2), steps=50)  # 0.731 -> NaN, H 0.681, acc 0.58

# ---- cuts and forgotten parameters --------------------------------------------------------------------------------------------------------


class Cut(nn.Module):
    """A recurrence by hand that detaches its state at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h.detach())
        return self.head(h)


def wrong_share(model: Any, batch: Batch) -> Tensor:
    """The share of wrong answers, made to require a gradient so that ``backward`` does not complain."""
    return (model(batch[0]).argmax(1) != batch[1]).float().mean().requires_grad_()


case("a state that is detached at each step", "GG113 GG301 GG406 GG303", Cut, made(sequences, 4096, 12, asked=0, count=128), ce, adam(3e-3), steps=200)  # 0.695 -> 0.693, H 0.693, acc 0.56, no gradient through time
loop("the share of wrong answers as the loss", "GG303 GG403", lambda: mlp(6, 24, 5), steps(made(blobs), wrong_share, 100), adam(1e-2))  # 1 -> 0.993, no weight moves
loop("an optimizer of a copy", "GG303 GG403", lambda: signal_net(), steps(signals, ce, 100), adam(3e-3), holds=lambda m: copy.deepcopy(m).parameters())  # 1.08 -> 1.09, no weight moves

# ---- loops ---------------------------------------------------------------------------------------------------------------------------------


def once_an_epoch(data: Data, loss: Any, count: int, epoch: int) -> Body:
    """Gradients are cleared at the beginning of an epoch only."""

    def body(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        for i, batch in enumerate(cycle(data(seed), count)):
            if i % epoch == 0:
                optimizer.zero_grad()
            value = loss(model, batch)
            watch.record(loss=value)
            value.backward()
            optimizer.step()

    return body


def out_of_order(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Clear, step, and only then the backward pass."""
    for batch in cycle(homes(seed), 150):
        value = mse(model, batch)
        watch.record(loss=value)
        optimizer.zero_grad()
        optimizer.step()
        value.backward()


def measured(model: Any, i: int) -> None:
    """The accuracy is measured after each epoch of 15 steps, and the mode is never set back."""
    if i % 15 == 14:
        model.eval()


loop("gradients cleared once an epoch", "GG304 GG401 GG402", lambda: mlp(6, 24, 24, 5), once_an_epoch(made(blobs), ce, 200, 100), sgd(0.1, 0.9))  # 1.6 -> 334, gradients of 100 steps added up
loop("a step before the backward pass", "GG303 GG403 GG304", lambda: mlp(4, 24, 1), out_of_order, sgd(0.05))  # 1.14 -> 1.29, no weight moves
loop("evaluation mode after the first epoch", "GG309", lambda: signal_net(norm=True), steps(signals, ce, 120, after=measured), adam(3e-3))  # 1.05 -> 0.0234, without the statistics of its batches
loop("a warm-up of a hundred thousand steps", "GG403", lambda: patches(), steps(on("digits"), ce, 200, schedule=lambda o: schedules.LambdaLR(o, lambda i: min(1.0, i / 1e5))), adam(1e-3))  # 2.28 -> 2.33
loop("one cycle up to 30", "GG401 GG402 GG201", lambda: mlp(6, 32, 32, 5), steps(made(blobs), ce, 200, schedule=lambda o: schedules.OneCycleLR(o, 30.0, 200)), sgd(0.1, 0.9))  # 1.62 -> 2.14
loop("a rate that is halved on each batch", "GG403", lambda: signal_net(norm=True), steps(signals, ce, 200, schedule=lambda o: schedules.StepLR(o, 1, 0.5)), sgd(0.01))  # 1.05 -> 1.04

# ---- NumPy: gradients by hand -----------------------------------------------------------------------------------------------------------------


def numpy_net(draw: Callable[[Any, tuple[int, int]], Any]) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        r = np.random.default_rng(7)
        return {"w1": draw(r, (64, 32)), "b1": np.zeros(32), "w2": draw(r, (32, 10)), "b2": np.zeros(10)}

    return build


plain = Written("relu")
case("numpy with one number for all weights", "GG206", numpy_net(lambda r, shape: np.full(shape, 0.1)), lambda s: digits_numpy(), plain.loss, gg.SGD(0.1), steps=200, grad=plain.grad, activations=plain.activations)  # 2.3 -> 2.34, one unit 32 times over
case("numpy at a rate of 20", "GG401 GG402 GG201", numpy_net(lambda r, shape: r.normal(0, (2 / shape[0]) ** 0.5, shape)), lambda s: digits_numpy(), plain.loss, gg.SGD(20.0), steps=100, grad=plain.grad, activations=plain.activations)  # 2.4 -> 2.84
