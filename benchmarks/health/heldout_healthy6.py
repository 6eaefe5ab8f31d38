"""Held-out healthy programs, sixth draw: ordinary good programs, and some that look suspicious; written before any was judged.

Behind each row stands what plain training did in 300 steps, or the row's own loop, with seed 0: first loss -> mean of the
last 24, the entropy (H) or variance (var) of the labels, and the accuracy.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

import gradguard as gg
from benchmarks.health.heldout_batches import made, on, rows, text, whole
from benchmarks.health.heldout_data import VOCABULARY, bags, blobs, graph, houses, reviews, rings, series, squares, table, waves
from benchmarks.health.heldout_layers import Fn, Positions, Recurrent, Residual, block, image, mlp
from benchmarks.health.heldout_loops import adam, binary, by, ce, cycle, learn, mse, own, per_letter, sgd, steps, trained, use
from benchmarks.health.heldout_nets import forecaster, signal_net
from benchmarks.health.heldout_numpy import Written, digits_numpy, numpy_floats
from benchmarks.health.heldout_programs import Batch, HealthyTable

healthy = HealthyTable()
case, loop = healthy.case, healthy.loop
schedules = torch.optim.lr_scheduler

digits, cancer = on("digits"), on("breast_cancer")
signals, homes, windows, opinions, clouds = made(waves), made(houses), made(series), made(reviews), made(blobs)

# ---- tables -----------------------------------------------------------------------------------------------------------------


class Columns(nn.Module):
    """Number of rooms and decade as embeddings, beside the columns that are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms, self.decade, self.net = nn.Embedding(9, 4), nn.Embedding(13, 4), mlp(10, 32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.stack([(x[:, 1] - 140) / 64, (x[:, 3] - 15) / 9], 1)
        return self.net(torch.cat([self.rooms(x[:, 0].long()), self.decade(((x[:, 2] - 1900) / 10).long()), numbers], 1))


class Pairwise(nn.Module):
    """A factorisation machine: a line, and products of the words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.vectors = nn.Linear(30, 1), nn.Parameter(0.05 * torch.randn(30, 4))

    def forward(self, x: Tensor) -> Tensor:
        products = (x @ self.vectors).square() - x.square() @ self.vectors.square()
        return self.line(x) + 0.5 * products.sum(1, keepdim=True)


def rare(n: int = 960) -> Batch:
    """One row in twenty belongs to class 1."""
    g = torch.Generator().manual_seed(71)
    y = (torch.rand(n, generator=g) < 0.05).long()
    return torch.randn(n, 8, generator=g) + 1.5 * y[:, None] * torch.tensor([1.0, -1.0] * 4), y


def several(n: int = 480) -> Batch:
    """Four labels at once, each the sign of its own sum of columns."""
    g = torch.Generator().manual_seed(72)
    x = torch.randn(n, 12, generator=g)
    return x, (x @ torch.randn(12, 4, generator=g) > 0).float()


def informed() -> nn.Sequential:
    """The last bias is the logarithm of the odds of a rare class."""
    model = mlp(8, 24, 1)
    nn.init.constant_(model[2].bias, math.log(0.05 / 0.95))
    return model


case("a relu net on five clouds", lambda: mlp(6, 32, 32, 5), clouds, ce, adam(1e-3), steps=100)  # 1.62 -> 0.0121, H 1.61, acc 1.00
case("a line through the prices of houses", lambda: nn.Linear(4, 1), homes, mse, sgd(0.05), steps=100)  # 0.893 -> 0.0132, var 0.986
case("a logistic regression on tumours", lambda: nn.Linear(30, 1), cancer, binary, sgd(0.1), steps=100)  # 0.652 -> 0.0729, H 0.66
case("prices in a net of tanh units", lambda: mlp(4, 32, 32, 1, act=nn.Tanh), homes, mse, adam(3e-3), steps=100)  # 0.846 -> 0.0169, var 0.986
case("embeddings of categories beside numbers", Columns, made(lambda: (houses(scaled=False)[0], houses()[1])), mse, adam(3e-3), steps=100)  # 0.859 -> 0.0121, var 0.986
case("logarithms of prices and absolute errors", lambda: mlp(4, 24, 1), made(lambda: (lambda x, y: (x, y.log() - 5.5))(houses()[0], houses(scaled=False)[1])), lambda m, b: F.l1_loss(m(b[0]).squeeze(-1), b[1]), adam(3e-3), steps=100)  # 0.715 -> 0.0429, var 0.17
case("iris as it comes", lambda: mlp(4, 16, 3), on("iris", scaled=False), ce, adam(1e-2), steps=100)  # 1.39 -> 0.0811, H 1.1, acc 0.98
case("a factorisation machine on counts", Pairwise, made(bags), binary, adam(1e-2), steps=100)  # 0.686 -> 0.0514, H 0.681
case("a rare class with weights of 1 and 19", lambda: mlp(8, 24, 2), made(rare), lambda m, b: F.cross_entropy(m(b[0]), b[1], weight=torch.tensor([1.0, 19.0])), adam(3e-3), steps=100)  # 0.985 -> 0.0261, H 0.144, acc 0.99
case("a head that begins at the odds of a rare class", informed, made(rare), binary, adam(3e-3), steps=100)  # 0.227 -> 0.0116, H 0.144
case("four labels at once", lambda: mlp(12, 32, 4), made(several), by(F.binary_cross_entropy_with_logits), adam(3e-3), steps=100)  # 0.723 -> 0.107, var 0.25
case("two rings and mish units", lambda: mlp(2, 16, 16, 2, act=nn.Mish), made(rings), ce, adam(1e-2), steps=100)  # 0.675 -> 0.0115, H 0.693, acc 1.00
case("sixteen rows that are learned by heart", lambda: mlp(30, 64, 2), whole(*(t[::36] for t in table("breast_cancer"))), ce, adam(1e-2), steps=200)  # 0.758 -> 1.6e-05, H 0.693, acc 1.00
case("dropout of a half and batch norm on a small table", lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(13, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.5), nn.Linear(48, 3)), on("wine"), ce, adam(1e-2), steps=100)  # 1.3 -> 0.0753, H 1.09, acc 0.99

# ---- images -------------------------------------------------------------------------------------------------------------------


class Basic(nn.Module):
    """A residual block of two convolutions with batch norm, and a projection where the width changes."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
        self.skip = nn.Identity() if a == b and stride == 1 else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.branch(x))


def resnet() -> nn.Sequential:
    return nn.Sequential(image(), nn.Conv2d(1, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Basic(12, 12, 1), Basic(12, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class Grown(nn.Module):
    """Each convolution sees all maps before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 8, 3, padding=1)) for c in (1, 9, 17)), nn.Linear(25 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(-1, 1, 8, 8)
        for layer in self.layers:
            h = torch.cat([h, layer(h)], 1)
        return self.head(F.adaptive_avg_pool2d(h, 2).flatten(1))


class Still(nn.Module):
    """A fitted trunk whose normalisation stays in evaluation mode while everything is fine-tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(*trained(resnet, digits, ce, 60)[:-1]), nn.Linear(24, 10)

    def train(self, mode: bool = True) -> Still:
        super().train(mode)
        for m in self.trunk.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def dice(model: Any, batch: Batch) -> Tensor:
    """One minus the overlap of the predicted mask and the true one."""
    p, y = model(batch[0]).sigmoid(), batch[1]
    return (1 - (2 * (p * y).sum((1, 2, 3)) + 1) / ((p + y).sum((1, 2, 3)) + 1)).mean()


def boxes() -> Batch:
    """Images of a rectangle, and the middle and the extent of it in units of the side."""
    x, mask = squares()
    row, column = mask.amax(3)[:, 0], mask.amax(2)[:, 0]
    at = torch.arange(16).float()
    return x, torch.stack([(row * at).sum(1) / row.sum(1), (column * at).sum(1) / column.sum(1), row.sum(1), column.sum(1)], 1) / 16


class Halves(nn.Module):
    """The upper and the lower half of a digit find each other in a batch; the temperature is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower, self.scale = mlp(32, 48, 16), mlp(32, 48, 16), nn.Parameter(torch.tensor(math.log(10.0)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = F.normalize(self.upper(x[:, :32]), dim=1), F.normalize(self.lower(x[:, 32:]), dim=1)
        z, own_pair = self.scale.exp() * a @ b.T, torch.arange(len(x))
        return (F.cross_entropy(z, own_pair) + F.cross_entropy(z.T, own_pair)) / 2


case("a small resnet with its usual recipe", resnet, digits, ce, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4), steps=100)  # 2.39 -> 0.00207, H 2.3, acc 1.00
case("convolutions, pooling and dropout", lambda: nn.Sequential(image(), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)), digits, ce, adam(1e-3), steps=150)  # 2.31 -> 0.459, H 2.3, acc 0.94
case("lenet with tanh and mean pooling", lambda: nn.Sequential(image(), nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), digits, ce, sgd(0.1, 0.9), steps=150)  # 2.32 -> 0.024, H 2.3, acc 1.00
case("grey levels of 0 to 16 as they are", lambda: nn.Sequential(image(), nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)), on("digits", change=lambda x, y: (16 * x, y)), ce, adam(1e-3), steps=100)  # 2.66 -> 0.031, H 2.3, acc 1.00
case("convolutions that see all maps before them", Grown, digits, ce, adam(3e-3), steps=100)  # 2.3 -> 0.166, H 2.3, acc 0.97
case("fine-tuning with normalisation in evaluation mode", Still, digits, ce, adam(1e-3), steps=60)  # 2.44 -> 0.107, H 2.3, acc 1.00
case("an autoencoder of strided convolutions that removes noise", lambda: nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)), on("digits", change=lambda x, y: (x.reshape(-1, 1, 8, 8) + 0.3 * torch.randn(len(x), 1, 8, 8, generator=torch.Generator().manual_seed(73)), x.reshape(-1, 1, 8, 8))), by(F.mse_loss), adam(3e-3), steps=150)  # 0.285 -> 0.0312, var 0.141
case("masks by their overlap", lambda: nn.Sequential(nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 1, 1)), made(squares, size=16), dice, adam(3e-3), steps=60)  # 0.851 -> 0.0102, var 0.0899
case("the middle and the extent of a rectangle", lambda: nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(12, 24, 3, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(384, 4), nn.Sigmoid()), made(boxes), by(F.smooth_l1_loss), adam(3e-3), steps=150)  # 0.0226 -> 0.00014, var 0.0203
case("halves of a digit that find each other", Halves, made(table, "digits", size=64), own, adam(3e-3), steps=150, objective="metric")  # 4.9 -> 1.11, chance is 4.16, the right half of 64 in 59 of 100
case("matrices by muon", lambda: nn.Sequential(*(nn.Linear(64, 64, bias=False) if i % 2 == 0 else nn.ReLU() for i in range(4)), nn.Linear(64, 10, bias=False)), digits, ce, lambda p: torch.optim.Muon(p, lr=0.02), steps=60)  # 2.3 -> 0.00745, H 2.3, acc 1.00
case("adafactor on images", lambda: mlp(64, 96, 10), digits, ce, lambda p: torch.optim.Adafactor(p, lr=0.02), steps=100)  # 2.34 -> 0.126, H 2.3, acc 0.98
case("adam at 1e-4 in a residual net", lambda: nn.Sequential(nn.Linear(64, 96), *(Residual(nn.Sequential(nn.LayerNorm(96), mlp(96, 192, 96, act=nn.GELU))) for _ in range(3)), nn.LayerNorm(96), nn.Linear(96, 10)), digits, ce, adam(1e-4), steps=200)  # 2.42 -> 0.11, H 2.3, acc 1.00

# ---- signals, series and words --------------------------------------------------------------------------------------------------


class Dilated(nn.Module):
    """Causal convolutions with growing gaps, each with a skip; the last position forecasts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Conv1d(1, 16, 1), nn.Linear(16, 1)
        self.layers = nn.ModuleList(nn.Conv1d(16, 16, 3, dilation=d) for d in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x.transpose(1, 2))
        for layer in self.layers:
            h = h + layer(F.pad(h, (2 * layer.dilation[0], 0))).relu()
        return self.head(h[:, :, -1])


class Phrases(nn.Module):
    """Convolutions over words, and the maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.convolutions = nn.Embedding(50, 16), nn.ModuleList(nn.Conv1d(16, 16, k) for k in (2, 3, 4))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(48, 2))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([c(h).relu().amax(2) for c in self.convolutions], 1))


class Neighbours(nn.Module):
    """Two layers of attention to a node's neighbours, with dropout on features."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 16, bias=False), nn.Linear(16, 3, bias=False)
        self.scores = nn.ParameterList(0.3 * torch.randn(2, d) for d in (16, 3))

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        for layer, s in zip((self.inner, self.outer), self.scores, strict=True):
            h = layer(F.dropout(x, 0.4, self.training))
            e = F.leaky_relu((h @ s[0])[:, None] + (h @ s[1])[None], 0.2)
            x = F.elu(e.masked_fill(a == 0, -math.inf).softmax(1) @ h)
        return x


def known_words() -> Recurrent:
    """Word vectors come from elsewhere and are frozen."""
    model = Recurrent("LSTM", 50, 24, 2, ids=True)
    with torch.no_grad():
        model.embed.weight[:25] += 0.7
    model.embed.requires_grad_(False)
    return model


def encoder() -> nn.Sequential:
    """Torch's own encoder layers, normalised after each branch, over eight pieces of a signal."""
    layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True)
    return nn.Sequential(Fn(lambda x: x.reshape(len(x), 8, 6)), nn.Linear(6, 24), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), Fn(lambda h: h.mean(1)), nn.Linear(24, 3))


def clipped(norm: float) -> Any:
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, norm)


case("convolutions over signals with batch norm", lambda: signal_net(norm=True), signals, ce, adam(3e-3), steps=100)  # 1.05 -> 0.00267, H 1.1, acc 1.00
case("convolutions over signals without norm", lambda: signal_net(), signals, ce, sgd(0.05, 0.9), steps=200)  # 1.08 -> 0.000826, H 1.1, acc 1.00
case("torch's encoder layers over signals", encoder, signals, ce, adam(1e-3), steps=150)  # 1.22 -> 0.00526, H 1.1, acc 1.00
case("an lstm's forecast", lambda: forecaster("LSTM"), windows, mse, adam(1e-2), steps=100)  # 0.544 -> 0.0066, var 0.65
case("a forecast of dilated convolutions", Dilated, windows, mse, adam(3e-3), steps=100)  # 0.124 -> 0.0071, var 0.65
case("phrases and their maximum over time", Phrases, opinions, ce, adam(3e-3), steps=150)  # 1.05 -> 0.152, H 0.649, acc 0.98
case("means of word vectors", lambda: nn.Sequential(nn.EmbeddingBag(50, 16), nn.Linear(16, 2)), opinions, ce, adam(1e-2), steps=100)  # 0.686 -> 0.0548, H 0.649, acc 1.00
case("frozen word vectors in an lstm", known_words, opinions, ce, adam(1e-2), steps=100)  # 0.676 -> 0.00154, H 0.649, acc 1.00
case("attention to the neighbours of a node", Neighbours, whole(*graph()), lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), adam(1e-2, weight_decay=5e-4), steps=150)  # 1.1 -> 0.00458, H 1.1, acc 1.00
case("a decoder of letters with dropout", lambda: nn.Sequential(Positions(VOCABULARY, 32), nn.Dropout(0.1), block(32, causal=True), block(32, causal=True), nn.LayerNorm(32), nn.Linear(32, VOCABULARY)), text(), per_letter, use("AdamW", 3e-3, weight_decay=0.1, betas=(0.9, 0.95)), steps=60, causal=True)  # 3.19 -> 0.915, H 2.74, acc 0.80

# ---- loops ------------------------------------------------------------------------------------------------------------------------


def by_plateau(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """The rate is halved whenever an epoch's loss has not fallen for two epochs."""
    plateau = schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    total = 0.0
    for i, batch in enumerate(cycle(clouds(seed), 240)):
        loss = ce(model, batch)
        learn(watch, optimizer, loss)
        total += loss.item()
        if i % 15 == 14:
            plateau.step(total / 15)
            total = 0.0


def best_so_far(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """After three epochs without a better validation loss the best weights come back, once, with a tenth of the rate."""
    x, y = table("digits")
    best, kept, worse = math.inf, copy.deepcopy(model.state_dict()), 0
    for i, batch in enumerate(rows(x[:1500], y[:1500], 32, seed, 240)):
        model.train()
        loss = ce(model, batch)
        learn(watch, optimizer, loss)
        if i % 20 == 19:
            model.eval()
            with torch.no_grad():
                now = ce(model, (x[1500:], y[1500:])).item()
            best, kept, worse = (now, copy.deepcopy(model.state_dict()), 0) if now < best else (best, kept, worse + 1)
            if worse == 3:
                model.load_state_dict(kept)
                optimizer.param_groups[0]["lr"] *= 0.1


def clipped_policy(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
    """Four steps on each batch of a bandit's actions, with the ratio of the policies clipped."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(40):
        x = torch.randn(64, 4, generator=g)
        with torch.no_grad():
            old = model(x).log_softmax(1)
        action = torch.multinomial(old.exp(), 1, generator=g)
        reward = (action[:, 0] == x[:, :3].argmax(1)).float()
        advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
        for _ in range(4):
            new = model(x).log_softmax(1)
            ratio = (new - old).gather(1, action)[:, 0].exp()
            loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() + 0.01 * (new.exp() * new).sum(1).mean()
            learn(watch, optimizer, loss)


loop("a rate that is halved on a plateau", lambda: mlp(6, 32, 5), by_plateau, sgd(0.1, 0.9))  # 1.57 -> 0.000392
loop("back to the best weights", lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10)), best_so_far, adam(1e-2))  # 2.37 -> 0.163
loop("a policy with clipped ratios", lambda: mlp(4, 32, 3, act=nn.Tanh), clipped_policy, adam(1e-2), objective="reinforcement")  # -0.0109 -> -0.0152, share of prizes 0.37 -> 0.94
loop("letters at a rate of 20 under a clip of 0.25", lambda: Recurrent("LSTM", VOCABULARY, 32, VOCABULARY, ids=True, every=True), steps(text(), per_letter, 150, clip=clipped(0.25)), sgd(20.0))  # 3.1 -> 0.279
loop("a tenth of the rate twice", lambda: resnet(), steps(digits, ce, 120, schedule=lambda o: schedules.MultiStepLR(o, [60, 90], 0.1)), sgd(0.1, 0.9))  # 2.39 -> 0.0371
loop("a rate that falls to nothing in a line", encoder, steps(signals, ce, 150, schedule=lambda o: schedules.LinearLR(o, 1.0, 0.0, 150)), use("AdamW", 3e-3))  # 1.22 -> 0.00773
loop("a gru with a clip of 1 and a cosine", lambda: forecaster("GRU"), steps(windows, mse, 120, clip=clipped(1.0), schedule=lambda o: schedules.CosineAnnealingLR(o, 120)), adam(1e-2))  # 0.574 -> 0.00751

# ---- NumPy: gradients by hand --------------------------------------------------------------------------------------------------------


class Odds:
    """Logistic regression with squares of the weights as a small penalty."""

    def loss(self, p: Any, batch: Any) -> Any:
        z = batch[0] @ p["w"] + p["b"]
        return np.mean(np.logaddexp(0, z) - batch[1] * z) + 5e-4 * np.sum(p["w"] ** 2)

    def grad(self, p: Any, batch: Any) -> Any:
        r = (1 / (1 + np.exp(-(batch[0] @ p["w"] + p["b"]))) - batch[1]) / len(batch[1])
        return {"w": batch[0].T @ r + 1e-3 * p["w"], "b": r.sum(keepdims=True)}


def he() -> dict[str, Any]:
    r = np.random.default_rng(8)
    return {"w1": r.normal(0, (2 / 64) ** 0.5, (64, 48)), "b1": np.zeros(48), "w2": r.normal(0, (2 / 48) ** 0.5, (48, 10)), "b2": np.zeros(10)}


odds, plain = Odds(), Written("relu")
case("numpy logistic regression from zeros", lambda: {"w": np.zeros(30), "b": np.zeros(1)}, numpy_floats(cancer), odds.loss, gg.SGD(0.1), steps=150, grad=odds.grad)  # 0.693 -> 0.076
case("numpy relu net with he's weights", he, lambda s: digits_numpy(), plain.loss, gg.SGD(0.2), steps=150, grad=plain.grad, activations=plain.activations)  # 2.47 -> 0.125
