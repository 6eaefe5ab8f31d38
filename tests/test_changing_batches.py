"""A loss, a model or a hook that changes its batch: reports are those of one that clones first, and the batch stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BatchEncoding

import gradguard as gg
from gradguard.adapters.torch_batch_copies import SMALL
from gradguard.measurements.range_test import RangeTest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CHECKS: dict[str, Callable[[gg.Scenario], Any]] = {
    "audit": lambda s: gg.audit(s, steps=8),
    "gradients": lambda s: gg.audit(s, select="GG1"),
    "check_training": lambda s: gg.check_training(
        s.model, s.batches, loss=s.loss, optimizer=s.optimizer, grad=s.grad, outputs=s.outputs, labels=s.labels, steps=8
    ),
    "check_learning_rate": lambda s: gg.check_learning_rate(
        s.model, s.batches, loss=s.loss, optimizer=s.optimizer, grad=s.grad, steps=8
    ),
    "range_test": lambda s: gg.range_test(s.model, s.batches, loss=s.loss, optimizer=s.optimizer, grad=s.grad, steps=8),
}


@dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor


class Plain:
    """A batch by attributes."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y, self.calls = x, y, [0]


def own(value: Any) -> Any:
    """A clone of a batch."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, Plain):
        return Plain(own(value.x), own(value.y))
    if isinstance(value, Sample):
        return Sample(own(value.x), own(value.y))
    if isinstance(value, dict | BatchEncoding):
        return {key: own(part) for key, part in value.items()}
    return type(value)(own(part) for part in value) if isinstance(value, list | tuple) else copy.deepcopy(value)


def squares(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x) - y).square().mean()


def list_loss(model: Any, batch: Any) -> torch.Tensor:
    batch[0].mul_(1.5)
    batch.append(batch.pop(1) - 0.5)
    return squares(model, batch[0], batch[1])


def dict_loss(model: Any, batch: Any) -> torch.Tensor:
    y = batch.pop("y")
    batch["x"] /= 2
    batch["seen"] = True
    return squares(model, batch["x"], y)


def hidden_loss(model: Any, batch: Any) -> torch.Tensor:
    batch["x"].data.mul_(1.5)
    batch["y"].numpy()[:] -= 0.5
    return squares(model, batch["x"], batch["y"])


def object_loss(model: Any, batch: Any) -> torch.Tensor:
    batch.x.sub_(batch.x.mean(dim=0))
    batch.y = batch.y * 2
    if isinstance(batch, Plain):
        batch.calls.append(1)
        assert batch.calls == [0, 1]
    return squares(model, batch.x, batch.y)


def shape_loss(model: Any, batch: Any) -> torch.Tensor:
    batch[1].squeeze_(1)
    batch[0].requires_grad_(True)
    out = model(batch[0])
    (slope,) = torch.autograd.grad(out.sum(), batch[0], create_graph=True)
    return (out.squeeze(1) - batch[1]).square().mean() + 0.01 * slope.square().mean()


LOSSES: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], Any], Callable[[Any, Any], torch.Tensor]]] = {
    "list": (lambda x, y: [x, y], list_loss),
    "dict": (lambda x, y: {"x": x, "y": y}, dict_loss),
    "hidden": (lambda x, y: {"x": x, "y": y}, hidden_loss),
    "encoding": (lambda x, y: BatchEncoding({"x": x, "y": y}), dict_loss),
    "dataclass": (Sample, object_loss),
    "object": (Plain, object_loss),
    "shape": (lambda x, y: (x, y), shape_loss),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def scenario(kind: str, *, cloned: bool, entries: int = 12) -> gg.Scenario:
    make, loss = LOSSES[kind]
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(3):
        x = torch.randn(entries, 4, generator=generator)
        batches.append(make(x, x[:, :1] * 2 - x[:, 1:2]))
    model = net()
    used = (lambda model, batch: loss(model, own(batch))) if cloned else loss
    return gg.Scenario(model, batches, used, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))


def told(report: Any, besides: str = "") -> Any:
    """All that a report says ``besides`` a rule, but for when it was made and how long it took."""
    if isinstance(report, RangeTest | list):
        return report
    rows = {name: [dict(row) for row in table] for name, table in report.rows.items() if name not in ("runs", "measurements")}
    for name in ("findings", "checks"):
        rows[name] = [row for row in rows.get(name, []) if row["code"] != besides]
    checks = [(c.code, c.status, c.reason) for c in report.checks if c.code != besides]
    return checks, [(f.code, f.severity, str(f)) for f in report.findings if f.code != besides], rows


def frozen(batch: Any) -> Any:
    """Everything that is to stay: keys, identities, values."""
    if isinstance(batch, torch.Tensor):
        return id(batch), batch._version, batch.shape, batch.requires_grad, batch.numpy().tobytes()
    if isinstance(batch, np.ndarray):
        return id(batch), batch.shape, batch.tobytes()
    if isinstance(batch, dict | BatchEncoding):
        return [(key, frozen(value)) for key, value in batch.items()]
    if isinstance(batch, list | tuple):
        return [frozen(one) for one in batch]
    return frozen(vars(batch)) if hasattr(batch, "__dict__") else batch


def compare(make: Callable[[bool], gg.Scenario], check: Callable[[gg.Scenario], Any], besides: str = "") -> None:
    changing, cloning = make(False), make(True)
    before = frozen(changing.batches)
    report = check(changing)
    assert frozen(changing.batches) == before
    np.testing.assert_equal(told(report, besides), told(check(cloning), besides))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_loss_that_changes_its_batch_is_told_the_same_as_one_that_clones(kind: str, check: str) -> None:
    compare(lambda cloned: scenario(kind, cloned=cloned), CHECKS[check])


@pytest.mark.parametrize("kind", ["hidden", "encoding", "dataclass", "shape"])
def test_whatever_the_batch_is_made_of(kind: str) -> None:
    compare(lambda cloned: scenario(kind, cloned=cloned), CHECKS["audit"])


def test_an_object_is_a_batch_too() -> None:
    compare(lambda cloned: scenario("object", cloned=cloned), CHECKS["check_training"])
    assert not gg.audit(scenario("object", cloned=False), select="GG1").findings  # it keeps its own precision: other figures


@pytest.mark.parametrize("kind", ["list", "hidden"])
def test_a_large_batch_is_the_same_in_every_call(kind: str) -> None:
    compare(lambda cloned: scenario(kind, cloned=cloned, entries=SMALL // 16 + 1), lambda s: gg.audit(s, select="GG1", steps=3))
    compare(lambda cloned: scenario(kind, cloned=cloned, entries=SMALL // 16 + 1), lambda s: gg.audit(s, select="GG3", steps=3))


@pytest.mark.parametrize("check", ["audit", "check_learning_rate"])
def test_a_batch_that_is_changed_now_and_then(check: str) -> None:
    def flipped(batch: list[torch.Tensor]) -> torch.Tensor:
        return batch[0].neg_() if float(torch.rand(())) < 0.5 else batch[0]

    def made(cloned: bool) -> gg.Scenario:
        one = scenario("list", cloned=False)

        def loss(model: Any, batch: list[torch.Tensor]) -> torch.Tensor:
            batch = own(batch) if cloned else batch
            return squares(model, flipped(batch).square(), batch[1])

        return replace(one, loss=loss)

    compare(made, CHECKS[check])


class Rectified(nn.Module):
    """Its first layer writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


def halve(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    args[0].mul_(0.5)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("by", ["layer", "hook"])
def test_a_layer_or_a_hook_that_writes_into_the_input(by: str, check: str) -> None:
    def made(cloned: bool) -> gg.Scenario:
        model = Rectified() if by == "layer" else net()
        if by == "hook":
            model.register_forward_pre_hook(halve)
        batches = [list(batch) for batch in scenario("list", cloned=False).batches]

        def loss(model: Any, batch: list[torch.Tensor]) -> torch.Tensor:
            x, y = (t.clone() for t in batch) if cloned else batch
            return squares(model, x, y)

        return gg.Scenario(model, batches, loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))

    compare(made, CHECKS[check], besides="GG108")


@pytest.mark.parametrize("kind", ["list", "dict", "numpy"])
def test_what_a_loss_remembers_of_a_batch_by_its_id_is_of_that_batch(kind: str) -> None:
    remembered: dict[int, Any] = {}

    def loss(model: Any, batch: Any) -> Any:
        x, y = batch.values() if kind == "dict" else batch
        squared = remembered.setdefault(id(batch), x**2)
        if kind == "numpy":
            return float(np.mean((squared @ model["w"] - y) ** 2))
        return squares(model, squared, y)

    def plain(model: Any, batch: Any) -> Any:
        remembered.clear()
        return loss(model, batch)

    def grad(model: Any, batch: Any) -> Any:
        x, y = batch
        return {"w": 2 * (x**2).T @ (x**2 @ model["w"] - y) / len(x)}

    def told_with(used: Any) -> Any:
        rng = np.random.default_rng(0)
        drawn = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 1))) for _ in range(4)]
        if kind == "numpy":
            model: Any = {"w": 0.1 * rng.normal(size=(4, 1))}
            return told(gg.check_learning_rate(model, [list(b) for b in drawn], loss=used, grad=grad, optimizer=gg.SGD(lr=0.01)))
        model = net()
        tensors = [[torch.tensor(part, dtype=torch.float32) for part in batch] for batch in drawn]
        batches = [dict(zip("xy", batch, strict=True)) for batch in tensors] if kind == "dict" else tensors
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return told(gg.check_learning_rate(model, batches, loss=used, optimizer=optimizer))

    np.testing.assert_equal(told_with(loss), told_with(plain))


class Centred(nn.Module):
    """Its own forward writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x *= 2
        out: torch.Tensor = self.net(x)
        return out


@pytest.mark.parametrize(
    ("model", "severities"), [(Centred, ["error"]), (Rectified, ["warning"]), (net, [])], ids=["forward", "first layer", "loss"]
)
def test_what_a_module_writes_into_is_told_and_what_a_loss_does_is_not(model: Callable[[], Any], severities: list[str]) -> None:
    built = model()

    def loss(m: Any, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        if model is net:
            x *= 2
        return squares(m, x, y)

    batches = [list(batch) for batch in scenario("list", cloned=False).batches]
    before = frozen(batches)
    report = gg.audit(gg.Scenario(built, batches, loss), select="GG1")
    assert [(f.code, f.severity) for f in report.findings] == [("GG108", severity) for severity in severities], str(report)
    assert frozen(batches) == before


def numpy_scenario(*, cloned: bool) -> gg.Scenario:
    rng = np.random.default_rng(0)
    model = {"w": rng.normal(size=(4, 1)), "b": np.zeros(1)}
    batches = []
    for _ in range(3):
        x = rng.normal(size=(12, 4))
        batches.append({"x": x, "y": x[:, :1] * 2 - x[:, 1:2], "scale": [2.0]})

    def taken(batch: Any) -> tuple[Any, Any]:
        batch = own(batch) if cloned else batch
        batch["x"] -= batch["x"].mean(axis=0)
        batch["x"] *= batch["scale"].pop()
        return batch["x"], batch.pop("y")

    def loss(model: Any, batch: Any) -> float:
        x, y = taken(batch)
        return float(np.mean((x @ model["w"] + model["b"] - y) ** 2))

    def grad(model: Any, batch: Any) -> dict[str, Any]:
        x, y = taken(batch)
        residual = 2 * (x @ model["w"] + model["b"] - y) / len(x)
        return {"w": x.T @ residual, "b": residual.sum(axis=0)}

    def outputs(model: Any, batch: Any) -> Any:
        return taken(batch)[0] @ model["w"] + model["b"]

    def labels(batch: Any) -> Any:
        return taken(batch)[1]

    return gg.Scenario(model, batches, loss, optimizer=gg.SGD(lr=0.05), grad=grad, outputs=outputs, labels=labels)


@pytest.mark.parametrize("check", CHECKS)
def test_a_numpy_loss_that_changes_its_batch(check: str) -> None:
    compare(lambda cloned: numpy_scenario(cloned=cloned), CHECKS[check])


def test_what_is_declared_may_change_the_batch_too() -> None:
    def made(cloned: bool) -> gg.Scenario:
        one = scenario("dict", cloned=cloned)

        def taken(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            batch = own(batch) if cloned else batch
            batch["x"].mul_(2)
            return batch

        return replace(
            one, outputs=lambda model, batch: model(taken(batch)["x"]), labels=lambda batch: taken(batch).pop("y")
        )

    compare(made, CHECKS["check_training"])


def test_widths() -> None:
    def report(*, cloned: bool) -> tuple[gg.Report, list[Any], list[Any]]:
        kept, before = [], []

        def build(width: int) -> gg.Scenario:
            one = scenario("list", cloned=cloned)
            model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
            kept.append(one.batches)
            before.append(frozen(one.batches))
            return replace(one, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))

        return gg.check_width_scaling(build, widths=(8, 16, 32), steps=3), kept, before

    changing, kept, before = report(cloned=False)
    assert [frozen(one) for one in kept] == before
    np.testing.assert_equal(told(changing), told(report(cloned=True)[0]))


def test_a_large_tensor_that_nobody_changes_is_copied_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SMALL // 16 + 1, 4, generator=generator)
    batches = [[x, x[:, :1].clone()]]
    model = net()
    seen: list[int] = []

    def loss(model: Any, batch: list[torch.Tensor]) -> torch.Tensor:
        if len(batch[0]) == len(x):  # and not a part of it
            seen.append(batch[0].data_ptr())
        return squares(model, batch[0], batch[1])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gg.range_test(model, batches, loss=loss, optimizer=optimizer, steps=8)
    assert len(seen) > 50
    assert len(set(seen)) == 1
    assert x.data_ptr() not in seen
    seen.clear()
    gg.check_training(model, batches, loss=loss, optimizer=optimizer, steps=3, select="GG3")
    assert len(set(seen)) <= 1


def test_a_batch_of_inference_mode_is_refused_as_in_the_users_own_loop() -> None:
    with torch.inference_mode():
        batches = [[torch.ones(4, 4), torch.ones(4, 1)]]
    with pytest.raises(gg.UsageError, match="Inference tensors cannot be saved for backward"):
        gg.check_training(net(), batches, loss=lambda model, batch: squares(model, *batch), steps=8)


def test_a_constant_of_a_function_is_the_same_in_every_call() -> None:
    scale, names = torch.full((3,), 2.0), ["a"]
    array = np.ones(3)

    def f(x: torch.Tensor, scale: torch.Tensor, array: Any, names: list[str]) -> torch.Tensor:
        assert names.pop() == "a"
        scale.unsqueeze_(0).data.mul_(2)
        array *= 3
        return (x * scale * torch.from_numpy(array)).sum()

    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    report = gg.check_gradients(f, {"x": x, "scale": scale, "array": array, "names": names}, wrt="x", select="GG101")
    assert not report.errors, str(report)
    assert (scale.tolist(), array.tolist(), names) == ([2.0] * 3, [1.0] * 3, ["a"])


class Log(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


def test_parts_of_one_table_are_still_parts_of_it() -> None:
    def made(cloned: bool) -> gg.Scenario:
        one = scenario("list", cloned=False)
        tables = [torch.cat(batch, dim=1) for batch in one.batches]

        def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            x, y = batch
            if cloned:
                table = torch.cat([x, y], dim=1)
                x, y = table[:, :4], table[:, 1:]
            x.mul_(2)  # and of y all columns but the last
            return squares(model, x, y.mean(dim=1, keepdim=True))

        if cloned:
            return replace(one, batches=[(t[:, :4], t[:, 4:]) for t in tables], loss=loss)
        return replace(one, batches=[(t[:, :4], t[:, 1:]) for t in tables], loss=loss)

    compare(made, CHECKS["check_training"])
    compare(made, lambda s: [(c.code, c.status) for c in gg.audit(s, select="GG1").checks])


def test_watch_calls_a_model_again_on_copies() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), Log(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gg.watch(model, optimizer=optimizer) as watched:
        for step in range(4):
            batch = torch.ones(6, 4) - 2.0 * (step == 3)
            given = batch.relu()
            model(batch).square().mean().backward()
            version = batch._version
            optimizer.step()
            optimizer.zero_grad()
            assert batch._version == version, step
            assert torch.equal(batch, given)
    (finding,) = [f for f in watched.report().findings if f.code == "GG203"]
    assert (finding.module, finding.step) == ("1", 3)


class Roots(nn.Module):
    """Writes NaN into its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(x.sqrt_())
        return out


def test_watch_does_not_blame_an_input_that_the_model_has_made_not_finite() -> None:
    model = Roots()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gg.watch(model, optimizer=optimizer) as watched:
        for step in range(4):
            model(torch.ones(6, 4) - 2.0 * (step == 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    (finding,) = [f for f in watched.report().findings if f.code == "GG203"]
    assert "input" not in finding.message
