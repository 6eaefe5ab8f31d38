"""Parts of the fourth draw of held-out programs: data, nets, losses and loops that its rows are put together from.

A row is ``case(name, codes, net, data, loss, optimizer, **more)`` or, for a user's own loop, ``loop(name, codes, net, body)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_data import LETTERS, Batch, Program, Setup, friedman, letters, mlp, moons, rows, table, xor

Net = Callable[[], Any]
Data = Callable[[int], list[Batch]]
Loss = Callable[[Any, Batch], Tensor]
Body = Callable[[Any, Any, int, Any], None]


class Table:
    """The rows of a draw."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def case(self, name: str, codes: str, net: Net, data: Data, loss: Loss, optimizer: Any = None, *, steps: int = 20, **more: Any) -> None:
        """A program for ``check_training`` and ``audit``; ``codes`` are the acceptable first codes, separated by blanks."""

        def build(seed: int) -> Setup:
            return Setup(net(), data(seed), loss, optimizer, more=more, steps=steps)

        self.programs.append(Program(name.replace(" ", "_"), build, frozenset(codes.split()), name))

    def loop(self, name: str, codes: str, net: Net, body: Body, optimizer: Callable[[Any], Any], *, holds: Callable[[Any], Any] | None = None, **more: Any) -> None:
        """A program for ``watch``: ``body(model, optimizer, seed, watch)`` is the user's own loop; ``holds(model)`` goes to the optimizer."""

        def build(seed: int) -> Setup:
            model = net()
            chosen = optimizer(holds(model) if holds else model.parameters())
            return Setup(model, optimizer=chosen, loop=lambda watch: body(model, chosen, seed, watch), more=more)

        self.programs.append(Program(name.replace(" ", "_"), build, frozenset(codes.split()), name))


# ---- data: each takes a seed and gives batches -------------------------------------------------------------------------


def on(name: str, size: int = 32, *, count: int = 24, scaled: bool = True, change: Callable[[Tensor, Tensor], Batch] | None = None) -> Data:
    """Batches of a known table; ``change(x, y)`` is done to the whole table first."""
    own: dict[str, Callable[[], Batch]] = {"moons": moons, "xor": xor, "friedman": lambda: friedman(scaled=scaled), "spirals": spirals, "sine": sine}

    def data(seed: int) -> list[Batch]:
        x, y = own[name]() if name in own else table(name, scaled)
        return rows(*(change(x, y) if change else (x, y)), size, seed, count)

    return data


def spirals(n: int = 400) -> Batch:
    t = torch.linspace(0.5, 3 * math.pi, n // 2)
    arm = torch.stack([t * t.cos(), t * t.sin()], 1) / 8
    return torch.cat([arm, -arm]), torch.arange(n) // (n // 2)


def sine(n: int = 512) -> Batch:
    x = torch.linspace(-2, 2, n)[:, None]
    return x, torch.sin(3 * x)


def clusters(features: int, classes: int, n: int = 600, **more: Any) -> Batch:
    x, y = datasets.make_classification(n, features, n_informative=min(features, 8), n_redundant=0, n_classes=classes, n_clusters_per_class=1, class_sep=1.5, random_state=4, **more)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def made(make: Callable[..., Batch], *arguments: Any, size: int = 32, count: int = 24, **more: Any) -> Data:
    """Batches of ``make(*arguments)``, a function that gives x and y."""
    return lambda seed: rows(*make(*arguments, **more), size, seed, count)


def sequences(n: int = 512, length: int = 20, features: int = 3, asked: int = -1) -> Batch:
    """Random walks; the label is whether feature 0 is positive at the position that is asked."""
    x = torch.randn(n, length, features, generator=torch.Generator().manual_seed(21))
    return x, (x[:, asked, 0] > 0).long()


def padded(n: int = 512, longest: int = 12, symbols: int = 20) -> tuple[Tensor, Tensor]:
    """Ids from 1, padded with 0; the label is whether small ids outnumber large ones."""
    g = torch.Generator().manual_seed(22)
    ids = torch.randint(1, symbols, (n, longest), generator=g)
    lengths = torch.randint(3, longest + 1, (n,), generator=g)
    ids[torch.arange(longest)[None] >= lengths[:, None]] = 0
    small = ((ids > 0) & (ids < symbols // 2)).sum(1) * 2 > (ids > 0).sum(1)
    return ids, small.long()


def squares(n: int = 256, side: int = 16) -> Batch:
    """Noisy images of one bright rectangle, and its mask (N, 1, side, side)."""
    g = torch.Generator().manual_seed(23)
    corner, extent = torch.randint(0, side - 7, (n, 2), generator=g), torch.randint(3, 8, (n, 2), generator=g)
    at = torch.arange(side)
    row = (at >= corner[:, :1]) & (at < corner[:, :1] + extent[:, :1])
    column = (at >= corner[:, 1:]) & (at < corner[:, 1:] + extent[:, 1:])
    mask = (row[:, :, None] & column[:, None, :])[:, None].float()
    return mask + 0.3 * torch.randn(n, 1, side, side, generator=g), mask


def graph(nodes: int = 120, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A random graph with communities: row-normalised adjacency with loops, noisy features, groups."""
    g = torch.Generator().manual_seed(24)
    y = torch.arange(nodes) % groups
    same = y[:, None] == y[None]
    a = (torch.rand(nodes, nodes, generator=g) < torch.where(same, 0.15, 0.01)).float()
    a = ((a + a.T + torch.eye(nodes)) > 0).float()
    return a / a.sum(1, keepdim=True), F.one_hot(y, groups).float().repeat(1, 4) + torch.randn(nodes, 4 * groups, generator=g), y


def whole(*parts: Any) -> Data:
    """The same full batch each step."""
    return lambda seed: [parts]


def pairs(size: int = 32) -> Data:
    """Two digits, and whether they show the same number; half of the pairs do."""

    def data(seed: int) -> list[Batch]:
        x, y = table("digits")
        g = torch.Generator().manual_seed(seed)
        batches = []
        for _ in range(24):
            a, b = (torch.randint(0, len(x), (size,), generator=g) for _ in range(2))
            for i in range(0, size, 2):
                b[i] = torch.nonzero(y == y[a[i]])[int(torch.randint(0, 100, (), generator=g))]
            batches.append((x[a], x[b], (y[a] == y[b]).float()))
        return batches

    return data


def text(size: int = 16, length: int = 16) -> Data:
    return lambda seed: letters(size, length, seed)


VOCABULARY = len(LETTERS)


# ---- nets --------------------------------------------------------------------------------------------------------------


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Any) -> Any:
        return self.function(*x)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class Recurrent(nn.Module):
    """A recurrent layer over (B, T, F) or over ids, and a linear head on its last or on every output."""

    def __init__(self, kind: str, inputs: int, hidden: int, out: int, *, ids: bool = False, every: bool = False, **more: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, hidden) if ids else nn.Identity()
        self.core = getattr(nn, kind)(hidden if ids else inputs, hidden, batch_first=True, **more)
        self.head, self.every = nn.Linear(hidden, out), every

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.core(self.embed(x))
        return self.head(h if self.every else h[:, -1])


class Attention(nn.Module):
    """Self-attention written by hand; ``scale`` multiplies the scores (default ``1 / sqrt(d)``)."""

    def __init__(self, d: int, heads: int = 2, *, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.heads, self.causal, self.scale = heads, causal, (d // heads) ** -0.5 if scale is None else scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) * self.scale
        if self.causal:
            scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def block(d: int, heads: int = 2, **more: Any) -> nn.Sequential:
    """A pre-LN transformer block."""
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(d), Attention(d, heads, **more))),
        Residual(nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))),
    )


class Positions(nn.Module):
    """Ids to vectors, with learned positions."""

    def __init__(self, symbols: int, d: int, longest: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(symbols, d), nn.Embedding(longest, d)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token(ids) + self.position.weight[: ids.shape[1]]


def language_model(d: int = 32, layers: int = 2, **more: Any) -> nn.Sequential:
    more.setdefault("causal", True)
    return nn.Sequential(Positions(VOCABULARY, d), *(block(d, **more) for _ in range(layers)), nn.LayerNorm(d), nn.Linear(d, VOCABULARY))


def patches(d: int = 32, layers: int = 1, out: int = 10, **more: Any) -> nn.Sequential:
    """Digits as eight rows through transformer blocks."""
    return nn.Sequential(Fn(lambda x: x.reshape(-1, 8, 8)), nn.Linear(8, d), *(block(d, **more) for _ in range(layers)), Fn(lambda h: h.mean(1)), nn.Linear(d, out))


def image() -> Fn:
    return Fn(lambda x: x.reshape(-1, 1, 8, 8))


def cnn(*, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = True, width: int = 12, out: int = 10) -> nn.Sequential:
    """Two convolutions on digits, global pooling, a linear head."""
    layers: list[nn.Module] = [image()]
    for a, b in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, out))


def changed(net: Net, *changes: Callable[[Any], Any]) -> Net:
    """The net, after each change has been done to it."""

    def build() -> Any:
        model = net()
        for change in changes:
            change(model)
        return model

    return build


def weights(do: Callable[[Tensor], Any], *, biases: Callable[[Tensor], Any] | None = None) -> Callable[[nn.Module], None]:
    """Initialise every matrix with ``do``, and every vector of a bias with ``biases``."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() > 1:
                    do(p)
                elif biases is not None and "bias" in name:
                    biases(p)

    return change


def freeze(*names: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).requires_grad_(False)

    return change


# ---- losses ------------------------------------------------------------------------------------------------------------


def by(function: Callable[..., Tensor], **more: Any) -> Loss:
    """``function(model(x), y)``."""
    return lambda model, batch: function(model(batch[0]), batch[1], **more)


def per_letter(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of every position of a sequence."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def binary(model: Any, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1].float())


def itself(model: Any, batch: Batch) -> Tensor:
    """Reconstruction of the input."""
    return F.mse_loss(model(batch[0]), batch[0])


def own(model: Any, batch: Batch) -> Tensor:
    """The model's own loss of a batch."""
    loss: Tensor = model.loss(*batch)
    return loss


# ---- loops -------------------------------------------------------------------------------------------------------------


def forever(batches: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


def steps(
    data: Data,
    loss: Loss,
    count: int = 150,
    *,
    clear: str = "first",
    schedule: Callable[[Any], Any] | None = None,
    clip: Callable[[Any], Any] | None = None,
    accumulate: int = 1,
    step: bool = True,
    before: Callable[[Any, int], Any] | None = None,
    after: Callable[[Any, int], Any] | None = None,
) -> Body:
    """The loop that everybody writes; ``clear`` is where it clears the gradients: first, after (the backward pass), never."""

    def body(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        source, scheduler = forever(data(seed)), schedule(optimizer) if schedule else None
        for i in range(count):
            if before:
                before(model, i)
            if clear == "first":
                optimizer.zero_grad()
            for _ in range(accumulate):
                value = loss(model, next(source)) / accumulate
                watch.record(loss=value)
                value.backward()
            if clear == "after":
                optimizer.zero_grad()
            if clip:
                clip(model.parameters())
            if step:
                optimizer.step()
            if scheduler:
                scheduler.step()
            if after:
                after(model, i)

    return body


class Nothing:
    """Stands in for ``watch``, to run a loop without it."""

    def record(self, **values: Any) -> None:
        pass


def use(name: str, lr: float, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """An optimizer of ``torch.optim`` by its name."""
    return partial(getattr(torch.optim, name), lr=lr, **more)


class Variational(nn.Module):
    def __init__(self, kl: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.kl = mlp(64, 48, 16), mlp(8, 48, 64), kl

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()
        return F.mse_loss(self.decoder(z), x) + self.kl * kl


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = mlp(64, 32, 4), mlp(4, 32, 64), nn.Embedding(32, 4)
        nn.init.normal_(self.codes.weight, 50.0, 0.1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return F.mse_loss(self.decoder(z + (q - z).detach()), x) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


def digits_numpy(scale: float = 1.0) -> list[Any]:
    x, y = (t.numpy().astype(float) for t in table("digits"))
    return [(scale * x[i : i + 64], np.eye(10)[y[i : i + 64].astype(int)]) for i in range(0, 1536, 64)]


class Written:
    """A net of one hidden layer, softmax and cross-entropy, with its gradient by hand."""

    def __init__(self, activation: str = "tanh", *, sign: float = 1.0, mean: bool = True, stable: bool = True) -> None:
        self.activation, self.sign, self.mean, self.stable = activation, sign, mean, stable

    def hidden(self, p: Any, x: Any) -> Any:
        z = x @ p["w1"] + p["b1"]
        return np.tanh(z) if self.activation == "tanh" else 1 / (1 + np.exp(-z)) if self.activation == "sigmoid" else np.maximum(z, 0)

    def probabilities(self, p: Any, x: Any) -> Any:
        z = self.hidden(p, x) @ p["w2"] + p["b2"]
        e = np.exp(z - z.max(1, keepdims=True) if self.stable else z)
        return e / e.sum(1, keepdims=True)

    def loss(self, p: Any, batch: Any) -> Any:
        with np.errstate(all="ignore"):
            each = -(batch[1] * np.log(self.probabilities(p, batch[0]))).sum(1)
        return each.mean() if self.mean else each.sum()

    def grad(self, p: Any, batch: Any) -> Any:
        x, y = batch
        with np.errstate(all="ignore"):
            h = self.hidden(p, x)
            dz = self.sign * (self.probabilities(p, x) - y) / (len(x) if self.mean else 1)
            slope = 1 - h * h if self.activation == "tanh" else h * (1 - h) if self.activation == "sigmoid" else h > 0
            dh = dz @ p["w2"].T * slope
        return {"w1": x.T @ dh, "b1": dh.sum(0), "w2": h.T @ dz, "b2": dz.sum(0)}

    def activations(self, p: Any, batch: Any) -> Any:
        return {"hidden": self.hidden(p, batch[0])}


class Segmenter(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.down, self.inner, self.up = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(24, 1, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down(x))
        b = F.relu(self.inner(F.max_pool2d(a, 2)))
        return self.last(self.up(torch.cat([a, F.interpolate(b, scale_factor=2)], 1)))
