"""watch in loops that train nothing: rates that ran out, clips, weights that are put back, optimizers that never step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.torch_watch_distance import ENTRIES, Distance, some

Loop = Callable[[nn.Module, torch.optim.Optimizer, torch.Tensor, int], None]
schedules = torch.optim.lr_scheduler


def batch(i: int, n: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(i % 40))
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, i: int) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def watched(body: Loop, *, rate: float = 0.05, steps: int = 220, known: bool = True, labels: Any = None, **more: Any) -> gg.Report:
    """A loop of ``steps`` steps under watch; ``known``: the loss shows its labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = more["schedule"](optimizer) if "schedule" in more else None
    with gg.watch(model, optimizer=optimizer, objective=more.get("objective", "supervised")) as watch:
        for i in range(steps):
            x, y = batch(i)
            loss = functional.cross_entropy(model(x), y if labels is None else labels(y))
            loss = loss if known else (loss.exp() - 1).log1p()
            watch.record(loss=loss)
            body(model, optimizer, loss, i)
            if schedule is not None:
                schedule.step()
    return watch.report()


def codes(report: gg.Report) -> list[str]:
    return [f.code for f in report.errors]


def clipped(limit: float) -> Loop:
    def body(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, i: int) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()

    return body


def put_back() -> Loop:
    first: dict[str, Any] = {}

    def body(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, i: int) -> None:
        if not i:
            first.update(copy.deepcopy(model.state_dict()))
        plain(model, optimizer, loss, i)
        model.load_state_dict(first)

    return body


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        (plain, {"schedule": lambda o: schedules.ExponentialLR(o, 0.1)}, "the learning rate is 0, or less than a millionth"),
        (plain, {"schedule": lambda o: schedules.LambdaLR(o, lambda i: 0.99 / (1 + 100 * i))}, "the learning rate fell to"),
        (plain, {"rate": 1e-6}, "in 220 steps the weights moved by"),
        (clipped(2e-4), {}, "in 220 steps the weights moved by"),
        (clipped(1e-7), {"steps": 120}, "the weights are where they were"),
        (put_back(), {"steps": 120}, "the weights are where they were"),
        (put_back(), {"steps": 120, "known": False}, "the weights are where they were"),
    ],
)
def test_a_loop_in_which_nothing_moves(body: Loop, options: dict[str, Any], message: str) -> None:
    report = watched(body, **options)
    assert report.errors[0].code == "GG403"
    assert report.errors[0].message.startswith(message)
    assert not [f for f in report.errors if f.code != "GG403" and not f.caused_by]


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (plain, {}),
        (plain, {"schedule": lambda o: schedules.CosineAnnealingLR(o, 220)}),
        (plain, {"rate": 1e-6, "steps": 120}),  # too early for a verdict
        (plain, {"schedule": lambda o: schedules.LambdaLR(o, lambda i: 1e-6 * i)}),  # a warm-up of a million steps
        (plain, {"rate": 1e-6, "objective": "reinforcement"}),
        (clipped(0.1), {}),
    ],
)
def test_a_loop_that_learns_or_has_only_begun_is_silent(body: Loop, options: dict[str, Any]) -> None:
    assert codes(watched(body, **options)) == []


def test_labels_that_do_not_belong_to_their_inputs() -> None:
    report = watched(plain, labels=lambda y: y[torch.randperm(len(y))], steps=400)
    assert codes(report)[0] == "GG406"
    assert codes(watched(plain, labels=lambda y: y[torch.randperm(len(y))], steps=120)) == []


def test_a_loss_that_is_scaled_and_never_unscaled() -> None:
    def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, i: int) -> None:
        optimizer.zero_grad()
        (65536 * loss).backward()
        optimizer.step()

    assert "GG402" in codes(watched(scaled, steps=100))


@pytest.mark.parametrize(("aim", "severity"), [("noise", "error"), ("inputs", "warning")])
def test_an_optimizer_that_never_steps_is_named(aim: str, severity: str) -> None:
    """It is an error where nothing was learnt; where the other half learns, its turn may come later."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": nn.Linear(6, 8), "decoder": nn.Linear(8, 6)})
    ours, theirs = (torch.optim.Adam(model[key].parameters(), lr=1e-2) for key in ("encoder", "decoder"))
    with gg.watch(model, optimizer=[ours, theirs]) as watch:
        for i in range(150):
            x, _ = batch(i)
            ours.zero_grad()
            theirs.zero_grad()
            target = x if aim == "inputs" else torch.randn(x.shape)
            loss = functional.mse_loss(model["decoder"](functional.relu(model["encoder"](x))), target)
            watch.record(loss=loss)
            loss.backward()
            theirs.step()
    found = [f for f in watch.report().findings if f.code == "GG303"]
    assert [(f.severity, f.location) for f in found] == [(severity, "encoder.weight")]
    assert found[0].message.startswith("optimizer 1 of 2 (Adam) never stepped in 150 steps of the others")


def test_an_optimizer_that_steps_now_and_then_is_not_idle() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": nn.Linear(6, 8), "decoder": nn.Linear(8, 6)})
    ours, theirs = (torch.optim.Adam(model[key].parameters(), lr=1e-2) for key in ("encoder", "decoder"))
    with gg.watch(model, optimizer=[ours, theirs]) as watch:
        for i in range(100):
            x, _ = batch(i)
            ours.zero_grad()
            theirs.zero_grad()
            functional.mse_loss(model["decoder"](model["encoder"](x)), x).backward()
            theirs.step()
            if i % 50 == 49:
                ours.step()
    assert [f for f in watch.report().findings if f.code == "GG303"] == []


def test_the_distance_is_of_few_entries_spread_over_each_parameter_and_leaves_no_copy() -> None:
    large, zeros = nn.Parameter(torch.ones(100, 300)), nn.Parameter(torch.zeros(4))
    image = nn.Parameter(torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last))
    distance = Distance([large, zeros, image])
    distance.see()
    assert [len(entries) for entries in distance.start] == [3750, 4, 24]  # every eighth entry of 30,000
    assert all(len(some(nn.Parameter(torch.zeros(n)))) <= ENTRIES for n in (4095, 4096, 4097, 10**6))
    with torch.no_grad():
        large.mul_(1.5)
        zeros.add_(0.1)
    distance.see()
    with torch.no_grad():
        large.div_(1.5)
    distance.see()
    distance.forget()
    shares = distance.shares()
    assert shares is not None
    size = (3750 + 4324) ** 0.5 / 3778**0.5  # the root mean square of all: ones, and the squares of 0 to 23
    assert shares == pytest.approx([0.5, 0.1 / size, 0.0])
    assert (distance.start, distance.parameters) == ([], [])
