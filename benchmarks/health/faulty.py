"""The faulty programs of the list, as cases: what is wrong, and the codes that may head the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.health.programs import (
    Case,
    Program,
    bce,
    ce,
    digits,
    iris,
    linears,
    loader,
    mlp,
    mse,
    normal,
    seeded,
    xy,
)

__all__ = ["FAULTY"]

FAULTY: list[Case] = []


def case(
    label: str, title: str, *codes: str, watched: Any = None, module: str = ""
) -> Callable[[Callable[[int], Program]], Any]:
    def add(build: Callable[[int], Program]) -> Callable[[int], Program]:
        FAULTY.append(Case(label, title, seeded(build), frozenset(codes), watched, module))
        return build

    return add


def sgd(model: nn.Module, lr: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def adam(model: nn.Module, lr: float = 1e-3, **kw: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr, **kw)


@case("F01", "XOR sigmoid MLP with MAE and tiny steps", "GG403", "GG406", "GG301", "GG202", "GG204")
def xor(seed: int) -> Program:
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = torch.tensor([[0.0], [1], [1], [0]])
    model = mlp(2, 4, 1, act=nn.Sigmoid, last=nn.Sigmoid)
    return Program(model, [(x, y)], lambda m, b: (m(b[0]) - b[1]).abs().mean(), sgd(model, 0.05, 0.11))


@case("F03", "softmax over one unit as a regression output", "GG501")
def single(seed: int) -> Program:
    x = torch.randn(256, 3)
    y = 1e3 * (x.sum(1, keepdim=True) + 2)
    model = mlp(3, 3, 2, 1, act=nn.Tanh, last=lambda: nn.Softmax(dim=1))
    for layer in linears(model):
        nn.init.uniform_(layer.weight, -0.05, 0.05)
    return Program(model, loader(x, y, 32, seed), mse, sgd(model, 0.1, 0.9))


@case("F05", "autoencoder of sigmoids, tiny initialisation and rate", "GG301", "GG403", "GG406")
def autoencoder(seed: int) -> Program:
    x = torch.eye(8).repeat(16, 1)
    x = (torch.rand(128, 8) > 0.5).float()
    model = normal(mlp(8, 8, 8, 8, act=nn.Sigmoid, last=nn.Sigmoid), 0.05)
    return Program(model, loader(x, x, 16, seed), mse, sgd(model, 0.01))


@case("F07", "ReLU on the output before binary cross-entropy", "GG501")
def relu_bce(seed: int) -> Program:
    x = torch.randn(512, 11)
    y = (x[:, :1] + x[:, 1:2] > 0).float()
    model = normal(mlp(11, 12, 12, 1, last=nn.ReLU), 0.05)
    return Program(
        model, loader(x, y, 32, seed), lambda m, b: functional.binary_cross_entropy(m(b[0]).clamp(0, 1), b[1]), adam(model)
    )


@case("F09", "sigmoid output for labels up to 100", "GG501")
def range_(seed: int) -> Program:
    x = torch.linspace(0, 10, 100)[:, None]
    y = x**2
    model = mlp(1, 5, 1, act=nn.Sigmoid, last=nn.Sigmoid)
    return Program(model, [(x, y)], mse, sgd(model, 0.01))


@case("F11", "linear digits net, N(0,1) weights, rate 3", "GG401", "GG402", "GG302")
def rate3(seed: int) -> Program:
    x, y = digits()
    model = normal(nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 10)), 1.0)
    return Program(model, loader(x, functional.one_hot(y, 10).float(), 64, seed), mse, sgd(model, 3.0))


@case("F13", "sigmoid classifier with a tiny rate and few epochs", "GG403", "GG406")
def slow(seed: int) -> Program:
    x = torch.randn(200, 2)
    y = (x[:, 0] + x[:, 1] > 0).long()
    model = mlp(2, 2, 2, act=nn.Sigmoid)
    return Program(model, loader(x, y, 10, seed), ce, sgd(model, 0.01))


@case("F15", "inputs to 100 and labels to 10000, not standardised", "GG502")
def unscaled(seed: int) -> Program:
    x = torch.linspace(-100, 100, 200)[:, None]
    y = x**2
    model = nn.Sequential(nn.Linear(1, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.ELU(), nn.Linear(50, 1))
    return Program(model, [(x, y)], mse, adam(model))


@case("F17", "iris with sigmoid before cross-entropy", "GG501")
def sigmoid_ce(seed: int) -> Program:
    x, y = iris()
    model = normal(mlp(4, 4, 3, last=nn.Sigmoid), 0.05)
    return Program(model, loader(x, y, 16, seed), ce, adam(model))


@case("F19", "hand-written cross-entropy: log(0), summed", "GG203", "GG402")
def log_zero(seed: int) -> Program:
    model = mlp(64, 64, 10)
    with torch.no_grad():
        model[2].weight.mul_(2000)

    def loss(m: Any, b: Any) -> torch.Tensor:
        return -(functional.one_hot(b[1], 10) * torch.log(functional.softmax(m(b[0]), 1))).sum()

    return Program(model, xy(seed), loss, adam(model, 0.05))


@case("F21", "linear regression beyond 2/lambda", "GG401", "GG402")
def linear(seed: int) -> Program:
    x = torch.linspace(-8, 8, 100)[:, None]
    y = 3 * x + 1 + 0.1 * torch.randn(100, 1)
    model = nn.Linear(1, 1)
    return Program(model, [(x, y)], mse, sgd(model, 0.1))


@case("F23", "softmax regression with a summed loss and rate 1", "GG404", "GG401", "GG402")
def summed(seed: int) -> Program:
    model = nn.Linear(64, 10)
    return Program(model, xy(seed), lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="sum"), sgd(model, 1.0))


@case("F25", "quadratic fit just beyond 2/lambda", "GG401", "GG402")
def quadratic(seed: int) -> Program:
    x = torch.arange(4.0)[:, None]
    features = torch.cat([x**2, x, torch.ones_like(x)], 1)
    y = 2 * x**2 - x + 1
    model = nn.Linear(3, 1, bias=False)
    return Program(model, [(features, y)], lambda m, b: ((m(b[0]) - b[1]) ** 2).sum(), sgd(model, 0.01))


@case("F27", "gradient ascent", "GG401", "GG402")
def ascent(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True))


@case("F29", "Adam with rate 0.1 and eps 1e-16", "GG401", "GG402", "GG201")
def adam_high(seed: int) -> Program:
    model = mlp(64, 64, 64, 10)
    return Program(model, xy(seed), ce, adam(model, 0.1, eps=1e-16))


@case("F31", "double softmax", "GG501")
def double(seed: int) -> Program:
    model = mlp(64, 64, 10, last=lambda: nn.Softmax(dim=1))
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("F33", "predictions (N, 1) against labels (N,)", "GG501")
def broadcast(seed: int) -> Program:
    x = torch.randn(512, 8)
    y = 2 * x[:, 0] - x[:, 1] + 1
    model = mlp(8, 32, 1)
    return Program(model, loader(x, y, 64, seed), lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), adam(model, 3e-3))


@case("F35", "an L2 penalty of 10 in the loss", "GG406", "GG204")
def penalty(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), lambda m, b: ce(m, b) + 10 * sum((p**2).sum() for p in m.parameters()), sgd(model, 0.01))


@case("F37", "34 narrow ReLU layers", "GG201", "GG301")
def narrow(seed: int) -> Program:
    model = mlp(64, *[12] * 33, 10)
    return Program(model, xy(seed), ce, adam(model))


@case("F39", "ten sigmoid layers", "GG301")
def sigmoids(seed: int) -> Program:
    model = mlp(64, *[32] * 10, 10, act=nn.Sigmoid)
    for layer in linears(model):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("F41", "twelve ReLU layers with N(0,1) weights", "GG302")
def exploding(seed: int) -> Program:
    model = normal(mlp(64, *[64] * 12, 10), 1.0)
    return Program(model, xy(seed), ce, sgd(model, 0.01))


class Recurrent(nn.Module):
    """A tanh recurrence of 60 steps, written by hand."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.inner = nn.RNN(1, 32, batch_first=True)
        self.head = nn.Linear(32, 2)
        with torch.no_grad():
            nn.init.orthogonal_(self.inner.weight_hh_l0)
            self.inner.weight_hh_l0.mul_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x)[0][:, -1])


@case("F43", "a recurrence that forgets within 60 steps", "GG301")
def forgets(seed: int) -> Program:
    x = torch.randn(1024, 60, 1)
    y = (x[:, 0, 0] > 0).long()
    model = Recurrent(0.5)
    return Program(model, loader(x, y, 64, seed), ce, sgd(model, 0.1))


def no_zero_grad(program: Program, watch: Any, steps: int) -> None:
    for step in range(steps):
        loss = program.loss(program.model, program.batches[step % len(program.batches)])
        loss.backward()
        program.optimizer.step()
        watch.record(loss=loss)


@case("F45", "zero_grad forgotten", "GG304", watched=no_zero_grad)
def stale(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, sgd(model, 0.05, 0.9))


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = mlp(64, 64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.trunk(x)).detach())


@case("F47", "detach between trunk and head", "GG303")
def cut(seed: int) -> Program:
    model = Cut()
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("F49", "one NaN pixel row in the data", "GG203")
def nan_input(seed: int) -> Program:
    x, y = digits()
    x = x.clone()
    model = mlp(64, 64, 10)
    batches = loader(x, y, 64, seed)
    batches[3][0][5] = float("nan")
    return Program(model, batches, ce, sgd(model, 0.1))


class Attention(nn.Module):
    """Digits as eight tokens, one head."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.reshape(-1, 8, 8))
        scores = self.q(h) @ self.k(h).transpose(1, 2) * self.scale
        return self.head((torch.softmax(scores, -1) @ self.v(h)).mean(1))


@case("F51", "attention scores times 500", "GG205")
def collapsed(seed: int) -> Program:
    model = Attention(500.0)
    return Program(model, xy(seed), ce, adam(model))


@case("F53", "rate 5 with momentum 0.9", "GG401", "GG402", "GG201")
def rate5(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, sgd(model, 5.0, 0.9))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.relu(self.bn(self.fc1(x))))


@case("F55", "the optimizer holds only what is frozen", "GG303")
def disjoint(seed: int) -> Program:
    model = Normed()
    for layer in (model.fc1, model.fc2):
        layer.requires_grad_(False)
    return Program(model, xy(seed), ce, torch.optim.SGD([*model.fc1.parameters(), *model.fc2.parameters()], lr=0.1))


# also real, not in the table


@case("FX1", "the optimizer was built before the head was replaced", "GG303")
def replaced(seed: int) -> Program:
    model = mlp(64, 64, 100)
    optimizer = adam(model)
    model[2] = nn.Linear(64, 10)
    return Program(model, xy(seed), ce, optimizer)


@case("FX2", "labels that do not belong to their inputs, fresh every time", "GG406")
def misaligned(seed: int) -> Program:
    x, y = digits()
    order = torch.randperm(len(y))
    model = mlp(64, 64, 10)
    return Program(
        model,
        loader(x, y[order], 64, seed),
        lambda m, b: functional.cross_entropy(m(b[0]), b[1][torch.randperm(len(b[1]))]),
        adam(model, 3e-3),
    )


@case("FX3", "softmax over the batch axis", "GG501")
def axis(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), lambda m, b: functional.nll_loss(functional.log_softmax(m(b[0]), 0), b[1]), sgd(model, 0.1))


@case("FX4", "constant initialisation", "GG206")
def constant(seed: int) -> Program:
    model = mlp(64, 64, 10)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.02)
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("FX5", "a whole layer dead from its bias", "GG201", module="2")
def dead_bias(seed: int) -> Program:
    model = mlp(64, 64, 64, 10)
    nn.init.constant_(model[2].bias, -20.0)
    return Program(model, xy(seed), ce, adam(model))


class Codebook(nn.Module):
    """A vector-quantised autoencoder whose codes start far from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = mlp(64, 32, 8), mlp(8, 32, 64)
        self.codes = nn.Embedding(64, 8)
        nn.init.normal_(self.codes.weight, mean=5.0, std=0.1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.enc(x)
        index = torch.cdist(z, self.codes.weight).argmin(dim=1)
        q = self.codes(index)
        gap = functional.mse_loss(q, z.detach()) + 0.25 * functional.mse_loss(z, q.detach())
        return self.dec(z + (q - z).detach()), gap


@case("FX6", "codebook collapse", "GG207", "GG201")
def codebook(seed: int) -> Program:
    model = Codebook()

    def loss(m: Any, b: Any) -> torch.Tensor:
        out, gap = m(b[0])
        return functional.mse_loss(out, b[0]) + gap

    return Program(model, xy(seed), loss, adam(model))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(64, 64, 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.half()).float()


@case("FX7", "half precision without loss scaling", "GG307")
def half(seed: int) -> Program:
    model = Half().half()
    return Program(model, xy(seed), lambda m, b: ce(m, b) * 1e-4, sgd(model, 0.1))


@case("FX8", "a second sigmoid before a loss on logits", "GG501")
def double_sigmoid(seed: int) -> Program:
    x, y = digits()
    model = mlp(64, 32, 10, last=nn.Sigmoid)
    return Program(model, loader(x, functional.one_hot(y, 10).float(), 64, seed), bce, adam(model))


@case("FX9", "NaN born in a module: the root of a difference that is 0", "GG203", "GG102", "GG302")
def root(seed: int) -> Program:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(x - x.amin(1, keepdim=True))

    model = nn.Sequential(nn.Linear(64, 32), Root(), nn.Linear(32, 10))
    return Program(model, xy(seed), ce, sgd(model, 0.1))


def over_scheduled(program: Program, watch: Any, steps: int) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(program.optimizer, 1, gamma=0.0)
    for step in range(steps):
        program.optimizer.zero_grad()
        loss = program.loss(program.model, program.batches[step % len(program.batches)])
        loss.backward()
        program.optimizer.step()
        watch.record(loss=loss)
        scheduler.step()


@case("FX10", "a schedule stepped to 0 at once", "GG303", "GG403", watched=over_scheduled)
def scheduled(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("FX11", "a rate that is far too low", "GG403")
def patient(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, adam(model, 1e-5))
