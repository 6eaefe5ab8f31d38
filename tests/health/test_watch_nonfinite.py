"""watch names what is not finite: the module, the step, whether or when the loss is recorded; and looks after a spike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.torch_watch_spikes import SpikeDetector
from tests.health.test_watch_loops import batch, net, sgd

BAD = 33  # neither one of the first steps nor a tenth one


class Root(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x)


class Net(nn.Module):
    """Its root turns NaN where ``bad``; a mask of infinities that is meant comes before it."""

    bad = False

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.root, self.leave = nn.Linear(6, 8), Root(), nn.Linear(8, 3)
        self.mask = Mask()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mask(x)
        h = self.enter(x)
        return self.leave(self.root(h if self.bad else functional.softplus(h)))


class Mask(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((4, 4), -torch.inf).triu(1)


def run(model: Any, inner: Any, record: str, optimizer: Any, loss: Any = functional.cross_entropy) -> gg.Report:
    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(40):
            inner.bad = i >= BAD
            x, y = batch(i)
            value = loss(model(x), y)
            optimizer.zero_grad()
            if record == "before":
                watch.record(loss=value)
            value.backward()
            optimizer.step()
            if record == "after":
                watch.record(loss=value)
    return watch.report()


@pytest.mark.parametrize(("record", "compiled"), [("before", False), ("after", False), ("never", False), ("after", True)])
def test_the_module_and_the_step(record: str, compiled: bool) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    inner = Net()
    optimizer = sgd(inner)
    model: Any = torch.compile(inner, backend="eager") if compiled else inner
    report = run(model, inner, record, optimizer)
    assert report.errors[0].code == "GG203"
    assert (report.errors[0].module, report.errors[0].step) == ("root", BAD)
    assert inner.calls == 40  # what was run once more left no trace


@pytest.mark.parametrize("record", ["before", "after", "never"])
def test_a_loss_that_is_not_finite_by_itself(record: str) -> None:
    model = net()
    inner = Net()

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(out, 1)[:, 0]
        return -torch.log(p * 0 if inner.bad else p).mean()

    report = run(model, inner, record, sgd(model), loss)
    (error,) = [e for e in report.errors if e.code == "GG203"]
    assert error.pattern == ("gradient" if record == "never" else "loss")
    assert error.step == BAD


class Edge(nn.Module):
    """The derivative of a root at 0: the values are right and the gradient is not finite."""

    bad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x * 0).sum(1, keepdim=True).sqrt() if self.bad else x


@pytest.mark.parametrize("record", ["before", "after", "never"])
def test_a_gradient_that_is_not_finite_although_the_loss_is(record: str) -> None:
    torch.manual_seed(0)
    edge = Edge()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), edge, nn.Linear(8, 3))
    report = run(model, edge, record, sgd(model))
    first = report.errors[0]
    assert (first.code, first.module, first.step) == ("GG203" if record == "never" else "GG302", "0", BAD)


def test_infinities_that_are_a_mask_are_healthy() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    model = Masked()
    report = run(model, Net(), "after", sgd(model))
    assert report.ok, str(report)


def test_the_pass_after_a_spike_is_a_look() -> None:
    model = net()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(60):
            x, y = batch(i)
            loss = functional.cross_entropy(model(x) * (1000.0 if i == 43 else 1.0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i == 42:
                before = watch._seen.looks.count
            if i == 45:
                assert watch._seen.looks.count == before + 1
                assert watch._seen.looks.last is not None
                assert watch._seen.looks.last.step == 44


def test_a_module_that_cannot_be_called_again_is_noted() -> None:
    class Once(nn.Module):
        bad = False

        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled():
                raise ValueError("only in training")
            return self.net(x) * (torch.nan if self.bad else 1.0)

    model = Once()
    report = run(model, model, "before", sgd(model))
    assert {e.code for e in report.errors} == {"GG203", "GG402"}


def test_spikes_against_the_moving_average() -> None:
    torch.manual_seed(0)
    noise = torch.randn(1000).tolist()
    detector = SpikeDetector()
    calm = [detector.spike(10.0 + x) for x in noise]
    assert sum(calm) < 30  # 2.5 standard deviations of a normal: 0.6 %
    assert detector.mean == pytest.approx(10.0, abs=0.5)
    assert detector.spike(20.0)
    assert not detector.spike(10.0)
    assert not any(SpikeDetector().spike(x) for x in (1.0, 100.0, 1.0))  # too few to say
