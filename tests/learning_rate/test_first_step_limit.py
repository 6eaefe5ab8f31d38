"""The first-step limit on quadratics with a known spectrum, for every optimizer: the optimizer itself is the oracle.

The state of adaptive optimizers is preset and hardly moves (second moments decay by 1e-9 a step, deviations are tiny), so that
the optimizer is the linear iteration whose limit is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.numpy_rates import NumpyRates
from gradguard.measurements.curvature import measure
from tests.learning_rate.matrices import with_spectrum

torch = pytest.importorskip("torch")

SIZE = 12
SPECTRUM = np.logspace(-2, 1, SIZE)
STILL = 1.0 - 1e-9
SCALES = np.random.default_rng(1).uniform(0.5, 2.0, SIZE)


class Bowl(torch.nn.Module):
    """1/2 w' A w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
        self.register_buffer("a", torch.tensor(with_spectrum(SPECTRUM)))


def loss(model: Bowl, batch: Any) -> Any:
    return 0.5 * model.w @ model.a @ model.w


def preset(**tensors: float) -> Callable[[Any], None]:
    """Set an optimizer's state: the second moment so that the denominator is SCALES, everything else as given."""

    def apply(optimizer: Any) -> None:
        parameter = optimizer.param_groups[0]["params"][0]
        group = optimizer.param_groups[0]
        squares = torch.tensor(SCALES**2)
        step = tensors.get("step", 1e7)
        corrected = squares * (1.0 - STILL**step)
        state: dict[str, Any] = {"step": torch.tensor(float(step))}
        for name in ("exp_avg", "grad_avg", "momentum_buffer"):
            state[name] = torch.zeros(SIZE, dtype=torch.float64)
        state.update(exp_avg_sq=corrected, max_exp_avg_sq=corrected.clone(), square_avg=squares, sum=squares.clone())
        state.update(exp_inf=torch.tensor(SCALES), acc_delta=torch.full((SIZE,), 0.25, dtype=torch.float64))
        state.update(mu_product=torch.tensor(1e-30))
        if "alpha" not in group and "momentum_buffer" in state:
            del state["momentum_buffer"]
        optimizer.state[parameter] = state

    return apply


def nothing(optimizer: Any) -> None:
    """A fresh state."""


T = torch.optim
OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], None]]] = {
    "SGD": (lambda p: T.SGD(p, lr=0.01), nothing),
    "SGD weight decay": (lambda p: T.SGD(p, lr=0.01, weight_decay=2.0), nothing),
    "momentum": (lambda p: T.SGD(p, lr=0.01, momentum=0.9), nothing),
    "momentum with dampening": (lambda p: T.SGD(p, lr=0.01, momentum=0.9, dampening=0.5), nothing),
    "Nesterov": (lambda p: T.SGD(p, lr=0.01, momentum=0.9, nesterov=True), nothing),
    "Adam": (lambda p: T.Adam(p, lr=0.01, betas=(0.9, STILL)), preset()),
    "Adam weight decay": (lambda p: T.Adam(p, lr=0.01, betas=(0.9, STILL), weight_decay=1.0), preset()),
    "Adam amsgrad": (lambda p: T.Adam(p, lr=0.01, betas=(0.9, STILL), amsgrad=True), preset()),
    "Adam, other beta": (lambda p: T.Adam(p, lr=0.01, betas=(0.5, STILL)), preset()),
    "AdamW": (lambda p: T.AdamW(p, lr=0.01, betas=(0.9, STILL), weight_decay=0.1), preset()),
    "NAdam": (lambda p: T.NAdam(p, lr=0.01, betas=(0.9, STILL)), preset()),
    "RAdam": (lambda p: T.RAdam(p, lr=0.01, betas=(0.9, STILL)), preset()),
    "Adamax": (lambda p: T.Adamax(p, lr=0.01, betas=(0.9, STILL)), preset()),
    "RMSprop": (lambda p: T.RMSprop(p, lr=0.01, alpha=STILL), preset()),
    "RMSprop centred with momentum": (lambda p: T.RMSprop(p, lr=0.01, alpha=STILL, momentum=0.9, centered=True), preset()),
    "Adagrad": (lambda p: T.Adagrad(p, lr=0.01), preset(step=1e6)),
    "Adagrad with decay of the rate": (lambda p: T.Adagrad(p, lr=0.01, lr_decay=1e-6), preset(step=1e6)),
    "Adadelta": (lambda p: T.Adadelta(p, lr=0.01, rho=STILL), preset()),
}


def predicted(model: Bowl, optimizer: Any) -> float:
    """gradguard's first-step limit."""
    scenario = gg.Scenario(model, [None], loss, optimizer=optimizer)
    from gradguard.adapters.torch_rates import TorchRates

    problem = TorchRates(scenario, Settings(steps=10))
    assert not problem.adaptive()
    found = measure(problem, Settings(steps=10), {}, ())
    return found.groups[0].limit


def grows(model: Bowl, optimizer: Any, rate: float, steps: int = 600) -> bool:
    """Whether the optimizer itself, from a tiny deviation, moves away at that rate."""
    memo: dict[int, Any] = {}
    model, optimizer = copy.deepcopy(model, memo), copy.deepcopy(optimizer, memo)
    optimizer.param_groups[0]["lr"] = rate
    with torch.no_grad():
        model.w.copy_(1e-9 * torch.tensor(np.random.default_rng(0).standard_normal(SIZE)))
    sizes = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, None).backward()
        optimizer.step()
        sizes.append(float(model.w.detach().norm()))
        if sizes[-1] > 1e-3:
            return True
    return max(sizes[-20:]) > max(sizes[steps // 2 : steps // 2 + 20])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_within_one_percent_of_where_the_optimizer_diverges(name: str) -> None:
    make, set_state = OPTIMIZERS[name]
    model = Bowl()
    optimizer = make(model.parameters())
    set_state(optimizer)
    limit = predicted(model, optimizer)
    assert grows(model, optimizer, 1.01 * limit)
    assert not grows(model, optimizer, 0.99 * limit)


class Halved(torch.optim.SGD):
    """An optimizer that gradguard does not know: it steps half as far."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(0.8).add_(p.grad)
                p.sub_(0.5 * group["lr"] * buffer)


def test_state_that_is_made_with_the_optimizer_is_empty_until_a_step() -> None:
    from gradguard.adapters.torch_rates import TorchRates

    model = Bowl()
    with torch.no_grad():
        model.w.fill_(1.0)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    problem = TorchRates(gg.Scenario(model, [None], loss, optimizer=optimizer), Settings(steps=10))
    assert problem.adaptive()
    assert measure(problem, Settings(steps=10), {}, ()).groups[0].limit > 0
    loss(model, None).backward()
    optimizer.step()
    assert not TorchRates(gg.Scenario(model, [None], loss, optimizer=optimizer), Settings(steps=10)).adaptive()


def test_unknown_optimizer_is_measured() -> None:
    model = Bowl()
    optimizer = Halved(model.parameters(), lr=0.01)
    limit = predicted(model, optimizer)
    assert limit == pytest.approx(2 * (2 + 2 * 0.8) / SPECTRUM[-1], rel=0.01)


class Sign(torch.optim.SGD):
    """Moves every entry by the same amount: no curvature decides alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())


def test_unknown_nonlinear_optimizer_gets_the_limit_of_its_own_step() -> None:
    model = Bowl()
    start = torch.tensor(np.random.default_rng(2).standard_normal(SIZE))
    with torch.no_grad():
        model.w.copy_(start)
    limit = predicted(model, Sign(model.parameters(), lr=1e-3))
    gradient = model.a @ start
    signs = gradient.sign()
    assert limit == pytest.approx(float(2 * (gradient @ signs) / (signs @ model.a @ signs)), rel=0.01)


def test_groups_with_rates_of_their_own() -> None:
    """The limit is on a common factor: rates times 1 / lambda_1(diag(lr) H) * 2."""

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
            self.v = torch.nn.Parameter(torch.zeros(SIZE - 5, dtype=torch.float64))
            self.register_buffer("a", torch.tensor(with_spectrum(SPECTRUM)))

    def joint(model: Any, batch: Any) -> Any:
        w = torch.cat([model.u, model.v])
        return 0.5 * w @ model.a @ w

    model = Two()
    rates = np.r_[np.full(5, 0.3), np.full(SIZE - 5, 0.02)]
    optimizer = torch.optim.SGD([{"params": [model.u], "lr": 0.3}, {"params": [model.v], "lr": 0.02}], lr=1.0)
    from gradguard.adapters.torch_rates import TorchRates

    problem = TorchRates(gg.Scenario(model, [None], joint, optimizer=optimizer), Settings(steps=10))
    found = measure(problem, Settings(steps=10), {}, ())
    root = np.sqrt(rates)
    factor = 2.0 / np.linalg.eigvalsh(root[:, None] * with_spectrum(SPECTRUM) * root)[-1]
    assert [g.limit for g in found.groups] == pytest.approx([0.3 * factor, 0.02 * factor], rel=0.01)
    assert found.ratio == pytest.approx(1.0 / factor, rel=0.01)


def test_clipping_raises_the_limit() -> None:
    model = Bowl()
    with torch.no_grad():
        model.w.fill_(1.0)
    norm = float((model.a @ model.w.detach()).norm())
    from gradguard.adapters.torch_rates import TorchRates

    scenario = gg.Scenario(model, [None], loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    found = measure(TorchRates(scenario, Settings(steps=10), clip=norm / 4), Settings(steps=10), {}, ())
    assert found.groups[0].limit == pytest.approx(4 * 2.0 / SPECTRUM[-1], rel=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_numpy_regression_by_differences_of_its_gradient(momentum: float) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal((200, 8)), generator.standard_normal(200)

    def square(model: Any, batch: Any) -> float:
        return float(np.mean((x @ model["w"] + model["b"] - y) ** 2))

    def gradient(model: Any, batch: Any) -> Any:
        r = 2 * (x @ model["w"] + model["b"] - y) / len(y)
        return {"w": x.T @ r, "b": np.array([r.sum()])}

    model = {"w": generator.standard_normal(8), "b": np.zeros(1)}
    kept = {name: value.copy() for name, value in model.items()}
    design = np.c_[x, np.ones(200)]
    largest = np.linalg.eigvalsh(2 * design.T @ design / 200)[-1]
    scenario = gg.Scenario(model, [None], square, grad=gradient, optimizer=gg.SGD(0.1, momentum))
    problem = NumpyRates(scenario, Settings(steps=10))
    found = measure(problem, Settings(steps=10), {}, ())
    assert found.groups[0].lambda_max == pytest.approx(largest, rel=0.01)
    assert found.groups[0].limit == pytest.approx((2 + 2 * momentum) / largest, rel=0.01)
    assert found.path == "differences of gradients"
    assert all(np.array_equal(model[name], kept[name]) for name in model)


def test_without_double_backward_differences_are_taken() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 2 * x * g

    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
    x = torch.tensor(np.random.default_rng(0).standard_normal((50, 4)))
    found = limit_of(model, lambda m, b: Once.apply(m(x)).mean())
    assert found.groups[0].lambda_max == pytest.approx(float(torch.linalg.eigvalsh(2 * x.T @ x / 50)[-1]), rel=0.01)
    assert found.path == "differences of gradients"
    assert found.reason == "double backward is 100% off from converged differences"


def test_wrong_double_backward_is_found_out() -> None:
    class Forgets(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.saved = x.detach()
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved * g  # no dependence on x: the second derivative is lost

    x = torch.tensor(np.random.default_rng(0).standard_normal((50, 4)))
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
    found = limit_of(model, lambda m, b: Forgets.apply(m(x)).mean() + 1e-3 * (m.weight**2).sum())
    truth = float(torch.linalg.eigvalsh(2 * x.T @ x / 50)[-1]) + 2e-3
    assert found.groups[0].lambda_max == pytest.approx(truth, rel=0.01)
    assert found.reason == "double backward is 100% off from converged differences"


def limit_of(model: Any, function: Any) -> Any:
    from gradguard.adapters.torch_rates import TorchRates

    scenario = gg.Scenario(model, [None], function, optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    return measure(TorchRates(scenario, Settings(steps=10)), Settings(steps=10), {}, ())


def test_attention_without_double_backward() -> None:
    """Fused attention kernels have no double backward on every device; the mathematical form has."""
    q = torch.nn.Parameter(torch.tensor(np.random.default_rng(0).standard_normal((1, 2, 5, 4)), dtype=torch.float32))
    model = torch.nn.ParameterDict({"q": q})
    found = limit_of(model, lambda m, b: torch.nn.functional.scaled_dot_product_attention(m["q"], m["q"], m["q"]).square().mean())
    assert np.isfinite(found.groups[0].lambda_max)


def test_maximising_turns_the_sign() -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, maximize=True)
    scenario = gg.Scenario(model, [None], lambda m, b: -loss(m, b), optimizer=optimizer)
    from gradguard.adapters.torch_rates import TorchRates

    found = measure(TorchRates(scenario, Settings(steps=10)), Settings(steps=10), {}, ())
    assert found.groups[0].limit == pytest.approx(2.0 / SPECTRUM[-1], rel=0.01)


def test_smallest_eigenvalue_tells_a_saddle() -> None:
    class Saddle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))

    curvatures = torch.tensor([5.0, 1.0, 0.5, 0.1, -0.2, -3.0], dtype=torch.float64)
    found = limit_of(Saddle(), lambda m, b: 0.5 * (curvatures * m.w**2).sum())
    assert found.groups[0].lambda_min == pytest.approx(-3.0, rel=0.02)
    assert found.products <= 6
