"""A copy that trains: restartable, and nothing of the user's is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import Trainable, adapt_training


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def data(n: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)) for _ in range(n)]


def loss(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b[0]), b[1])


def problem(net: nn.Module, optimizer: Any, batches: Any = None, steps: int = 10) -> Trainable:
    return adapt_training(gg.Scenario(net, batches or data(), loss, optimizer=optimizer), Settings(steps=steps))


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), lambda p: torch.optim.RMSprop(p, lr=0.01), lambda p: torch.optim.LBFGS(p, lr=0.1),
]  # fmt: skip


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_runs_are_the_same_again_and_nothing_is_changed(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    net = model()
    optimizer = make(net.parameters())
    net[0].weight.grad = torch.ones_like(net[0].weight)
    kept = net[0].weight.grad
    before = {k: v.clone() for k, v in net.state_dict().items()}
    rng, shuffled = torch.get_rng_state(), torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(64, 6), torch.randint(0, 3, (64,))),
        16,
        shuffle=True,
        generator=shuffled,
    )
    rng, state = torch.get_rng_state(), shuffled.get_state()
    trained = problem(net, optimizer, loader)
    first, second = trained.run(6, compare=2), trained.run(6, compare=2)
    assert first.losses == second.losses
    assert first.loss_start == second.loss_start
    assert np.array_equal(first.update, second.update)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net[0].weight.grad is kept
    assert bool((kept == 1).all())
    assert net.training
    assert not optimizer.state
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(state, shuffled.get_state())


def test_the_copy_trains_as_the_user_would() -> None:
    """An oracle: the same loop by hand, from the same random state."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.01}], momentum=0.9
    )
    trace = problem(net, optimizer).run(6)
    expected = []
    for batch in [*data(), *data()][:6]:
        optimizer.zero_grad()
        value = loss(net, batch)
        value.backward()
        optimizer.step()
        expected.append(float(value.detach()))
    assert list(trace.losses) == expected
    assert trace.steps[0].lr == (0.1, 0.01)


class Sharpness(torch.optim.SGD):
    """Sharpness-aware: the gradient of a point uphill, which takes a closure (Foret et al. 2021, algorithm 1)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is not None, "a closure is needed"
        closure()
        moved = []
        for group in self.param_groups:
            for p in group["params"]:
                uphill = 0.05 * p.grad / p.grad.norm()
                p.add_(uphill)
                moved.append((p, uphill))
        value = closure()
        for p, uphill in moved:
            p.sub_(uphill)
        super().step()
        return value


class Clipped(torch.optim.SGD):
    """Clips what came before the step: a closure would undo that."""

    def step(self, closure: Any = None) -> Any:
        torch.nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 1e-3)
        return super().step(closure)


@pytest.mark.parametrize("kind", [Sharpness, Clipped])
def test_a_users_own_step_gets_a_closure_only_where_it_asks_for_one(kind: Any) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    trace = problem(net, kind(net.parameters(), lr=0.1)).run(5)
    optimizer = kind(net.parameters(), lr=0.1)
    expected = []
    for batch in [*data(), *data()][:5]:

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                value = loss(net, batch)
                value.backward()
            return value

        expected.append(float(closure().detach()))
        optimizer.step(closure if kind is Sharpness else None)
    assert list(trace.losses) == expected


def test_state_of_the_optimizer_is_carried_over() -> None:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loss(net, data()[0]).backward()
    optimizer.step()
    session = problem(net, optimizer).fresh()
    copied = session.optimizer.state[session.params[0]]
    assert torch.equal(copied["exp_avg"], optimizer.state[net[0].weight]["exp_avg"])
    assert copied["exp_avg"] is not optimizer.state[net[0].weight]["exp_avg"]


def test_rate_scale_and_chosen_batches() -> None:
    trained = problem(model(), lambda p: torch.optim.SGD(p, lr=0.1))
    trace = trained.run(3, rate_scale=10, batches=[2], same_batch=True)
    assert [s.lr for s in trace.steps] == [(1.0,)] * 3
    assert [s.batch for s in trace.steps] == [2, 2, 2]
    assert all(s.loss_after is not None for s in trace.steps)


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].weight = net[0].weight
    session = problem(net, lambda p: torch.optim.SGD(p, lr=0.1)).fresh()
    assert session.model[1].weight is session.model[0].weight
    assert session.model[0].weight is not net[0].weight


def test_a_run_ends_where_a_value_is_not_finite() -> None:
    batches = data()
    batches[2][0][0, 0] = float("nan")
    trace = problem(model(), lambda p: torch.optim.SGD(p, lr=0.1), batches).run(10)
    assert trace.stopped == "the loss is not finite at step 2"
    assert len(trace.steps) == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batches": []}, "batches is empty"),
        ({"batches": 3}, "batches takes a list"),
        ({"loss": lambda m, b: m(b[0])}, r"the loss returned a tensor of shape \(16, 3\), not a scalar tensor"),
        ({"loss": lambda m, b: 1.0}, "the loss returned float, not a scalar tensor"),
        ({"loss": lambda m, b: m(b[0][:, :2]).sum()}, "the loss raised RuntimeError"),
        ({"model": nn.ReLU()}, "the model has no parameters"),
        ({"model": 3}, "cannot train a int"),
        ({"optimizer": 0.1}, "optimizer takes a torch optimizer"),
        ({"optimizer": lambda p: 3}, "returned int, not a torch optimizer"),
        ({"steps": 0}, "steps takes a number of at least 1"),
    ],
)
def test_bad_input_is_a_clear_error(change: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {
        "model": model(),
        "batches": data(),
        "loss": loss,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
        **change,
    }
    net, batches = given.pop("model"), given.pop("batches")
    with pytest.raises(gg.UsageError, match=text):
        gg.check_training(net, batches, **given)


def test_a_loss_that_uses_another_model_is_a_clear_error() -> None:
    net = model()
    with pytest.raises(gg.UsageError, match="the loss reached your model instead of the copy"):
        gg.check_training(
            net,
            data(),
            loss=lambda m, b: loss(net, b) + 0 * loss(m, b),
            optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        )
    assert all(p.grad is None for p in net.parameters())
