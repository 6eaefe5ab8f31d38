"""Bad input: each a clear error that says what, where and what to do; and nothing of the user's is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from tests.cases.case import seeded
from tests.cases.snapshot import snapshot


class Raising(nn.Module):
    """Raises in forward or in backward."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.body, self.when = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)), when

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.when == "forward":
            raise KeyError("no such feature")
        return Broken.apply(y) if self.when == "backward" else y


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("in backward")


class Text(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "a text"


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def x() -> torch.Tensor:
    return torch.randn(5, 4)


def nan_loss(out: torch.Tensor) -> torch.Tensor:
    return out.sum() * float("nan")


def nan_in(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(module.parameters())[0, 0] = float("nan")
    return module


Row = tuple[Callable[[], tuple[Any, Any]], dict[str, Any], list[str]]

ROWS: dict[str, Row] = {
    # what is wrong: f and inputs, options, what the message says
    "the loss is NaN": (lambda: (model(), x()), {"loss": nan_loss}, ["NaN"]),
    "a parameter is NaN": (lambda: (nan_in(model()), x()), {}, ["NaN"]),
    "the loss is no scalar": (lambda: (model(), x()), {"loss": lambda out: out}, ["not a scalar", "(5, 3)"]),
    "the loss is a text": (lambda: (model(), x()), {"loss": lambda out: "loss"}, ["str"]),
    "the loss raises": (lambda: (model(), x()), {"loss": lambda out: out.nothing}, ["AttributeError", "nothing"]),
    "another shape": (lambda: (model(), torch.randn(5, 7)), {}, ["RuntimeError", "5x7"]),
    "a missing input": (lambda: (nn.Bilinear(4, 4, 2), x()), {}, ["TypeError", "input2"]),
    "an unknown keyword": (lambda: (model(), {"features": x()}), {}, ["TypeError", "features"]),
    "no tensors out": (lambda: (Text(), x().requires_grad_()), {}, ["str"]),
    "a wrong wrt": (lambda: (model(), x()), {"wrt": "0.wieght"}, ["'0.wieght'", "'0.weight'"]),
    "a wrong method": (lambda: (model(), x()), {"method": "directionel"}, ["'directionel'", "'directional'"]),
    "a wrong precision": (lambda: (model(), x()), {"precision": "float46"}, ["'float46'", "float64"]),
    "a wrong seed": (lambda: (model(), x()), {"seed": "0"}, ["seed", "'0'"]),
    "an unknown rule": (lambda: (model(), x()), {"select": "GG999"}, ["'GG999'"]),
    "an unknown rule's ignore": (lambda: (model(), x()), {"ignore": gg.Ignore("gradient-mismash", reason="x")}, ["gradient-mismatch"]),
    "grad for a module": (lambda: (model(), x()), {"grad": lambda x: x}, ["grad="]),
    "no function": (lambda: (3, x()), {}, ["int"]),
    "no function, NumPy": (lambda: ("f", np.ones(3)), {}, ["str"]),
    "no gradient, NumPy": (lambda: (np.sum, np.ones(3)), {}, ["grad"]),
    "forward raises": (lambda: (Raising("forward"), x()), {}, ["KeyError", "no such feature"]),
    "a loss that left its graph": (lambda: (model(), x()), {"loss": lambda out: out.sum().item()}, ["float", ".item()"]),
    "a list for a tuple": (lambda: (lambda a, b: a * b, [x(), x()]), {}, ["TypeError", "a tuple is passed as arguments"]),
    "kwargs that are no dict": (lambda: (model(), x()), {"kwargs": [1]}, ["kwargs takes a dict, got list"]),
    "a tensor for wrt": (lambda: (model(), x()), {"wrt": [torch.ones(3)]}, ["globs", "got Tensor"]),
    "no inputs, NumPy": (lambda: (lambda: 1.0, ()), {"grad": lambda: ()}, ["there are no inputs"]),
    "a masked array": (lambda: (np.sum, np.ma.array([1.0, 2.0], mask=[0, 1])), {"grad": np.ones_like}, ["masked array"]),
    "an integer input only": (lambda: (lambda i: i * 2, torch.arange(3)), {}, ["floating-point"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_it_is_a_clear_error_and_nothing_is_changed(name: str) -> None:
    make, options, said = ROWS[name]
    f, inputs = seeded(make, 0)
    before = snapshot(f, inputs)
    with pytest.raises(gg.UsageError) as caught:
        gg.check_gradients(f, inputs, **options)
    changed = [key for key, value in snapshot(f, inputs).items() if before.get(key) != value]
    assert not changed
    message = str(caught.value)
    for text in said:
        assert text in message, message


def test_a_backward_that_raises_is_a_finding_that_names_it() -> None:
    model, features = Raising("backward"), x()
    before = snapshot(model, features)
    report = gg.check_gradients(model, features)
    assert any("ZeroDivisionError: in backward" in finding.message + finding.evidence for finding in report.errors), str(report)
    (compared,) = [check for check in report.checks if check.code == "GG101"]
    assert (compared.status, "in backward" in compared.reason) == ("skipped", True)
    assert [key for key, value in snapshot(model, features).items() if before.get(key) != value] == []


@pytest.mark.parametrize("frozen", [nn.ReLU(), model().requires_grad_(False)], ids=["no parameters", "frozen"])
def test_nothing_to_compare_is_never_a_pass(frozen: nn.Module) -> None:
    report = gg.check_gradients(frozen, x())
    assert [finding.code for finding in report.errors] == ["GG902"]
    assert "requires a gradient" in report.errors[0].message


def test_the_users_exception_is_the_cause() -> None:
    with pytest.raises(gg.UsageError) as caught:
        gg.check_gradients(Raising("forward"), x())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_interrupt_passes_through_and_everything_is_put_back() -> None:
    calls = [0]  # not the module's: what a module holds is as it was at every pass

    class Interrupting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            y = self.body(x)
            if calls[0] > 5:
                raise KeyboardInterrupt
            return y

    interrupted, features = Interrupting(), x()
    before = snapshot(interrupted, features)
    with pytest.raises(KeyboardInterrupt):
        gg.check_gradients(interrupted, features)
    assert [key for key, value in snapshot(interrupted, features).items() if before.get(key) != value] == []


class Ticking(torch.autograd.Function):
    """Twice x, or a little wrong; an alarm goes off at a call of one of its halves."""

    calls: ClassVar[dict[str, int]] = {}
    alarm: ClassVar[tuple[str, int]] = ("", 0)

    @classmethod
    def tick(cls, half: str) -> None:
        cls.calls[half] = cls.calls.get(half, 0) + 1
        if (half, cls.calls[half]) == cls.alarm:
            raise TimeoutError("the alarm of a signal's handler")

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        Ticking.tick("forward")
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        Ticking.tick("backward")
        return g * ctx.factor, None


@pytest.mark.parametrize("factor", [2.0, 2.1], ids=["right", "wrong"])
@pytest.mark.parametrize("half", ["forward", "backward"])
def test_an_alarm_is_never_taken_for_an_error_of_the_model(
    half: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> None:
        monkeypatch.setattr(Ticking, "calls", {})
        gg.check_gradients(lambda x: Ticking.apply(x, factor).sin(), seeded(x, 0), select="GG1")

    check()
    for number in range(1, min(Ticking.calls[half], 40) + 1):
        monkeypatch.setattr(Ticking, "alarm", (half, number))
        with pytest.raises(TimeoutError):
            check()


SCENARIOS: dict[str, tuple[Callable[[], gg.Scenario], list[str]]] = {
    "no batches": (lambda: gg.Scenario(model(), [], lambda m, b: m(b).sum()), ["no batches"]),
    "batches that are no list": (lambda: gg.Scenario(model(), 3, lambda m, b: m(b).sum()), ["int"]),
    "a loss that is no scalar": (lambda: gg.Scenario(model(), [x()], lambda m, b: m(b)), ["not a scalar"]),
    "a loss that raises": (lambda: gg.Scenario(model(), [x()], lambda m, b: m(b[9])), ["IndexError"]),
    "NumPy without grad": (lambda: gg.Scenario({"w": np.ones(3)}, [1], lambda m, b: m["w"].sum()), ["grad"]),
    "a model without values": (
        lambda: gg.Scenario(nn.Linear(4, 2, device="meta"), [x()], lambda m, b: m(b).sum()), ["meta device", "to_empty"],
    ),
    "a model that is nothing": (lambda: gg.Scenario(None, [1], lambda m, b: 0.0), ["NoneType"]),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_that_cannot_be_audited_is_a_clear_error(name: str) -> None:
    make, said = SCENARIOS[name]
    with pytest.raises(gg.UsageError) as caught:
        gg.audit(seeded(make, 0), select="GG1")
    for text in said:
        assert text in str(caught.value), str(caught.value)


def test_an_optimizer_of_another_model_has_no_rate_to_judge() -> None:
    own, other = model(), model()
    with pytest.raises(gg.UsageError, match="holds none of this model's parameters"):
        gg.check_learning_rate(own, [x()], loss=lambda m, b: m(b).sum(), optimizer=torch.optim.SGD(other.parameters(), 0.1))


def test_a_model_without_values_is_not_trained() -> None:
    empty = nn.Linear(4, 2, device="meta")
    with pytest.raises(gg.UsageError, match="meta device"):
        gg.check_training(empty, [x()], loss=lambda m, b: m(b).sum(), optimizer=torch.optim.SGD(empty.parameters(), 0.1))


@pytest.mark.parametrize("check", [gg.check_training, gg.check_learning_rate])
def test_a_lazy_model_must_have_been_called(check: Callable[..., Any]) -> None:
    lazy = nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(2))
    optimizer = torch.optim.SGD(lazy.parameters(), 0.1)
    with pytest.raises(gg.UsageError, match=r"1\.weight is not initialised yet \(a lazy module\)"):
        check(lazy, [x()], loss=lambda m, b: m(b).sum(), optimizer=optimizer)
