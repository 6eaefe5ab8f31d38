"""The user's model is given back bit for bit, whatever happens in between; and lifting reaches what is cast inside."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.torch_adapt import adapt_torch
from gradguard.adapters.torch_lift import LiftMode


class Busy(nn.Module):
    """Draws, drifts, caches, casts, ties, and has a hook."""

    def __init__(self, *, raises: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.second.weight
        self.last = nn.Linear(6, 3)
        self.last.weight.requires_grad_(False)
        self.raises = raises
        self.calls = 0
        self.seen: list[Any] = []
        self.cache: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache = x
        x = nn.functional.dropout(torch.relu(self.norm(self.first(x))), 0.3, self.training)
        if self.raises and self.first.weight.dtype == torch.float64:
            raise OSError("the disk is full")
        if self.raises:
            raise ValueError("and the native pass fails, too")
        return self.last((self.second(x).float() * self.second(x).to(torch.float32)).type_as(x))


def state(model: Busy, x: torch.Tensor) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers()), "x": x}
    kept: dict[str, Any] = {name: (id(t), t.dtype, t.requires_grad, t.detach().clone()) for name, t in tensors.items()}
    kept |= {f"{name}.grad": None if t.grad is None else (id(t.grad), t.grad.clone()) for name, t in tensors.items()}
    kept |= {"train": [m.training for m in model.modules()], "calls": model.calls, "cache": id(model.cache)}
    kept |= {"torch": torch.get_rng_state(), "numpy": np.random.get_state()[1].copy(), "python": random.getstate()}
    kept |= {"dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled()}
    kept["hooks"] = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return kept


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_nothing_is_changed(train: bool, raises: bool) -> None:
    torch.manual_seed(0)
    model, x = Busy(raises=raises).train(train), torch.randn(5, 4)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    before = state(model, x)
    if raises:
        with pytest.raises(gg.UsageError, match="fails, too"):
            gg.check_gradients(model, x)
    else:
        report = gg.check_gradients(model, x)
        assert report.ok, str(report)
    after = state(model, x)
    assert [name for name in before if not same(before[name], after[name])] == []


def test_a_cast_inside_is_lifted() -> None:
    torch.manual_seed(0)
    with adapt_torch(Busy().eval(), torch.randn(5, 4)) as problem:
        assert problem.path == "lifted from float32"
        assert problem.habits.lift_forward
    with adapt_torch(nn.Linear(4, 3).double(), torch.randn(5, 4).double()) as problem:
        assert problem.path == "float64"
        assert not problem.habits.lift_forward


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.float() * 3,
        lambda x: x.to(torch.bfloat16).to(torch.float16),
        lambda x: torch.zeros(3, dtype=torch.float32) + x,
        lambda x: torch.softmax(x.half(), -1, dtype=torch.float32),
        lambda x: x + torch.full((3,), 0.1).copy_(x) + torch.tensor(0.5),
        lambda x: torch.arange(3, dtype=torch.float32) @ x,
    ],
)
def test_every_result_is_float64(compute: Any) -> None:
    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    with LiftMode() as mode:
        result = compute(x)
    assert result.dtype == torch.float64
    assert mode.changed


def test_nothing_to_lift_is_noticed() -> None:
    with LiftMode() as mode:
        torch.tanh(torch.ones(3, dtype=torch.float64)).sum()
    assert not mode.changed


def test_a_model_that_takes_gradients_inside() -> None:
    torch.manual_seed(0)
    energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def force(x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_(True) if not x.requires_grad else x
        return torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    report = gg.check_gradients(force, torch.randn(5, 3))
    assert report.ok, str(report)
    assert {row["verdict"] for row in report.table_rows("gradients")} <= {"pass", "zero"}


def test_leaves_of_a_closure_become_blocks() -> None:
    torch.manual_seed(0)
    model, scale = nn.Linear(4, 3), torch.randn(3, requires_grad=True)
    with adapt_torch(lambda x: model(x) * scale, torch.randn(2, 4)) as problem:
        assert {b.name for b in problem.blocks} == {"weight", "bias", "scale", "x"}


def test_torch_s_own_straight_through_estimator_is_a_cut_and_no_wrong_gradient() -> None:
    torch.manual_seed(0)
    report = gg.check_gradients(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -8, 7).square(), torch.randn(6, 5))
    assert report.ok, str(report)
    assert [f.code for f in report.findings] == ["GG113"]


class Collecting(nn.Module):
    """Hangs a hook on its layer in the first pass only, and reads what the hook has put into a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.taken: list[torch.Tensor] = []
        self.hung = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.hung:
            self.layer.register_forward_hook(lambda module, args, output: self.taken.append(output))
            self.hung = True
        self.layer(x)
        if len(self.taken) != 1:
            raise RuntimeError(f"{len(self.taken)} outputs were taken")
        return self.last(torch.tanh(self.taken.pop()))


def test_what_a_model_installs_in_its_first_pass_is_installed_once_and_taken_back() -> None:
    model = Collecting()
    report = gg.check_gradients(model, torch.randn(3, 4))
    assert report.ok, str(report)
    assert {check.status for check in report.checks} <= {"passed", "skipped"}
    assert not model.hung
    assert not model.taken
    assert not model.layer._forward_hooks


class Remembering(nn.Module):
    """Collects a penalty in a list, which the caller is to empty."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.penalties: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.penalties.append(self.layer.weight.square().sum())
        return self.layer(x).square().sum() + torch.stack(self.penalties).sum()


def test_lists_hold_in_every_pass_what_they_held_at_first() -> None:
    model = Remembering()
    assert gg.check_gradients(model, torch.randn(3, 4)).ok
    assert model.penalties == []


class Dropping(nn.Module):
    """Drops samples and adds noise, each drawn in the precision of what goes through."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(4, 6), nn.Linear(6, 3), draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h * self.draw(h))


DRAWS: dict[str, Any] = {
    "rand": lambda h: (torch.rand((len(h), 1), dtype=h.dtype) + 0.7).floor(),
    "rand_like": lambda h: (torch.rand_like(h) > 0.3).to(h.dtype),
    "randn": lambda h: torch.randn(h.shape, dtype=h.dtype),
    "randn_like": torch.randn_like,
    "uniform_": lambda h: torch.empty_like(h).uniform_(),
    "normal_": lambda h: h.new_empty(h.shape).normal_(),
    "bernoulli": lambda h: torch.bernoulli(torch.full_like(h, 0.5)),
    "bernoulli_": lambda h: torch.empty_like(h).bernoulli_(0.5),
    "normal": lambda h: torch.normal(torch.zeros_like(h), 1.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DRAWS)
def test_the_lifted_model_draws_what_the_users_own_draws(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Dropping(DRAWS[name]).to(dtype), torch.randn(8, 4, dtype=dtype)
    drawn: list[torch.Tensor] = []
    model.draw = lambda h: drawn.append(DRAWS[name](h)) or drawn[-1]
    report = gg.check_gradients(model, x, seed=3)
    assert report.ok, str(report)
    torch.manual_seed(3)
    expected = DRAWS[name](torch.tanh(model.first(x)).detach())
    assert all(torch.equal(expected.double(), one.double()) for one in drawn if one.shape == expected.shape)


class Momentum(nn.Module):
    """A second encoder that follows the first in forward, as He et al. 2020 (arXiv:1911.05722) have it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 4), nn.Linear(6, 4)
        self.key.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for mine, theirs in zip(self.query.parameters(), self.key.parameters(), strict=True):
                theirs.mul_(0.9).add_(mine, alpha=0.1)
            target = self.key(x)
        out: torch.Tensor = (self.query(x) - target).square().mean()
        return out


def test_frozen_parameters_that_a_pass_writes_into_are_put_back_before_the_next() -> None:
    torch.manual_seed(0)
    model = Momentum()
    before = [p.clone() for p in model.parameters()]
    report = gg.check_gradients(model, torch.randn(16, 6))
    assert [(f.code, f.severity) for f in report.findings] == [("GG113", "warning")]  # what it follows is not differentiated
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
