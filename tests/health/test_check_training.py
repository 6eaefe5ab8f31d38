"""check_training end to end: planted faults are named where they are, and their healthy twins are silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg


def data(seed: int = 0, n: int = 512) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 20, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return list(zip(x.split(32), y.split(32), strict=True))


def ce(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b[0]), b[1])


def net(depth: int = 4, width: int = 64, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(20 if i == 0 else width, width))
        nn.init.kaiming_normal_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        if norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(act())
    return nn.Sequential(*layers, nn.Linear(width, 3))


def check(
    model: nn.Module, loss: Any = ce, lr: float = 0.05, select: Any = ("GG2", "GG3", "GG406", "GG5"), **options: Any
) -> gg.Report:
    return gg.check_training(
        model,
        data(),
        loss=loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        select=select,
        **options,
    )


def linears(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_dead_layer_is_named(k: int) -> None:
    model = net()
    name = linears(model)[k]
    nn.init.constant_(model.get_submodule(name).bias, -50.0)
    report = check(model)
    assert report.errors[0].code == "GG201"
    assert report.errors[0].module == name
    assert report.errors[0].count == report.errors[0].total == 64
    assert "at birth" in report.errors[0].message


def test_one_sample_in_ten_thousand_revives_a_unit() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[0].weight[:, 0] = torch.linspace(1.0, 2.0, 8)
    nn.init.constant_(model[0].bias, -20.0)
    x = torch.zeros(10_000, 4)
    y = torch.randint(0, 2, (10_000,))
    batches = list(zip(x.split(500), y.split(500), strict=True))
    dead = gg.check_training(model, batches, loss=ce, select="GG201")
    assert not dead.ok
    x[7_777, 0] = 100.0
    assert gg.check_training(model, list(zip(x.split(500), y.split(500), strict=True)), loss=ce, select="GG201").ok


@pytest.mark.parametrize(
    "call",
    [functional.relu, torch.relu, lambda x: x.relu(), lambda x: x.clamp(min=0), lambda x: functional.relu(x, inplace=True)],
)
def test_functional_activations_are_seen(call: Any) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(20, 32), nn.Linear(32, 3)
            nn.init.constant_(self.a.bias, -50.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(call(self.a(x)))

    report = check(Functional(), select="GG201")
    assert [(f.code, f.module) for f in report.errors] == [("GG201", "a")]


def test_channels_are_units() -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(functional.relu(self.c(x.reshape(-1, 1, 4, 5))).mean((2, 3)))

    table = check(Conv()).tables["units"]
    assert list(table["units"]) == [6, 6]
    assert int(table["samples"].iloc[0]) == 512 * 20


class Cut(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.layers, self.k = nn.ModuleList([nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 32)]), k
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            x = functional.relu(layer(x))
            x = x.detach() if i == self.k else x
        return self.head(x)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_cut_graph_is_named(k: int) -> None:
    (error,) = check(Cut(k), select="GG303").errors
    assert error.module == f"layers.{k}"
    assert error.count == 2 * (k + 1)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_nan_is_named_where_it_is_born(k: int) -> None:
    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x - 100.0)

    model = net()
    model[2 * k + 1] = Log()
    error = check(model, select="GG203").errors[0]
    assert error.module == str(2 * k + 1)
    assert "before any step" in error.message


def test_ten_sigmoids_vanish_by_a_quarter_of_the_gain() -> None:
    model = net(10, 64, nn.Sigmoid)
    for name in linears(model):
        nn.init.xavier_normal_(model.get_submodule(name).weight)
    report = check(model, lr=0.02)
    error = report.errors[0]
    assert error.code == "GG301"
    assert error.observed is not None
    assert error.observed < 1e-4
    growth = float(report.tables["flow"]["growth"].iloc[0])
    # each layer passes at most a quarter of what a matrix of gain about 1 passes
    assert 3.0 < growth < 8.0


@pytest.mark.parametrize(
    "model",
    [net(10), net(10, norm=True), net(10, 64, nn.Sigmoid, norm=True), net(4)],
    ids=["relu", "relu-norm", "sigmoid-norm", "four"],
)
def test_the_same_net_with_relu_or_normalisation_is_silent(model: nn.Module) -> None:
    report = check(model, lr=0.01)
    assert report.ok, str(report)


def test_he_against_unit_normal_in_twelve_layers() -> None:
    model = net(12)
    assert check(model, lr=0.01).ok
    for name in linears(model):
        nn.init.normal_(model.get_submodule(name).weight)
    assert check(model, lr=0.01).errors[0].code == "GG302"


def test_constant_initialisation() -> None:
    model = net()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    assert check(model).errors[0].code == "GG206"


def test_leaks_are_found_where_they_were_declared_impossible() -> None:
    class Mixed(nn.Module):
        def __init__(self, batch: bool, time: bool) -> None:
            super().__init__()
            self.a, self.mix, self.b, self.batch, self.time = (
                nn.Linear(4, 8),
                nn.Identity(),
                nn.Linear(8, 3),
                batch,
                time,
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x.reshape(-1, 5, 4))
            h = self.mix(h + h.mean(0, keepdim=True) if self.batch else h)
            h = h + h.mean(1, keepdim=True) if self.time else h.cumsum(1)
            return self.b(h)

    def loss(m: Any, b: Any) -> torch.Tensor:
        return functional.cross_entropy(m(b[0].reshape(-1, 5, 4))[:, -1], b[1])

    options: dict[str, Any] = {"loss": loss, "select": ("GG305", "GG306"), "causal": True, "independent_samples": True}
    assert [f.code for f in check(Mixed(True, False), **options).errors] == ["GG305"]
    assert [f.code for f in check(Mixed(False, True), **options).errors] == ["GG306"]
    clean = check(Mixed(False, False), **options)
    assert clean.ok
    assert {c.status for c in clean.checks} == {"passed"}
    undeclared = check(Mixed(True, True), loss=loss, select=("GG305", "GG306"))
    assert {c.status for c in undeclared.checks} == {"skipped"}


def test_without_an_optimizer_only_the_point_is_checked() -> None:
    report = gg.check_training(net(), data(), loss=ce)
    assert report.ok
    skipped = {c.code: c.reason for c in report.checks if c.status == "skipped"}
    assert skipped["GG303"] == "no optimizer: only the checks at the point"


def test_tables() -> None:
    report = check(net(), steps=12)
    tables = report.tables
    assert len(tables["curve"]) == 12
    assert set(tables["units"]["step"]) == {0, 12}
    assert set(tables["flow"]["block"]) == {f"{n}.weight" for n in linears(net())}
    assert list(tables["flow"]["depth"].iloc[:4]) == [0, 0, 1, 1]


def test_an_ignore_accepts_a_finding() -> None:
    model = net()
    nn.init.constant_(model[2].bias, -50.0)
    report = check(model, select="GG201", ignore="GG201:2=a branch that is switched off")
    assert report.ok


def numpy_net(bias: float) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    model = {
        "hidden": {"W": rng.normal(size=(20, 32)) * np.sqrt(2 / 20), "b": np.full(32, bias)},
        "out": {"W": rng.normal(size=(32, 3)) * 0.2, "b": np.zeros(3)},
    }

    def forward(m: Any, x: Any) -> tuple[Any, Any]:
        h = np.maximum(x @ m["hidden"]["W"] + m["hidden"]["b"], 0)
        z = h @ m["out"]["W"] + m["out"]["b"]
        e = np.exp(z - z.max(1, keepdims=True))
        return h, e / e.sum(1, keepdims=True)

    def loss(m: Any, b: Any) -> Any:
        return -np.log(forward(m, b[0])[1][np.arange(len(b[1])), b[1]]).mean()

    def grad(m: Any, b: Any) -> Any:
        x, y = b
        h, p = forward(m, x)
        d = p.copy()
        d[np.arange(len(y)), y] -= 1
        d /= len(y)
        dh = (d @ m["out"]["W"].T) * (h > 0)
        return {"hidden": {"W": x.T @ dh, "b": dh.sum(0)}, "out": {"W": h.T @ d, "b": d.sum(0)}}

    options = {
        "loss": loss,
        "grad": grad,
        "activations": lambda m, b: {"hidden": forward(m, b[0])[0]},
        "outputs": lambda m, b: forward(m, b[0])[1],
        "labels": lambda b: b[1],
    }
    return model, options


@pytest.mark.parametrize(("bias", "codes"), [(0.0, []), (-50.0, ["GG201"])])
def test_a_numpy_net_gets_the_same_verdicts(bias: float, codes: list[str]) -> None:
    model, options = numpy_net(bias)
    batches = [(x.numpy().astype(np.float64), y.numpy()) for x, y in data()]
    kept = model["hidden"]["W"].copy()
    report = gg.check_training(model, batches, optimizer=gg.SGD(0.3), select=("GG2", "GG3", "GG4", "GG5"), **options)
    assert [f.code for f in report.errors if not f.caused_by] == codes, str(report)
    assert np.array_equal(model["hidden"]["W"], kept)


class Rare(nn.Module):
    """A part that takes the samples above a threshold, which training raises: at first some batch has such samples."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.common, self.rare, self.cut = nn.Linear(4, 2), nn.Linear(4, 2), cut
        self.threshold = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taken = (x[:, :1] > self.threshold).float()
        rare = self.rare(x).detach() if self.cut else self.rare(x)
        out: torch.Tensor = self.common(x) + taken * rare
        return out


@pytest.mark.parametrize("cut", [True, False])
def test_a_part_that_is_no_longer_used_is_not_cut_off(cut: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(16, 4, generator=generator) for _ in range(2)]
    batches[0][:, 0], batches[1][:, 0] = -1.0, 0.05

    def loss(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m(x).square().mean() - m.threshold  # a threshold without a lower bound on the loss: it only rises

    model = Rare(cut)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = gg.check_training(model, batches, loss=loss, optimizer=optimizer, steps=25, select="GG303")
    assert [f.module for f in report.errors] == (["rare"] if cut else [])
