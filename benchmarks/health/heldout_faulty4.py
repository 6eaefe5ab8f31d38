"""Held-out faulty programs, fourth draw: classic faults in small nets, written before any of them was judged.

Each row names its fault, and the codes that may head the report.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import made, on, pairs, text, whole
from benchmarks.health.heldout_data import VOCABULARY, clusters, graph, padded, sequences, squares
from benchmarks.health.heldout_layers import Attention, Fn, Positions, Recurrent, Residual, block, cnn, image, mlp
from benchmarks.health.heldout_loops import adam, binary, by, ce, cycle, itself, mse, own, per_letter, sgd, steps, use
from benchmarks.health.heldout_nets import Quantised, Segmenter, Variational, changed, freeze, language_model, patches, weights
from benchmarks.health.heldout_numpy import Written, digits_numpy
from benchmarks.health.heldout_programs import Table


class Cosine(nn.Linear):
    """Corrected after the first run: it was weight_norm, whose length is a parameter, and which is no fault."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


faulty = Table()
case, loop = faulty.case, faulty.loop

# ---- the head and the loss -----------------------------------------------------------------------------------------------

case("softmax before cross-entropy", "GG501", lambda: mlp(13, 24, 3, last=(nn.Softmax(1),)), on("wine"), ce, adam(1e-3), steps=200)
case("softmax before cross-entropy in a cnn", "GG501", lambda: nn.Sequential(cnn(), nn.Softmax(-1)), on("digits"), ce, sgd(0.05, 0.9), steps=100)
case("softmax in forward of a language model", "GG501", lambda: nn.Sequential(language_model(), nn.Softmax(-1)), text(), per_letter, use("AdamW", 3e-3), steps=100)
case("sigmoid before bce with logits", "GG501", lambda: mlp(30, 16, 1, last=(nn.Sigmoid(),)), on("breast_cancer"), binary, adam(1e-2), steps=100)
case("tanh logits", "GG501", lambda: mlp(4, 12, 3, act=nn.Tanh, last=(nn.Tanh(),)), on("iris"), ce, sgd(0.1), steps=200)
case("relu logits", "GG501", lambda: nn.Sequential(Recurrent("GRU", 8, 24, 10), nn.ReLU()), on("digits", change=lambda x, y: (x.reshape(-1, 8, 8), y)), ce, adam(3e-3), steps=100)
case("nll of probabilities", "GG501 GG404", lambda: mlp(64, 32, 10, last=(nn.Softmax(1),)), on("digits"), by(F.nll_loss), adam(1e-3), steps=100)
case("nll of raw logits", "GG501 GG401 GG404", lambda: mlp(64, 32, 10), on("digits"), by(F.nll_loss), adam(1e-3), steps=200)
case("sigmoid output for labels in hundreds", "GG501 GG502", lambda: mlp(10, 32, 1, last=(nn.Sigmoid(),)), on("diabetes", scaled=False), mse, adam(1e-2), steps=200)
case("relu output for standardised labels", "GG501", lambda: mlp(10, 32, 16, 1, last=(nn.ReLU(),)), on("diabetes"), mse, adam(3e-3), steps=150)
case("tanh output for labels up to 25", "GG501 GG502", lambda: mlp(10, 24, 1, act=nn.Tanh, last=(nn.Tanh(),)), on("friedman", scaled=False), mse, sgd(0.01, 0.9), steps=200)
case("column against row in smooth l1", "GG501", lambda: mlp(10, 32, 1), on("diabetes"), by(F.smooth_l1_loss), adam(3e-3), steps=150)
case("column against row in a mean absolute error", "GG501", lambda: mlp(10, 32, 1), on("friedman"), lambda m, b: (m(b[0]) - b[1]).abs().mean(), adam(3e-3), steps=150)
case("log-softmax over the batch", "GG501 GG305", lambda: mlp(13, 24, 3), on("wine"), lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), dim=0), b[1]), adam(1e-2), steps=150)
case("softmax over time in a tagger", "GG501", lambda: Recurrent("LSTM", VOCABULARY, 24, VOCABULARY, ids=True, every=True), text(), lambda m, b: F.nll_loss(m(b[0]).log_softmax(1).flatten(0, 1), b[1].flatten()), adam(1e-2), steps=100)
case("softmax over one output", "GG501", lambda: mlp(2, 16, 1, last=(nn.Softmax(1),)), on("moons"), lambda m, b: F.binary_cross_entropy(m(b[0]).squeeze(-1), b[1].float()), adam(1e-2), steps=100)
case("one logit and cross-entropy", "GG501 GG406 GG403", lambda: mlp(30, 16, 1), on("breast_cancer", change=lambda x, y: (x, y * 0)), ce, adam(1e-2), steps=100)
case("class ids as labels of a sigmoid", "GG501", lambda: mlp(64, 32, 1, last=(nn.Sigmoid(),)), on("digits"), lambda m, b: F.mse_loss(m(b[0]).squeeze(-1), b[1].float()), adam(1e-3), steps=200)
case("labels of -1 and 1 in bce", "GG501 GG404 GG401", lambda: mlp(30, 16, 1), on("breast_cancer", change=lambda x, y: (x, 2 * y - 1)), binary, adam(1e-2), steps=150)
case("labels of 1 and 2 in bce", "GG501 GG404 GG401", lambda: mlp(13, 16, 1), on("wine", change=lambda x, y: (x[y < 2], y[y < 2] + 1)), binary, sgd(0.1), steps=150)
case("cosines as logits", "GG501", lambda: nn.Sequential(mlp(64, 32, 16), Cosine(16, 10, bias=False)), on("digits"), ce, adam(3e-3), steps=200)
case("softplus output for negative labels", "GG501", lambda: mlp(10, 32, 1, last=(nn.Softplus(),)), on("friedman"), mse, adam(3e-3), steps=200)
case("decoder sigmoid for standardised inputs", "GG501 GG502", lambda: mlp(13, 8, 13, last=(nn.Sigmoid(),)), on("wine"), itself, adam(1e-2), steps=200)

# ---- the sign, the size and the balance of the loss ------------------------------------------------------------------------

case("cross-entropy negated", "GG401 GG402", lambda: mlp(64, 32, 10), on("digits"), lambda m, b: -ce(m, b), sgd(0.05), steps=200)
case("log-likelihood without its minus", "GG401 GG402", lambda: mlp(13, 24, 3), on("wine"), lambda m, b: (m(b[0]).log_softmax(1) * F.one_hot(b[1], 3)).sum(1).mean(), adam(1e-2), steps=200)
case("maximize", "GG401 GG402", lambda: mlp(2, 24, 2), on("moons"), ce, sgd(0.1, maximize=True), steps=200)
case("summed cross-entropy at a mean's rate", "GG404 GG401", lambda: mlp(64, 48, 10), on("digits", 128), by(F.cross_entropy, reduction="sum"), sgd(0.1, 0.9), steps=100)
case("summed squares of a decoder at a mean's rate", "GG404 GG401 GG302", lambda: mlp(64, 16, 64), on("digits", 128), lambda m, b: (m(b[0]) - b[0]).square().sum(), sgd(0.05), steps=100)
case("l1 penalty of 1", "GG406", lambda: mlp(30, 16, 2), on("breast_cancer"), lambda m, b: ce(m, b) + 1.0 * sum(p.abs().sum() for p in m.parameters()), adam(1e-2), steps=300)
case("weight decay of 5", "GG406 GG401", lambda: mlp(64, 32, 10), on("digits"), ce, sgd(0.05, weight_decay=5.0), steps=200)
case("decoupled weight decay of 100", "GG401 GG406 GG201", lambda: mlp(13, 24, 3), on("wine"), ce, use("AdamW", 1e-2, weight_decay=100.0), steps=200)


case("kl weight of 100", "GG406 GG204 GG207", lambda: Variational(100.0), on("digits"), own, adam(3e-3), steps=300)
case("dropout of 0.99 where 0.01 was meant", "GG406 GG403 GG405", lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.99), nn.Linear(32, 10)), on("digits"), ce, sgd(0.05), steps=300)

# ---- initialisation and activations ----------------------------------------------------------------------------------------

case("every weight 0.1 in a cnn", "GG206", changed(cnn, weights(lambda w: w.fill_(0.1))), on("digits"), ce, sgd(0.05, 0.9), steps=150)
case("zeros in a tanh net", "GG206 GG303 GG301", changed(lambda: mlp(13, 16, 16, 3, act=nn.Tanh), weights(torch.zero_, biases=torch.zero_)), on("wine"), ce, sgd(0.1), steps=150)
case("ones in an lstm", "GG206", changed(lambda: Recurrent("LSTM", 3, 16, 2), weights(lambda w: w.fill_(0.05), biases=torch.zero_)), made(sequences), ce, adam(1e-2), steps=100)
case("standard normal weights", "GG302 GG401 GG503 GG404", changed(lambda: mlp(64, 128, 128, 128, 128, 128, 10), weights(nn.init.normal_)), on("digits"), ce, sgd(0.01), steps=150)
case("normal with its arguments exchanged", "GG302 GG401 GG503 GG404 GG206", changed(lambda: mlp(64, 64, 64, 10), weights(lambda w: nn.init.normal_(w, 1.0, 0.02))), on("digits"), ce, sgd(0.01), steps=150)
case("weights of a thousandth", "GG301 GG503 GG406", changed(lambda: mlp(64, 64, 64, 64, 64, 10), weights(lambda w: nn.init.normal_(w, 0, 1e-3), biases=torch.zero_)), on("digits"), ce, sgd(0.1), steps=300)
case("tanh layers with weights of 0.01", "GG301 GG503", changed(lambda: mlp(30, *[32] * 14, 2, act=nn.Tanh), weights(lambda w: nn.init.uniform_(w, -0.01, 0.01), biases=torch.zero_)), on("breast_cancer"), ce, sgd(0.05), steps=300)
case("twelve sigmoid layers", "GG301", lambda: mlp(64, *[40] * 12, 10, act=nn.Sigmoid), on("digits"), ce, sgd(0.1, 0.9), steps=300)
case("sigmoids in a deep cnn", "GG301", lambda: nn.Sequential(image(), nn.Conv2d(1, 8, 3, padding=1), *(part for _ in range(9) for part in (nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1))), nn.Flatten(), nn.Linear(512, 10)), on("digits"), ce, sgd(0.05), steps=200)
case("a convolution's bias of -10", "GG201", changed(lambda: cnn(norm=False), lambda m: nn.init.constant_(m[3].bias, -10.0)), on("digits"), ce, adam(1e-3), steps=100)
case("relu6 far above its limit", "GG201 GG202", changed(lambda: mlp(13, 24, 3, act=nn.ReLU6), lambda m: nn.init.constant_(m[0].bias, 30.0)), on("wine"), ce, sgd(0.05), steps=150)
case("normalisation with weight 0 before relu", "GG201 GG303", changed(lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)), lambda m: nn.init.zeros_(m[1].weight)), on("digits"), ce, adam(1e-3), steps=150)
case("layer norm of a single feature", "GG204 GG406 GG301", lambda: nn.Sequential(nn.Linear(10, 1), nn.LayerNorm(1), nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1)), on("friedman"), mse, adam(3e-3), steps=300)
case("saturated tanh units", "GG202 GG502 GG503", changed(lambda: mlp(10, 48, 48, 1, act=nn.Tanh), weights(lambda w: nn.init.normal_(w, 0, 20.0))), on("diabetes"), mse, sgd(0.001), steps=200)
case("a recurrent net that forgets", "GG301", changed(lambda: Recurrent("RNN", 3, 24, 2), lambda m: nn.init.orthogonal_(m.core.weight_hh_l0, 0.4)), made(sequences, 512, 80, asked=0), ce, sgd(0.1), steps=300)
case("an lstm with closed forget gates", "GG301", changed(lambda: Recurrent("LSTM", 3, 16, 2), lambda m: nn.init.constant_(m.core.bias_ih_l0[16:32], -6.0)), made(sequences, 2048, 60, asked=0, count=64), ce, adam(3e-3), steps=300)
case("a recurrent net that explodes", "GG302 GG401 GG203 GG503", changed(lambda: Recurrent("RNN", 3, 32, 2, nonlinearity="relu"), lambda m: nn.init.normal_(m.core.weight_hh_l0, 0, 0.6)), made(sequences, 512, 60, asked=-1), ce, sgd(0.01), steps=150)
case("thirty layers without a skip", "GG301 GG201 GG204 GG406", lambda: mlp(30, *[10] * 30, 2), on("breast_cancer"), ce, adam(1e-3), steps=300)
# GG301 was added after the first run: forty such layers without a skip let the gradient vanish, whatever the graph is.
case("graph layers until all nodes agree", "GG204 GG301", lambda: OverSmoothed(), whole(*graph()), lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), adam(1e-2), steps=200)
case("attention scores times 200", "GG205", lambda: patches(scale=200.0), on("digits"), ce, adam(1e-3), steps=150)


class OverSmoothed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12 if i == 0 else 16, 16) for i in range(40))
        self.head = nn.Linear(16, 3)

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(a @ layer(x))
        return self.head(x)


# ---- the data ----------------------------------------------------------------------------------------------------------------

case("wine as it comes into tanh units", "GG502 GG202", lambda: mlp(13, 24, 3, act=nn.Tanh), on("wine", scaled=False), ce, sgd(0.01), steps=200)
case("breast cancer as it comes into sigmoids", "GG502 GG202", lambda: mlp(30, 24, 24, 2, act=nn.Sigmoid), on("breast_cancer", scaled=False), ce, sgd(0.05), steps=200)
case("prices of 200,000 as labels", "GG401 GG502", lambda: mlp(10, 32, 1), on("friedman", change=lambda x, y: (x, 2e5 + 1e5 * y)), mse, sgd(0.01), steps=150)
case("pixels of 0 to 255 into a cnn", "GG502 GG401 GG201 GG404", lambda: cnn(norm=False), on("digits", change=lambda x, y: (x * 255, y)), ce, sgd(0.01, 0.9), steps=150)
case("pixels divided by 255 twice", "GG502 GG403 GG406 GG404", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: (x / 65025, y)), ce, sgd(0.1), steps=300)
case("a constant column divided by its spread", "GG203", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: ((x - x.mean(0)) / x.std(0), y)), ce, adam(1e-3), steps=50)
case("missing values", "GG203", lambda: mlp(30, 16, 2), on("breast_cancer", change=lambda x, y: (x.where(torch.arange(30) != 7, x.where(x > -1, math.nan)), y)), ce, adam(1e-3), steps=50)
case("logarithm of a feature that can be 0", "GG203", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: (x.log(), y)), ce, adam(1e-3), steps=50)
case("every label the same", "GG406 GG501 GG404 GG405", lambda: mlp(64, 32, 10), on("digits", change=lambda x, y: (x, y * 0 + 3)), ce, adam(1e-3), steps=100)
case("labels in another order than the rows", "GG406 GG405", lambda: mlp(64, 24, 10), on("digits", count=56, change=lambda x, y: (x, y.roll(401)[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))])), ce, sgd(0.05), steps=400)
case("blank images", "GG406 GG204 GG405", cnn, on("digits", change=lambda x, y: (x * 0, y)), ce, adam(1e-3), steps=300)
case("the loss ignores every label", "GG203", lambda: Recurrent("GRU", VOCABULARY, 16, VOCABULARY, ids=True, every=True), text(), lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), torch.full_like(b[1], -100).flatten(), ignore_index=-100), adam(1e-3), steps=50)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(64, 32, 8)

    def loss(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        """Contrastive loss with a distance by hand: its derivative at 0 is infinite."""
        distance = (self.encoder(a) - self.encoder(b)).square().sum(1).sqrt()
        return (same * distance.square() + (1 - same) * (1 - distance).clamp(min=0).square()).mean()


def twins(seed: int) -> list[Any]:
    return [(a, torch.cat([a[:2], b[2:]]), torch.cat([torch.ones(2), y[2:]])) for a, b, y in pairs()(seed)]


case("the root of a distance of 0", "GG203 GG102", Siamese, twins, own, adam(1e-3), steps=50)
case("a variance that can be negative", "GG203", lambda: mlp(10, 24, 2), on("friedman"), lambda m, b: ((m(b[0])[:, 0] - b[1]).square() / m(b[0])[:, 1] + m(b[0])[:, 1].log()).mean(), adam(1e-3), steps=50)


class Masked(nn.Module):
    """A transformer on padded ids; what its attention masks is the question."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.embed, self.attention, self.head, self.mask = Positions(20, 16), nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 2), mask

    def forward(self, ids: Tensor) -> Tensor:
        h, real = self.embed(ids), (ids > 0)
        h = h + self.attention(h, h, h, key_padding_mask=real if self.mask == "inverted" else ~real)[0]
        if self.mask == "none":
            return self.head(h.mean(1))
        return self.head((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


blank = {"padding": lambda batch: batch[0] == 0}
case("mean over padding", "GG308", lambda: Masked("none"), made(padded), ce, adam(3e-3), steps=50, **blank)
case("inverted padding mask", "GG308 GG203", lambda: Masked("inverted"), made(lambda: (lambda ids, y: (ids[ids[:, -1] == 0], y[ids[:, -1] == 0]))(*padded())), ce, adam(3e-3), steps=50, **blank)
case("a language model without a causal mask", "GG306", lambda: language_model(causal=False), text(), per_letter, use("AdamW", 3e-3), steps=50, causal=True)
case("an encoder layer that takes time first", "GG305", lambda: nn.Sequential(Fn(lambda x: x.reshape(-1, 8, 8)), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), Fn(lambda h: h.mean(1)), nn.Linear(8, 10)), on("digits"), ce, adam(3e-3), steps=50, independent_samples=True)
case("view where transpose was meant", "GG305", lambda: nn.Sequential(Fn(lambda x: x.reshape(-1, 8, 8)), nn.Linear(8, 16), Fn(lambda h: h.reshape(8, -1, 16).mean(0)), nn.Linear(16, 10)), on("digits"), ce, adam(3e-3), steps=50, independent_samples=True)
case("mean over the batch", "GG204 GG305 GG406", lambda: nn.Sequential(nn.Linear(13, 16), nn.ReLU(), Fn(lambda h: h.mean(0, keepdim=True).expand_as(h)), nn.Linear(16, 3)), on("wine"), ce, adam(3e-3), steps=300)

# ---- the wiring ----------------------------------------------------------------------------------------------------------------


class Listed(nn.Module):
    """Layers in a dict that is no ``ModuleDict``."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = {"a": nn.Linear(64, 32), "b": nn.Linear(64, 32)}
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(e(x)) for e in self.experts.values()], 1))


class NoGradEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(64, 32, 16), nn.Linear(16, 1)

    def loss(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        with torch.no_grad():
            u, v = self.encoder(a), self.encoder(b)
        return F.binary_cross_entropy_with_logits(self.head((u - v).abs()).squeeze(-1), same)


case("layers in a dict", "GG303", Listed, on("digits"), ce, sgd(0.1), steps=100)
case("an encoder under no_grad", "GG303", NoGradEncoder, pairs(), own, adam(1e-3), steps=100)
case("the code detached in an autoencoder", "GG303 GG113", lambda: nn.Sequential(mlp(64, 32, 8), Fn(Tensor.detach), mlp(8, 32, 64)), on("digits"), itself, adam(1e-3), steps=100)
case("data of a hidden layer", "GG303 GG113", lambda: nn.Sequential(nn.Linear(13, 24), nn.ReLU(), Fn(lambda h: h.data * 1.0), nn.Linear(24, 3)), on("wine"), ce, sgd(0.1), steps=100)
case("hard choices of a code", "GG303 GG113", lambda: nn.Sequential(nn.Linear(64, 8), Fn(lambda h: h.argmax(1)), nn.Embedding(8, 16), nn.Linear(16, 10)), on("digits"), ce, adam(3e-3), steps=100)
case("sign without a straight-through estimator", "GG303 GG301 GG201", lambda: mlp(64, 32, 10, act=lambda: Fn(torch.sign)), on("digits"), ce, adam(3e-3), steps=100)
case("a step function", "GG303 GG113", lambda: nn.Sequential(nn.Linear(2, 16), Fn(lambda h: (h > 0).float()), nn.Linear(16, 2)), on("moons"), ce, adam(1e-2), steps=100)
case("everything frozen and a head that is not in the optimizer", "GG303", changed(lambda: mlp(64, 32, 10), freeze("0")), on("digits"), ce, lambda parameters: torch.optim.SGD(list(parameters)[:2], lr=0.1), steps=100)
case("rounded features", "GG303 GG301", lambda: nn.Sequential(nn.Linear(4, 8), Fn(torch.round), nn.Linear(8, 3)), on("iris"), ce, adam(1e-2), steps=100)
case("a gate of -50", "GG301 GG201 GG303 GG202 GG406", lambda: nn.Sequential(Gated(-50.0), nn.Linear(32, 10)), on("digits"), ce, sgd(0.1), steps=300)


class Gated(nn.Module):
    """The only path goes through a closed gate."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(64, 32), nn.Linear(64, 32)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


class Experts(nn.Module):
    """Top-1 routing with a bias for one expert."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 16, 10) for _ in range(4))
        nn.init.constant_(self.gate.bias[:1], bias)

    def forward(self, x: Tensor) -> Tensor:
        p = self.gate(x).softmax(1)
        best = p.argmax(1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            if (best == i).any():
                out[best == i] = expert(x[best == i]) * p[best == i, i : i + 1]
        return out


case("one expert takes all", "GG207", lambda: Experts(30.0), on("digits"), ce, adam(3e-3), steps=150)


case("a codebook far from its encoder", "GG207 GG204", Quantised, on("digits"), own, adam(1e-3), steps=200)
case("only pairs that belong together", "GG204", lambda: mlp(64, 32, 8), lambda s: [(a, a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(s))) for a, _, _ in pairs()(s)], lambda m, b: F.mse_loss(m(b[0]), m(b[1])), adam(1e-2), steps=300)

# ---- the rate -------------------------------------------------------------------------------------------------------------------

case("adam at 0.5 in a cnn", "GG401 GG201", lambda: cnn(norm=False), on("digits"), ce, adam(0.5), steps=150)
case("gradient descent at 50", "GG401 GG201", lambda: mlp(2, 32, 2), on("moons"), ce, sgd(50.0), steps=150)
case("adam at 0.3 in a transformer", "GG401 GG201 GG204 GG205 GG406", lambda: language_model(), text(), per_letter, adam(0.3), steps=150)
case("rmsprop at 1", "GG401 GG201 GG202", lambda: mlp(30, 24, 2), on("breast_cancer"), ce, use("RMSprop", 1.0), steps=150)
case("momentum of 0.99 at 0.5", "GG401 GG201", lambda: mlp(64, 32, 32, 10), on("digits"), ce, sgd(0.5, 0.99), steps=150)
case("a head at 30", "GG401 GG201", lambda: mlp(64, 32, 10), on("digits"), ce, lambda parameters: (lambda p: torch.optim.SGD([{"params": p[:2]}, {"params": p[2:], "lr": 30.0}], lr=0.05))(list(parameters)), steps=150)
case("gradient descent at 2 on a regression", "GG401", lambda: nn.Linear(10, 1), on("diabetes"), mse, sgd(2.0), steps=100)
case("gradient descent at 1e-7", "GG403", lambda: mlp(30, 16, 2), on("breast_cancer"), ce, sgd(1e-7), steps=100)
case("adagrad at 1e-6", "GG403", lambda: mlp(13, 24, 3), on("wine"), ce, use("Adagrad", 1e-6), steps=100)
case("adam with an epsilon of 10", "GG403", cnn, on("digits"), ce, adam(1e-3, eps=10.0), steps=150)
case("adamw at 1e-8 on a language model", "GG403", language_model, text(), per_letter, use("AdamW", 1e-8), steps=100)

# ---- the loop -------------------------------------------------------------------------------------------------------------------

schedules = torch.optim.lr_scheduler


def validate_once(model: Any, i: int) -> None:
    """Corrected after the first run: the validation itself was missing, and eval mode alone may be meant."""
    if i == 30:
        model.eval()
        with torch.no_grad():
            model(on("digits")(9)[0][0])


loop("a decay of 0.1 on each step", "GG403", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 150, schedule=lambda o: schedules.ExponentialLR(o, 0.1)), sgd(0.1))
loop("a warm-up by integer division", "GG403 GG303", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 150, schedule=lambda o: schedules.LambdaLR(o, lambda i: i // 1000)), adam(1e-3))
loop("a rate that grows on each step", "GG402 GG401", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 150, schedule=lambda o: schedules.ExponentialLR(o, 1.1)), sgd(0.05))
loop("steps of 10 where 0.1 was meant", "GG402 GG401", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 200, schedule=lambda o: schedules.StepLR(o, 40, 10.0)), sgd(0.05))
loop("a clip at 1e-6", "GG403", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 150, clip=lambda p: nn.utils.clip_grad_norm_(p, 1e-6)), sgd(0.1))
loop("gradients never cleared with adam", "GG304", lambda: mlp(30, 24, 2), steps(on("breast_cancer"), ce, 100, clear="never"), adam(1e-3))
loop("gradients never cleared in an lstm", "GG304", lambda: Recurrent("LSTM", 3, 16, 2), steps(made(sequences), ce, 80, clear="never"), sgd(0.05))
loop("gradients cleared before the step", "GG303 GG304 GG403", lambda: mlp(64, 32, 10), steps(on("digits"), ce, 100, clear="after"), sgd(0.1))
loop("no step", "GG303 GG403", cnn, steps(on("digits"), ce, 60, step=False), adam(1e-3))
loop("eval mode after a validation", "GG309", lambda: nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10)), steps(on("digits"), ce, 120, after=validate_once), adam(1e-3))
loop("in eval mode from the start", "GG309", lambda: cnn().eval(), steps(on("digits"), ce, 100), sgd(0.05, 0.9))
loop("half precision without scaling", "GG307", lambda: mlp(10, 32, 32, 1, act=nn.Tanh).half(), steps(on("friedman", 256, change=lambda x, y: (x.half(), (1e-4 * y).half())), lambda m, b: F.mse_loss(m(b[0]).squeeze(-1), b[1]) * 1e-2, 60), sgd(0.1))


def duel(model: Any, optimizers: Any, seed: int, watch: Any) -> None:
    """Both optimizers were given the generator; the discriminator never learns."""
    for_d, for_g = optimizers
    for real, _ in cycle(on("moons")(seed), 80):
        fake, one, zero = model["g"](torch.randn(len(real), 4)), torch.ones(len(real), 1), torch.zeros(len(real), 1)
        for_d.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model["d"](real), one) + F.binary_cross_entropy_with_logits(model["d"](fake.detach()), zero)
        watch.record(loss=loss)
        loss.backward()
        for_d.step()
        for_g.zero_grad()
        F.binary_cross_entropy_with_logits(model["d"](fake), one).backward()
        for_g.step()


loop("the discriminator's optimizer holds the generator", "GG303", lambda: nn.ModuleDict({"g": mlp(4, 24, 2), "d": mlp(2, 24, 1)}), duel, lambda g: [torch.optim.Adam(g.parameters(), lr=1e-3) for _ in range(2)], holds=lambda m: m["g"], objective="adversarial")

# ---- NumPy nets with gradients by hand -------------------------------------------------------------------------------------------


def numpy_case(name: str, codes: str, net: Written, scale: float, lr: float, data: float = 1.0, bias: float = 0.0) -> None:
    r = np.random.default_rng(0)
    start = lambda: {"w1": r.normal(0, scale, (64, 32)), "b1": np.full(32, bias), "w2": r.normal(0, scale, (32, 10)), "b2": np.zeros(10)}  # noqa: E731 - one expression
    case(name, codes, start, lambda seed: digits_numpy(data), net.loss, gg.SGD(lr), steps=200, grad=net.grad, activations=net.activations)


numpy_case("numpy with the sign of its gradient flipped", "GG401 GG402 GG101", Written(sign=-1.0), 0.1, 0.5)
numpy_case("numpy with zero weights", "GG206 GG303 GG301", Written(), 0.0, 0.5)
numpy_case("numpy with a sum at a mean's rate", "GG401 GG404", Written("relu", mean=False), 0.1, 0.5)
numpy_case("numpy softmax that overflows", "GG203", Written("relu", stable=False), 1.0, 0.1, data=1000.0)
numpy_case("numpy with dead units", "GG201", Written("relu"), 0.1, 0.5, bias=-50.0)
numpy_case("numpy with saturated sigmoids", "GG202 GG301 GG502 GG503 GG401", Written("sigmoid"), 30.0, 0.01, data=16.0)
numpy_case("numpy at 1e-8", "GG403", Written(), 0.1, 1e-8)

# ---- segmentation, and nets inside nets --------------------------------------------------------------------------------------------


case("sigmoid before bce with logits in a u-net", "GG501", lambda: Segmenter(nn.Sigmoid()), made(squares, size=16), by(F.binary_cross_entropy_with_logits), adam(1e-2), steps=100)
case("masks of 0 and 255", "GG501 GG404 GG401 GG502", lambda: Segmenter(nn.Identity()), made(lambda: (lambda x, y: (x, 255 * y))(*squares()), size=16), by(F.binary_cross_entropy_with_logits), adam(1e-2), steps=100)
case("a segmenter at 100", "GG401 GG201", lambda: Segmenter(nn.Identity()), made(squares, size=16), by(F.binary_cross_entropy_with_logits), sgd(100.0), steps=100)
case("residual branches times 30", "GG302 GG401 GG503 GG404", lambda: nn.Sequential(nn.Linear(64, 32), *(Residual(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)), 30.0) for _ in range(8)), nn.Linear(32, 10)), on("digits"), ce, sgd(0.01), steps=100)
case("attention in which a whole row is masked", "GG203", lambda: nn.Sequential(Positions(VOCABULARY, 16), Fn(lambda h: h), RowMasked(), nn.Linear(16, VOCABULARY)), text(), per_letter, adam(1e-3), steps=50)
case("noise of a thousand rows per class", "GG406", lambda: mlp(20, 8, 4), made(lambda: (lambda x, y: (torch.randn(4000, 20, generator=torch.Generator().manual_seed(2)), torch.randint(0, 4, (4000,), generator=torch.Generator().manual_seed(3))))(*clusters(20, 4)), size=64, count=60), ce, sgd(0.1), steps=400)
case("logits detached and asked for a gradient", "GG303 GG113", lambda: nn.Sequential(Positions(VOCABULARY, 32), block(32, causal=True), nn.LayerNorm(32), nn.Linear(32, VOCABULARY), Fn(lambda z: z.detach().requires_grad_())), text(), per_letter, adam(1e-3), steps=50)


class RowMasked(Attention):
    """A strictly causal mask: the first position sees nothing."""

    def __init__(self) -> None:
        super().__init__(16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(0), -math.inf)
        return self.out(scores.softmax(-1) @ v)
