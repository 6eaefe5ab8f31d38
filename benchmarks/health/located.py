"""Is the named module the right one? ``python -m benchmarks.health.located [--first SEED] [--count N] [--steps N]``.

One fault is planted in one module of a generated net: a dead layer, a cut graph, a wrong initialisation, a NaN. Each case
has a healthy twin, the same net from the same seed without the fault, which must be silent. A finding names the right
module where its module (or that of its block) is the one in which the fault was planted.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.health.programs import ce, digits, loader
from gradguard.finding import Finding
from gradguard.health import check_training

__all__ = ["FAULTS", "KINDS", "Planted", "draw", "judge", "main"]


class Residual(nn.Module):
    """x + f(x), the sum normalised where it was drawn so."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.inner(x)
        return out


class Attention(nn.Module):
    """Self-attention with one projection each for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (f(x).reshape(b, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return out


class Transformer(nn.Module):
    """Rows of the picture as tokens; pre-norm blocks, a mean, a head."""

    def __init__(self, r: random.Random) -> None:
        super().__init__()
        width = r.choice([32, 48])
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(0.1 * torch.randn(8, width))
        blocks = []
        for _ in range(r.choice([2, 3])):
            blocks.append(Residual(nn.LayerNorm(width), Attention(width, 4)))
            hidden = nn.ReLU()
            blocks.append(Residual(nn.LayerNorm(width), nn.Linear(width, 2 * width), hidden, nn.Linear(2 * width, width)))
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.blocks(self.embed(x.reshape(-1, 8, 8)) + self.place)
        out: torch.Tensor = self.head(self.norm(h).mean(1))
        return out


class Last(nn.Module):
    """The last state of a recurrence over rows."""

    def __init__(self, recurrence: nn.RNNBase) -> None:
        super().__init__()
        self.run = recurrence

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.run(x.reshape(-1, 8, 8))[0][:, -1]
        return out


class Picture(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 1, 8, 8)


def mlp(r: random.Random) -> nn.Module:
    width, depth, norm = r.choice([48, 64, 96]), r.choice([3, 4, 5]), r.choice([None, None, "layer"])
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(64 if i == 0 else width, width), *([nn.LayerNorm(width)] if norm else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def cnn(r: random.Random) -> nn.Module:
    channels, norm = r.choice([8, 12, 16]), r.choice([False, True])
    parts: list[nn.Module] = [Picture()]
    for i in range(r.choice([2, 3, 4])):
        norms = [nn.BatchNorm2d(channels)] if norm else []
        parts += [nn.Conv2d(1 if i == 0 else channels, channels, 3, padding=1), *norms, nn.ReLU()]
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 48), nn.ReLU(), nn.Linear(48, 10)
    )


def residual(r: random.Random) -> nn.Module:
    width = r.choice([48, 64])
    blocks = [
        Residual(
            *([nn.LayerNorm(width)] if r.random() < 0.5 else []), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        for _ in range(r.choice([2, 3, 4]))
    ]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *blocks, nn.Linear(width, 10))


def recurrent(r: random.Random) -> nn.Module:
    width = r.choice([32, 48])
    kind: Any = r.choice([nn.GRU, nn.LSTM, nn.RNN])
    return nn.Sequential(
        Last(kind(8, width, batch_first=True)), nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )


KINDS: dict[str, Callable[[random.Random], nn.Module]] = {
    "mlp": mlp, "cnn": cnn, "residual": residual, "transformer": Transformer, "recurrent": recurrent,
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A case: what was planted where, the modules that may be named, the codes that may head the report."""

    seed: int
    kind: str
    fault: str
    model: nn.Module
    modules: frozenset[str]
    codes: frozenset[str]


Fault = Callable[[nn.Module, random.Random], tuple[set[str], set[str]] | None]
FAULTS: dict[str, Fault] = {}
"""Each plants itself in a model and says the modules and the codes that are right; None where the model has no place."""


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers with weights before the head, in the order of the pass."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]


def rectified(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those that feed a ReLU directly, or through a normalisation (whose bias is then the one that counts)."""
    found = []
    for path, parent in model.named_modules():
        if isinstance(parent, nn.Sequential):
            names = list(parent._modules)
            for i, name in enumerate(names[1:], start=1):
                before = parent._modules[names[i - 1]]
                if isinstance(parent._modules[name], nn.ReLU) and hasattr(before, "bias"):
                    found.append((f"{path}.{names[i - 1]}".lstrip("."), before))
    return [(n, m) for n, m in found if m is not None]


def followed(model: nn.Module, name: str, after: nn.Module) -> None:
    """What the module gives goes through another one."""
    parent_path, _, last = name.rpartition(".")
    parent = model.get_submodule(parent_path)
    wrapped = Followed(parent.get_submodule(last), after)
    setattr(parent, last, wrapped)


class Followed(nn.Module):
    def __init__(self, layer: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.layer, self.after = layer, after

    def forward(self, *given: Any) -> Any:
        return self.after(self.layer(*given))


@fault
def dead(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    name, layer = r.choice(rectified(model))
    nn.init.constant_(layer.bias, -20.0)  # type: ignore[arg-type]  # a layer with a bias, as rectified() says
    return {name}, {"GG201"}


class Cut(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "detach":
            return x.detach()
        if self.how == "data":
            return x.data
        return torch.tensor(x.tolist(), dtype=x.dtype)


@fault
def cut(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    name, _ = r.choice(layers(model))
    followed(model, name, Cut(r.choice(["detach", "data", "tensor"])))
    return {f"{name}.layer", f"{name}.after", name}, {"GG303"}


def scaled(model: nn.Module, r: random.Random, factor: float) -> set[str]:
    """A branch that begins near 0 is no fault (many residual nets do): there the first layer is the place."""
    branched = any(isinstance(m, Residual) for m in model.modules())
    name, layer = layers(model)[0] if branched and factor < 1 else r.choice(layers(model))
    with torch.no_grad():
        layer.weight.mul_(factor)  # type: ignore[operator, union-attr]  # a layer with weights, as layers() says
    return {name}


@fault
def too_large(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    return scaled(model, r, 30.0), {"GG503"}


@fault
def too_small(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    return scaled(model, r, 0.001), {"GG503"}


@fault
def constant(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    name, layer = r.choice(layers(model))
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.05)
    return {name}, {"GG206"}


class NotFinite(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "log":
            return torch.log(x - x.max())
        if self.how == "division":
            return x / (x - x.mean(-1, keepdim=True)).abs().amin(-1, keepdim=True).mul(0)
        return x + (x - x).square().sum(-1, keepdim=True).sqrt()  # its value is finite, its derivative is not


@fault
def not_finite(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    name, _ = r.choice(layers(model))
    how = r.choice(["log", "division"])
    followed(model, name, NotFinite(how))
    return {f"{name}.after", name}, {"GG203"}


@fault
def not_finite_backward(model: nn.Module, r: random.Random) -> tuple[set[str], set[str]] | None:
    name, _ = r.choice(layers(model))
    followed(model, name, NotFinite("root"))
    return {f"{name}.layer", f"{name}.after", name}, {"GG302", "GG203", "GG102"}


def draw(seed: int) -> tuple[Planted, nn.Module]:
    """A case and its healthy twin."""
    kinds, faults = list(KINDS), list(FAULTS)
    kind, name = kinds[seed % len(kinds)], faults[(seed // len(kinds)) % len(faults)]
    r = random.Random(seed)
    torch.manual_seed(seed)
    model = KINDS[kind](r)
    twin = copy.deepcopy(model)
    planted = FAULTS[name](model, r)
    if planted is None:
        raise ValueError(f"{kind} has no place for {name}")
    modules, codes = planted
    return Planted(seed, kind, name, model, frozenset(modules), frozenset(codes)), twin


def judge(model: nn.Module, seed: int, steps: int, select: Any = None) -> tuple[Finding, ...]:
    """What check_training finds, roots first."""
    batches = loader(*digits(), 64, seed)
    make: Any = [lambda p: torch.optim.Adam(p, lr=1e-3), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)][seed % 2]
    report = check_training(model, batches, loss=ce, optimizer=make(model.parameters()), steps=steps, seed=seed, select=select)
    return tuple(f for f in report.findings if f.severity in ("error", "warning"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=70)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-twins", action="store_true", help="leave out the healthy twins")
    options = parser.parse_args()
    torch.set_num_threads(1)
    right, seen, errors, named_any, false = Counter[str](), Counter[str](), Counter[str](), Counter[str](), 0
    for seed in range(options.first, options.first + options.count):
        start = time.perf_counter()
        case, twin = draw(seed)
        found = judge(case.model, seed, options.steps)
        head = next(iter(found), None)
        named = head is not None and (head.module or head.block.rpartition(".")[0]) in case.modules
        seen[case.fault] += 1
        right[case.fault] += named
        errors[case.fault] += head is not None and head.severity == "error"
        named_any[case.fault] += any(f.module in case.modules for f in found)
        wrong = () if options.no_twins else tuple(f for f in judge(twin, seed, options.steps) if f.severity == "error")
        false += bool(wrong)
        shown = [f"{f.code}{'' if f.severity == 'error' else 'w'}:{f.module}{'<' if f.caused_by else ''}" for f in found]
        print(
            f"{'ok' if named else 'WRONG':6}{seed} {case.kind} {case.fault} at {sorted(case.modules)}: {' '.join(shown)}"
            f"{'  TWIN ' + ' '.join(f.code for f in wrong) if wrong else ''} {time.perf_counter() - start:.1f} s",
            flush=True,
        )
    for name in seen:
        print(
            f"{name}: head names it {right[name]}/{seen[name]}, an error {errors[name]}, some finding names it {named_any[name]}"
        )
    total = sum(seen.values())
    print(f"the head names the right module: {sum(right.values())} of {total}; healthy twins with an error: {false}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
