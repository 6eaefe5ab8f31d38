"""Small programs whose learning rate is wrong, and healthy ones that naive detectors take for wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import gradguard as gg

__all__ = ["FAULTY", "HEALTHY", "Program"]


@dataclass(frozen=True)
class Program:
    """A scenario's maker, and the codes that must be errors, one of them first."""

    name: str
    make: Callable[[], gg.Scenario]
    codes: tuple[str, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=1)
def data() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])


def digits(size: int, scale: float = 1.0) -> list[Any]:
    x, y = data()
    return [(scale * x[i : i + size], y[i : i + size]) for i in range(0, len(x) - size + 1, size)]


def entropy(model: Any, batch: Any) -> Any:
    return functional.cross_entropy(model(batch[0]), batch[1])


def square(model: Any, batch: Any) -> Any:
    return functional.mse_loss(model(batch[0]), batch[1])


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU, he: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers.append(nn.Linear(widths[i], widths[i + 1]))
        if he:
            nn.init.kaiming_normal_(layers[-1].weight)  # type: ignore[arg-type]  # it is the Linear just made
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        if i < len(widths) - 2:
            layers.append(act())
    return nn.Sequential(*layers)


def normal(model: nn.Module, std: float) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, std)
    return model


def two_layers(lr: float, momentum: float = 0.0) -> gg.Scenario:
    model = mlp(64, 64, 64, 10)
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.SGD(model.parameters(), lr, momentum=momentum))


def linear_product() -> gg.Scenario:
    model = normal(nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 10)), 1.0)
    return gg.Scenario(
        model, digits(32), lambda m, b: functional.mse_loss(m(b[0]), functional.one_hot(b[1], 10).float()),
        optimizer=torch.optim.SGD(model.parameters(), 3.0),
    )


def line() -> gg.Scenario:
    model = nn.Linear(1, 1)
    x = torch.linspace(-8, 8, 64)[:, None]
    return gg.Scenario(model, [(x, 3 * x + 1)], square, optimizer=torch.optim.SGD(model.parameters(), 0.1))


def summed(lr: float) -> gg.Scenario:
    model = nn.Linear(64, 10)
    return gg.Scenario(
        model, digits(64), lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="sum"),
        optimizer=torch.optim.SGD(model.parameters(), lr),
    )


def parabola() -> gg.Scenario:
    points = torch.arange(4.0)
    columns = torch.stack([points**2, points, torch.ones(4)], 1)
    model = nn.Linear(3, 1, bias=False)
    truth = 2 * points**2 + points + 1
    return gg.Scenario(
        model, [(columns, truth)], lambda m, b: ((m(b[0]).squeeze(1) - b[1]) ** 2).sum(),
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
    )


def ascent() -> gg.Scenario:
    model = mlp(64, 64, 64, 10)
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1, maximize=True))


def wide_start() -> gg.Scenario:
    model = normal(mlp(64, *[64] * 12, 10), 1.0)
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.SGD(model.parameters(), 0.01))


def sigmoids() -> gg.Scenario:
    model = mlp(64, *[32] * 10, 10, act=nn.Sigmoid, he=False)
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1))


def adam(lr: float) -> gg.Scenario:
    model = mlp(64, 64, 64, 10)
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.Adam(model.parameters(), lr))


def wrong_sign() -> gg.Scenario:
    """The likelihood is minimised: the loss falls without bound."""
    model = mlp(64, 64, 64, 10)
    return gg.Scenario(model, digits(32), lambda m, b: -entropy(m, b), optimizer=torch.optim.SGD(model.parameters(), 0.1))


def exclusive_or() -> gg.Scenario:
    """Sigmoids, mean absolute error, a rate at which nothing moves: only one batch by heart shows it."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = (x.sum(1, keepdim=True) == 1).float()
    model = nn.Sequential(mlp(2, 4, 1, act=nn.Sigmoid, he=False), nn.Sigmoid())
    return gg.Scenario(
        model, [(x, y)], lambda m, b: (m(b[0]) - b[1]).abs().mean(),
        optimizer=torch.optim.SGD(model.parameters(), 0.05, momentum=0.11),
    )


def slow_sigmoids() -> gg.Scenario:
    """Two units: after 300 steps no better than a guess, where a hundredfold rate has learnt after 50."""
    x = torch.randn(200, 2)
    y = (x.sum(1) > 0).long()
    model = mlp(2, 2, 2, act=nn.Sigmoid, he=False)
    batches = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 200, 10)]
    return gg.Scenario(model, batches, entropy, optimizer=torch.optim.SGD(model.parameters(), 0.01))


def zero_rate() -> gg.Scenario:
    return two_layers(0.0)


def slow() -> gg.Scenario:
    return two_layers(1e-5)


FAULTY = (
    Program("two linear layers, N(0,1), lr 3", linear_product, ("GG401",)),
    Program("a line, lr 0.1 over 2/43", line, ("GG401",)),
    Program("a parabola, lr 1.13 x the limit", parabola, ("GG401",)),
    Program("sum for a mean, lr 1", lambda: summed(1.0), ("GG404", "GG401")),
    Program("ascent", ascent, ("GG401",)),
    Program("the loss with the wrong sign", wrong_sign, ("GG401",)),
    Program("exclusive or", exclusive_or, ("GG403",)),
    Program("two slow sigmoids", slow_sigmoids, ("GG403",)),
    Program("momentum 0.9, lr 5", lambda: two_layers(5.0, 0.9), ("GG401",)),
    Program("SGD lr 30", lambda: two_layers(30.0), ("GG401",)),
    Program("Adam lr 1", lambda: adam(1.0), ("GG401",)),
    Program("12 layers N(0,1)", wide_start, ("GG401", "GG404")),
    Program("lr 1e-5", slow, ("GG403",)),
    Program("lr 0", zero_rate, ("GG403",)),
    Program("ten sigmoids", sigmoids, ("GG405",)),
)


def warm_up() -> gg.Scenario:
    model = mlp(64, 64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
    return gg.Scenario(model, digits(32), entropy, optimizer=optimizer)


def converged_line() -> gg.Scenario:
    model = nn.Linear(5, 1)
    x = torch.randn(200, 5)
    y = x @ torch.randn(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(600):
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return gg.Scenario(model, [(x, y)], square, optimizer=optimizer)


def converged_digits() -> gg.Scenario:
    scenario = adam(1e-3)
    for _ in range(15):
        for batch in scenario.batches:
            scenario.optimizer.zero_grad()
            entropy(scenario.model, batch).backward()
            scenario.optimizer.step()
    fresh = torch.optim.Adam(scenario.model.parameters(), 1e-3)  # the state is lost: its first steps are large
    return gg.Scenario(scenario.model, scenario.batches, entropy, optimizer=fresh)


def catapult() -> gg.Scenario:
    model = nn.Sequential(nn.Linear(20, 256, bias=False), nn.Linear(256, 1, bias=False))
    nn.init.normal_(model[0].weight, 0.0, 20**-0.5)  # type: ignore[arg-type]
    nn.init.normal_(model[1].weight, 0.0, 256**-0.5)  # type: ignore[arg-type]
    x, y = torch.randn(20, 20), torch.randn(20, 1)
    largest = sharpness(model, lambda m: functional.mse_loss(m(x), y))
    return gg.Scenario(model, [(x, y)], square, optimizer=torch.optim.SGD(model.parameters(), 3.0 / largest))


def sharpness(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> float:
    """The Hessian's largest eigenvalue by power iteration."""
    parameters = list(model.parameters())
    vector = [torch.randn_like(p) for p in parameters]
    value = 0.0
    for _ in range(50):
        size = sum(float((v**2).sum()) for v in vector) ** 0.5
        vector = [v / size for v in vector]
        gradient = torch.autograd.grad(loss(model), parameters, create_graph=True)
        slope = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True))
        image = torch.autograd.grad(slope, parameters)  # type: ignore[arg-type]  # sum of tensors, not the int 0
        value = sum(float((a * v).sum()) for a, v in zip(image, vector, strict=True))
        vector = list(image)
    return value


def edge_of_stability() -> gg.Scenario:
    model = mlp(64, 64, 10, act=nn.Tanh, he=False)
    x, y = data()
    batch = (x[:300], functional.one_hot(y[:300], 10).float())
    optimizer = torch.optim.SGD(model.parameters(), 0.7)
    for _ in range(600):
        optimizer.zero_grad()
        square(model, batch).backward()
        optimizer.step()
    return gg.Scenario(model, [batch], square, optimizer=optimizer)


def likelihood() -> gg.Scenario:
    """A Gaussian's negative logarithm: the loss becomes negative."""
    model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))
    x = torch.randn(512, 3)
    y = 0.01 * x[:, :1] + 0.001 * torch.randn(512, 1)

    def loss(m: Any, b: Any) -> Any:
        mean, log_std = m(b[0]).split(1, dim=1)
        log_std = log_std.clamp(-7, 3)
        return (log_std + 0.5 * ((b[1] - mean) / log_std.exp()) ** 2).mean()

    return gg.Scenario(
        model, [(x[i : i + 64], y[i : i + 64]) for i in range(0, 512, 64)], loss,
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
    )


def plain(model: nn.Module, size: int, lr: float, *, scale: float = 1.0, smoothing: float = 0.0) -> gg.Scenario:
    return gg.Scenario(
        model, digits(size, scale), lambda m, b: functional.cross_entropy(m(b[0]), b[1], label_smoothing=smoothing),
        optimizer=torch.optim.SGD(model.parameters(), lr, momentum=0.9),
    )


def cyclic_restarts() -> gg.Scenario:
    scenario = two_layers(0.05)
    return scenario


def dropout() -> gg.Scenario:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)
    )
    return gg.Scenario(model, digits(32), entropy, optimizer=torch.optim.Adam(model.parameters(), 1e-3))


def batchnorm() -> gg.Scenario:
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    return plain(model, 32, 0.05, scale=255.0)


def accumulation() -> gg.Scenario:
    """A batch is four micro-batches, whose losses are averaged."""
    model = mlp(64, 64, 64, 10)
    small = digits(8)
    batches = [small[i : i + 4] for i in range(0, len(small) - 3, 4)]
    return gg.Scenario(
        model, batches, lambda m, b: sum(entropy(m, part) / 4 for part in b),
        optimizer=torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
    )


class Rows(nn.Module):
    """A transformer over the picture's rows, at BERT's initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.body = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.body(self.embed(x.view(-1, 8, 8))).mean(1))
        return hidden


def long_way() -> gg.Scenario:
    """The rate of a fine-tuning, from scratch: slow, but its steps are of the size that Adam makes at that rate."""
    model = Rows()
    return gg.Scenario(model, digits(16), entropy, optimizer=torch.optim.AdamW(model.parameters(), 5e-5))


HEALTHY = (
    Program("accumulation", accumulation, keywords={"steps": 12}),
    Program("a transformer at 5e-5", long_way, keywords={"steps": 20}),
    Program("MLP, Adam", lambda: adam(1e-3)),
    Program("MLP, momentum", lambda: two_layers(0.05, 0.9)),
    Program("warm-up from 0", warm_up),
    Program("warm-up given as a function", lambda: two_layers(0.5), keywords={"schedule": lambda step: min(1.0, (step + 1) / 30)}),
    Program("restarts", cyclic_restarts, keywords={"schedule": lambda step: 1.0 + 9.0 * ((step % 20) < 5)}),
    Program("converged line", converged_line),
    Program("converged digits, fresh Adam", converged_digits),
    Program("catapult", catapult),
    Program("edge of stability", edge_of_stability),
    Program("negative loss", likelihood),
    Program("batches of 4", lambda: plain(mlp(64, 64, 10), 4, 0.002)),
    Program("label smoothing", lambda: plain(mlp(64, 64, 10), 32, 0.02, smoothing=0.3)),
    Program("raw pixels into BatchNorm", batchnorm),
    Program("dropout", dropout),
    Program("sum with a rate chosen for it", lambda: summed(1e-3)),
    Program("clipped", lambda: two_layers(0.5, 0.9), keywords={"clip": 0.5}),
)
