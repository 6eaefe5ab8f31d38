"""Programs from a seeded generator: architecture, depth, initialisation, data, optimizer and fault drawn at random.

Judged after the thresholds were frozen: ``python -m benchmarks.health.generated [--first SEED] [--count N] [--steps N]``.
A program is healthy (as it was drawn) or has one fault planted in it. Healthy ones are those whose own training, by hand,
ends better than half of what guessing gives; programs that do not learn although nothing was planted are left out and
counted, because nobody can say what they are.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.health.__main__ import Result, run_case, summary
from benchmarks.health.programs import Case, Program, digits, linears, loader

__all__ = ["FAULTS", "draw", "main"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Stop(nn.Module):
    """A cut graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


class Scores(nn.Module):
    """Self-attention over eight tokens, with a factor on the scores."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.scale = (
            nn.Linear(8, width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            scale,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.reshape(len(x), -1, 8))
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        p = torch.softmax(q @ k.transpose(1, 2) * self.scale, dim=-1)
        return (h + self.out(p @ v)).mean(1)


class Image(nn.Module):
    """A convolution over the 8 by 8 picture, flattened again."""

    def __init__(self, channels: int, norm: bool, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), *([nn.BatchNorm2d(channels)] if norm else []), act()]
        self.net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.reshape(-1, 1, 8, 8))


class Drawn:
    """One draw: everything that makes a program, before a fault is planted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        r = self.r = random.Random(seed)
        torch.manual_seed(seed)
        self.task = r.choice(["digits", "digits", "clusters", "regression"])
        self.kind = (
            r.choice(["mlp", "mlp", "residual", "conv", "attention"])
            if self.task == "digits"
            else r.choice(["mlp", "residual"])
        )
        self.depth = r.choice([1, 2, 3, 4, 6])
        self.width = r.choice([24, 32, 64, 96])
        self.act_name = r.choice(list(ACTIVATIONS))
        self.act = ACTIVATIONS[self.act_name]
        self.norm = r.choice([None, None, "batch", "layer"])
        self.dropout = r.choice([0.0, 0.0, 0.2])
        self.init = r.choice(["default", "he", "xavier"])
        self.batch = r.choice([16, 32, 64, 128])
        self.optimizer = r.choice(["sgd", "momentum", "adam", "adamw", "rmsprop"])
        self.x, self.y, self.outputs = self._data()

    def _data(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        if self.task == "digits":
            x, y = digits()
            return x, y, 10
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(1024, 16, generator=g)
        if self.task == "clusters":
            centres = 2 * torch.randn(5, 16, generator=g)
            y = torch.randint(0, 5, (1024,), generator=g)
            return x + centres[y], y, 5
        w = torch.randn(16, 1, generator=g) / 4
        y = torch.tanh(x @ w) + 0.3 * x[:, :1] + 0.05 * torch.randn(1024, 1, generator=g)
        return x, (y - y.mean()) / y.std(), 1

    def layer(self, a: int, b: int) -> list[nn.Module]:
        linear = nn.Linear(a, b)
        if self.init == "he":
            nn.init.kaiming_normal_(linear.weight)
        elif self.init == "xavier":
            nn.init.xavier_uniform_(linear.weight)
        norm: list[nn.Module] = {"batch": [nn.BatchNorm1d(b)], "layer": [nn.LayerNorm(b)]}.get(self.norm or "", [])
        return [linear, *norm, self.act(), *([nn.Dropout(self.dropout)] if self.dropout else [])]

    def model(self, scale: float = 1.0) -> nn.Sequential:
        width = self.width
        parts: list[nn.Module] = []
        if self.kind == "conv":
            parts.append(Image(8, self.norm == "batch", self.act))
            parts += self.layer(128, width)
        elif self.kind == "attention":
            parts.append(Scores(width, scale * width**-0.5))
            parts += self.layer(width, width)
        else:
            parts += self.layer(self.x.shape[1], width)
        for _ in range(self.depth):
            parts += (
                [Residual(nn.Sequential(*self.layer(width, width)))] if self.kind == "residual" else self.layer(width, width)
            )
        return nn.Sequential(*parts, nn.Linear(width, self.outputs))

    def loss(self, m: Any, b: Any) -> torch.Tensor:
        return functional.mse_loss(m(b[0]), b[1]) if self.task == "regression" else functional.cross_entropy(m(b[0]), b[1])

    def make(self, factor: float = 1.0) -> Callable[[Any], torch.optim.Optimizer]:
        return {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.05 * factor),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.01 * factor, momentum=0.9),
            "adam": lambda p: torch.optim.Adam(p, lr=1e-3 * factor),
            "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3 * factor),
            "rmsprop": lambda p: torch.optim.RMSprop(p, lr=5e-4 * factor),
        }[self.optimizer]

    def program(self, model: nn.Module, loss: Any = None, factor: float = 1.0, x: Any = None, y: Any = None) -> Program:
        batches = loader(self.x if x is None else x, self.y if y is None else y, self.batch, self.seed)
        return Program(model, batches, loss or self.loss, self.make(factor)(model.parameters()))


Fault = Callable[[Drawn], tuple[Program, set[str], str]]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def hidden(d: Drawn, model: nn.Module) -> tuple[str, nn.Linear]:
    """A linear layer before the last one, chosen by the draw."""
    named = [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and "embed" not in n and "qkv" not in n and not n.endswith(".out")
    ]
    return d.r.choice(named[:-1])


@fault
def dead_layer(d: Drawn) -> tuple[Program, set[str], str]:
    d.act, d.norm, d.dropout, d.depth = nn.ReLU, None, 0.0, max(2, d.depth)
    d.kind = "mlp" if d.kind == "residual" else d.kind
    model = d.model()
    name, layer = hidden(d, model)
    nn.init.constant_(layer.bias, -60.0)
    return d.program(model), {"GG201"}, name


@fault
def cut_graph(d: Drawn) -> tuple[Program, set[str], str]:
    model = d.model()
    place = d.r.randrange(1, len(model))
    layers = list(model)
    cut = nn.Sequential(*layers[:place], Stop(), *layers[place:])
    before = [n for n, m in cut.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and int(n.partition(".")[0]) < place]
    return d.program(cut), {"GG303"}, before[-1] if before else ""


@fault
def double_softmax(d: Drawn) -> tuple[Program, set[str], str]:
    d.task = "digits" if d.task == "regression" else d.task
    d.x, d.y, d.outputs = d._data()
    return d.program(nn.Sequential(*d.model(), nn.Softmax(dim=1))), {"GG501"}, ""


@fault
def bounded_output(d: Drawn) -> tuple[Program, set[str], str]:
    d.task, d.kind = "regression", "mlp"
    d.x, d.y, d.outputs = d._data()
    y = d.y * d.r.choice([3.0, 10.0, 50.0]) + d.r.choice([0.0, 5.0])
    return d.program(nn.Sequential(*d.model(), nn.Sigmoid()), y=y), {"GG501"}, ""


@fault
def stretched_shapes(d: Drawn) -> tuple[Program, set[str], str]:
    d.task, d.kind = "regression", "mlp"
    d.x, d.y, d.outputs = d._data()
    return d.program(d.model(), loss=lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), y=d.y[:, 0]), {"GG501"}, ""


@fault
def constant_weights(d: Drawn) -> tuple[Program, set[str], str]:
    d.dropout, d.kind = 0.0, "mlp"
    d.task = "digits" if d.task == "regression" else d.task
    d.x, d.y, d.outputs = d._data()
    model = d.model()
    for layer in linears(model):
        nn.init.constant_(layer.weight, d.r.choice([0.0, 0.01, 0.1]))
        nn.init.zeros_(layer.bias)
    return d.program(model), {"GG206", "GG201"}, ""


@fault
def sigmoid_stack(d: Drawn) -> tuple[Program, set[str], str]:
    d.act, d.norm, d.kind, d.depth, d.init, d.dropout = nn.Sigmoid, None, "mlp", d.r.choice([9, 12, 15]), "xavier", 0.0
    d.task = "digits" if d.task == "regression" else d.task
    d.optimizer = d.r.choice(["sgd", "momentum"])
    d.x, d.y, d.outputs = d._data()
    return d.program(d.model()), {"GG301"}, ""


@fault
def unit_weights(d: Drawn) -> tuple[Program, set[str], str]:
    d.act, d.norm, d.kind, d.depth, d.width = nn.ReLU, None, "mlp", d.r.choice([8, 10, 12]), d.r.choice([64, 96])
    model = d.model()
    for layer in linears(model):
        nn.init.normal_(layer.weight)
    return d.program(model), {"GG302", "GG401", "GG404"}, ""


@fault
def nan_row(d: Drawn) -> tuple[Program, set[str], str]:
    program = d.program(d.model())
    index = d.r.randrange(min(10, len(program.batches)))
    program.batches[index][0][d.r.randrange(4), d.r.randrange(8)] = float("nan")
    return program, {"GG203"}, ""


class Bad(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x.abs() - 1e4)


@fault
def nan_module(d: Drawn) -> tuple[Program, set[str], str]:
    layers = list(d.model())
    place = d.r.randrange(1, len(layers))
    return d.program(nn.Sequential(*layers[:place], Bad(), *layers[place:])), {"GG203"}, str(place)


@fault
def other_optimizer(d: Drawn) -> tuple[Program, set[str], str]:
    program = d.program(d.model())
    program.optimizer = d.make()(d.model().parameters())
    return program, {"GG303"}, ""


@fault
def replaced_head(d: Drawn) -> tuple[Program, set[str], str]:
    model = d.model()
    program = d.program(model)
    model[len(model) - 1] = nn.Linear(d.width, d.outputs)
    return program, {"GG303"}, ""


@fault
def huge_rate(d: Drawn) -> tuple[Program, set[str], str]:
    d.norm, d.dropout = None, 0.0
    return d.program(d.model(), factor=3000.0), {"GG401"}, ""


@fault
def tiny_rate(d: Drawn) -> tuple[Program, set[str], str]:
    return d.program(d.model(), factor=1e-5), {"GG403"}, ""


@fault
def heavy_penalty(d: Drawn) -> tuple[Program, set[str], str]:
    d.kind, d.norm, d.optimizer = "mlp", None, d.r.choice(["sgd", "adam"])  # behind a normalisation weights may shrink
    factor = d.r.choice([3.0, 10.0])
    d.task = "digits" if d.task == "regression" else d.task
    d.x, d.y, d.outputs = d._data()
    rate = 0.2 if d.optimizer == "sgd" else 1.0
    return (
        d.program(d.model(), loss=lambda m, b: d.loss(m, b) + factor * sum((p**2).sum() for p in m.parameters()), factor=rate),
        {"GG406", "GG204"},
        "",
    )


@fault
def collapsed_attention(d: Drawn) -> tuple[Program, set[str], str]:
    d.task, d.kind = "digits", "attention"
    d.x, d.y, d.outputs = d._data()
    return d.program(d.model(scale=d.r.choice([2e3, 1e4]))), {"GG205"}, ""


@fault
def ascent(d: Drawn) -> tuple[Program, set[str], str]:
    d.task = "digits" if d.task == "regression" else d.task
    d.x, d.y, d.outputs = d._data()
    d.kind = "mlp"
    return d.program(d.model(), loss=lambda m, b: -d.loss(m, b)), {"GG401", "GG402", "GG406"}, ""


@fault
def random_labels(d: Drawn) -> tuple[Program, set[str], str]:
    d.task = "digits" if d.task == "regression" else d.task
    d.x, d.y, d.outputs = d._data()
    loss = d.loss
    return d.program(d.model(), loss=lambda m, b: loss(m, (b[0], b[1][torch.randperm(len(b[1]))]))), {"GG406"}, ""


def draw(seed: int) -> tuple[str, Case]:
    """The name of the fault (``""`` for healthy) and the case of one seed; every second one is healthy."""
    names = list(FAULTS)
    name = names[(seed // 2) % len(names)] if seed % 2 else ""
    if not name:
        return "", Case(f"h{seed}", "as drawn", lambda s, seed=seed: (d := Drawn(seed)).program(d.model()))
    codes, module = FAULTS[name](Drawn(seed))[1:]
    return name, Case(
        f"f{seed}", name, lambda s, seed=seed, name=name: FAULTS[name](Drawn(seed))[0], frozenset(codes), module=module
    )


def learns(case: Case, steps: int = 300) -> bool:
    """Trained by hand, the loss ends below half of guessing."""
    program = case.build(0)
    losses = []
    for step in range(steps):
        program.optimizer.zero_grad()
        loss = program.loss(program.model, program.batches[step % len(program.batches)])
        loss.backward()
        program.optimizer.step()
        losses.append(float(loss.detach()))
    end = sum(losses[-20:]) / 20
    return end < 0.5 * sum(losses[:3]) / 3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--count", type=int, default=144)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[tuple[str, Result]] = []
    left_out = 0
    try:
        for seed in range(options.first, options.first + options.count):
            name, case = draw(seed)
            if not name and not learns(case):
                left_out += 1
                continue
            r = run_case(case, seed, options.steps)
            results.append((name, r))
            good = (r.first in case.expected) if name else not r.errors and not r.raised
            mark = "ok" if good else "FLAG" if r.flagged else "MISS" if name else "FALSE"
            place = f"module {r.module} for {case.module}" if case.module else ""
            print(
                f"{mark:6}{seed} {name} first {r.first} errors {r.errors} warnings {r.warnings} {place} {r.raised}", flush=True
            )
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {options.count}")
    print(summary([r for _, r in results]))
    print(f"left out, because they do not learn as they were drawn: {left_out}")
    found, wanted, named, places = Counter[str](), Counter[str](), 0, 0
    for name, r in results:
        wanted[name] += 1
        found[name] += r.flagged
        if r.case.module and r.flagged:
            places += 1
            named += r.module == r.case.module
    print("; ".join(f"{n} {found[n]}/{wanted[n]}" for n in FAULTS if wanted[n]))
    print(f"the named module is the right one: {named} of {places}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
