"""Custom functions whose value is a staircase: their backward is a surrogate, and what is around them is compared all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import gradguard as gg
from gradguard.adapters.torch_surrogates import surrogate_of


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Spike(torch.autograd.Function):
    """Not to be differentiated twice, as many are written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g / (1 + 5 * x.abs()) ** 2


class LearnedStep(torch.autograd.Function):
    """Esser et al. 2020 (arXiv:1902.08153): the step itself is learnt, and changes the value smoothly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, step = ctx.saved_tensors
        return g, (g * ((x / step).round() - x / step)).sum().reshape(step.shape)


class Clipped(torch.autograd.Function):
    """A backward that forgets the limits: a wrong gradient, not a surrogate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-0.5, 0.5)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Doubled(torch.autograd.Function):
    """A backward without its factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Net(nn.Module):
    def __init__(self, middle: Any, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.step = nn.Parameter(torch.tensor(0.25)) if middle is LearnedStep else None
        self.before, self.middle, self.after = before, middle, after

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.before.apply(h) if self.before else h
        h = self.middle.apply(h, self.step) if self.step is not None else self.middle.apply(4 * h) / 4
        h = self.after.apply(h) if self.after else h
        return self.last(h.tanh())


def report(net: nn.Module) -> gg.Report:
    generator = torch.Generator().manual_seed(3)
    return gg.check_gradients(net, torch.randn(16, 6, generator=generator), loss=lambda y: y.square().mean(), seed=0)


@pytest.mark.parametrize("function", [Rounded, Spike, LearnedStep])
def test_a_surrogate_is_a_warning_that_names_its_line(function: Any) -> None:
    torch.manual_seed(0)
    found = report(Net(function)).findings
    assert [(f.code, f.severity, f.pattern) for f in found] == [("GG113", "warning", "surrogate")]
    assert function.__name__ in found[0].message
    assert "test_torch_surrogates.py:" in found[0].location


def test_a_step_size_for_each_block_of_the_weights_is_a_warning_and_a_wrong_factor_beside_it_an_error() -> None:
    class Quantised(nn.Module):
        def __init__(self, wrong: bool) -> None:
            super().__init__()
            self.weight, self.last, self.wrong = nn.Parameter(torch.randn(8, 64) / 8), nn.Linear(8, 3), wrong

        def forward(self, x: Tensor) -> Tensor:
            weight = straight_through(lambda w: in_blocks(w, 32, lambda b: rounded_to(b, b.abs().amax(1, keepdim=True)))).apply
            h = (x @ weight(self.weight).t()).tanh()
            return self.last(Doubled.apply(h) if self.wrong else h)

    torch.manual_seed(0)
    x = torch.randn(16, 64)
    found = [
        gg.check_gradients(Quantised(wrong), x, loss=lambda y: y.square().mean(), seed=0).findings for wrong in (False, True)
    ]
    assert [(f.code, f.severity, f.pattern) for f in found[0]] == [("GG113", "warning", "surrogate")]
    assert "GG101" in [f.code for f in found[1] if f.severity == "error"]


@pytest.mark.parametrize(
    "value",
    [
        lambda b: b / b.norm(dim=1, keepdim=True),
        lambda b: b.mean(1, keepdim=True).expand_as(b),
        lambda b: b.clamp(-0.5 * b.std(1, keepdim=True), 0.5 * b.std(1, keepdim=True)),
    ],
)
def test_a_smooth_function_of_blocks_whose_backward_passes_the_gradient_on_is_an_error(value: Any) -> None:
    class Blocked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(straight_through(lambda h: in_blocks(h, 8, value)).apply(self.first(x)).tanh())

    torch.manual_seed(0)
    assert "GG101" in [f.code for f in report(Blocked()).findings if f.severity == "error"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_wrong_function_beside_a_surrogate_is_found(where: str) -> None:
    torch.manual_seed(0)
    errors = [f for f in report(Net(Rounded, **{where: Doubled})).findings if f.code == "GG101"]
    assert errors
    assert "Doubled" in errors[0].location


def test_a_backward_that_forgets_where_forward_is_constant_is_an_error() -> None:
    torch.manual_seed(0)
    assert "GG101" in [f.code for f in report(Net(Clipped)).findings if f.severity == "error"]


def test_a_clipped_value_is_constant_here_and_not_elsewhere() -> None:
    assert surrogate_of(Clipped, (torch.full((4,), 3.0, dtype=torch.float64, requires_grad=True),)) is None


@pytest.mark.parametrize("function", [Rounded, Spike])
def test_the_backward_is_applied_forwards(function: Any) -> None:
    x = torch.linspace(-1.9, 2.05, 9, dtype=torch.float64).requires_grad_(True)
    kept = surrogate_of(function, (x,))
    assert kept is not None
    move = torch.linspace(0.1, 0.3, 9, dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.grad(function.apply(x)[i], x)[0] for i in range(9)])
    assert torch.allclose(kept((x.detach() + move,)), function.apply(x) + jacobian @ move, rtol=1e-12, atol=0)


def test_what_is_drawn_at_random_is_drawn_as_without_the_question() -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x > torch.rand_like(x)).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    x = torch.rand(64, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert surrogate_of(Noisy, (x,)) is not None
    assert torch.equal(torch.rand(3), expected)


def straight_through(value: Any) -> Any:
    """A custom function with this value, whose backward passes the gradient on."""

    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            return value(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor, *_: Tensor) -> Tensor:
            return g

    return Straight


def stairs(x: Tensor, dim: Any, levels: int = 7) -> Tensor:
    """Rounded to so many steps of the range, which is taken from the values themselves."""
    low = x.amin(dim=dim, keepdim=True)
    step = (x.amax(dim=dim, keepdim=True) - low) / levels
    return ((x - low) / step).round() * step + low


def rounded_to(x: Tensor, largest: Tensor, levels: int = 7) -> Tensor:
    """Rounded to so many steps up to the largest magnitude."""
    return (x / largest * levels).round() / levels * largest


def in_blocks(x: Tensor, size: int, value: Any) -> Tensor:
    """A function of each block of so many entries of the flattened tensor."""
    made: Tensor = value(x.reshape(-1, size))
    return made.reshape(x.shape)


def tiles(x: Tensor, size: int) -> Tensor:
    """A step size for each square of so many rows and columns."""
    parts = x.reshape(x.shape[0] // size, size, x.shape[1] // size, size)
    return rounded_to(parts, parts.abs().amax((1, 3), keepdim=True)).reshape(x.shape)


VALUES = torch.randn(12, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "value",
    [
        lambda x: stairs(x, (0, 1)),
        lambda x: stairs(x, 1),
        lambda x: stairs(x, 0),
        lambda x: x.sign() * x.abs().mean(1, keepdim=True),  # binary weights
        lambda x: torch.where(x.abs() > 0.5 * x.abs().mean(), x.sign(), 0) * x.abs().mean(),  # ternary ones
        lambda x: in_blocks(x, 8, lambda b: stairs(b, 1)),  # blocks of a row: group-wise quantisation
        lambda x: in_blocks(x, 16, lambda b: stairs(b, 1, levels=15)),
        lambda x: in_blocks(x, 8, lambda b: b.sign() * b.abs().mean(1, keepdim=True)),
        lambda x: in_blocks(x, 32, lambda b: rounded_to(b, b.abs().amax(1, keepdim=True), levels=1)),  # mostly 0
        lambda x: in_blocks(x, 64, lambda b: rounded_to(b, b.abs().amax(1, keepdim=True))),  # blocks over several rows
        lambda x: in_blocks(x.t(), 6, lambda b: rounded_to(b, b.abs().amax(1, keepdim=True))).t(),  # blocks of a column
        lambda x: tiles(x, 4),
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: (x.sign(), x > 0),  # and a mask, which carries no gradient
        lambda x: (x.sign(), x.argmax(1)),
    ],
)
def test_stairs_whose_size_is_taken_from_the_values(value: Any) -> None:
    assert surrogate_of(straight_through(value), (VALUES.clone().requires_grad_(True),)) is not None


def test_the_last_block_of_a_row_may_be_shorter() -> None:
    def value(x: Tensor) -> Tensor:
        return torch.cat([rounded_to(b, b.abs().amax(1, keepdim=True)) for b in x.split(8, 1)], 1)

    assert surrogate_of(straight_through(value), (VALUES[:, :15].clone().requires_grad_(True),)) is not None


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: x * (x == x.amax(1, keepdim=True)),
        lambda x: x.mean(1, keepdim=True).expand_as(x).clone(),
        lambda x: x.amax(1, keepdim=True) * torch.linspace(0.1, 1, 16, dtype=x.dtype),
        lambda x: x.sort(1).values,
        lambda x: torch.where(x > 0, x, 0.01 * x),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: in_blocks(x, 8, lambda b: b / b.norm(dim=1, keepdim=True)),
        lambda x: in_blocks(x, 8, lambda b: b.softmax(1)),
        lambda x: in_blocks(x, 8, lambda b: (b - b.mean(1, keepdim=True)) / b.std(1, keepdim=True)),
        lambda x: in_blocks(x, 4, lambda b: b.mean(1, keepdim=True).expand_as(b)),  # two values in each eight
        lambda x: in_blocks(x, 8, lambda b: b.amax(1, keepdim=True).expand_as(b)),
        lambda x: in_blocks(x, 8, lambda b: b * (b >= b.topk(2, 1).values[:, 1:])),
        lambda x: in_blocks(x, 8, lambda b: b.clamp(-0.5 * b.std(1, keepdim=True), 0.5 * b.std(1, keepdim=True))),
    ],
)
def test_smooth_functions_of_all_values_are_no_stairs(value: Any) -> None:
    assert surrogate_of(straight_through(value), (VALUES.clone().requires_grad_(True),)) is None


def test_a_function_of_probabilities_is_asked_about_probabilities() -> None:
    assert surrogate_of(straight_through(torch.bernoulli), (VALUES.sigmoid().requires_grad_(True),)) is not None


class SignInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.sign_()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


@pytest.mark.parametrize(
    "call",
    [
        lambda h: SignInPlace.apply(4 * h),
        lambda h: straight_through(lambda x: (x.sign(), x > 0)).apply(h)[0],
        lambda h: checkpoint(Spike.apply, h, use_reentrant=False),
    ],
)
def test_surrogates_in_place_with_codes_and_in_a_checkpoint(call: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(call(self.first(x)))

    torch.manual_seed(0)
    assert [(f.code, f.severity) for f in report(Wrapped()).findings] == [("GG113", "warning")]


def test_the_weights_of_a_normalisation_are_no_stairs() -> None:
    class Weighted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            return x * weight

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
            return g, g.sum(0)

    weight = torch.ones(16, dtype=torch.float64, requires_grad=True)
    assert surrogate_of(Weighted, (VALUES.clone().requires_grad_(True), weight)) is None
