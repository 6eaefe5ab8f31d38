"""Whether the first steps overshoot where curvature says so: tried on formulas whose answer is known, and on real losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import gradguard as gg
from gradguard.adapters.base import Counts, Settings
from gradguard.adapters.numpy_rates import NumpyRates
from gradguard.adapters.rates_base import Plan, RateProblem
from gradguard.measurements.curvature import FOLLOWED, Curvature, GroupCurvature
from gradguard.measurements.curvature import measure as measure_curvature
from gradguard.measurements.overshoot import DOWN, Overshoot, measure
from gradguard.rules.diverging_learning_rate import explain
from tests.learning_rate.test_first_step_limit import OPTIMIZERS, Bowl, loss

SETTINGS = Settings(steps=10)


def curved(factor: float, *, excited: bool = True) -> Curvature:
    """What curvature says of an optimizer at rate 0.1."""
    group = GroupCurvature(
        index=0, lr=0.1, optimizer="SGD", lambda_max=20.0 / factor, lambda_min=0.0, error_bar=0.1, limit=0.1 * factor
    )
    return Curvature(
        groups=(group,), ratio=1.0 / factor, evaluations=40, products=20, converged=True, vectors=24, factor=factor,
        excited=excited,
    )


class Edge:
    """A loss that is above its start after a few steps at every factor above an edge; the rest is never asked."""

    def __init__(self, edge: float, start: float = 2.0) -> None:
        self.edge, self.start = edge, start
        self.tried: list[float] = []
        self.plan = Plan()

    def follow(
        self, steps: int, *, factor: float, batch: int, seed: int, until: Callable[[Sequence[float]], bool]
    ) -> tuple[float, ...]:
        """Falls, and at the fifth step it is as high as the factor says."""
        self.tried.append(factor)
        losses: list[float] = []
        for step in range(steps + 1):
            losses.append(self.start * (1.0 if step == 0 else 2.0 if step == 5 and factor > self.edge else 0.9))
            if until(losses):
                break
        return tuple(losses)

    run = attempt = normalised = point = adaptive = null_losses = along = split_loss = follow
    training = path = objective = None
    blocks, counts, notes = (), Counts(), ()


def seen(problem: Any, curvature: Curvature) -> Any:
    assert isinstance(problem, RateProblem)
    return measure(problem, SETTINGS, {"curvature": curvature}, ())


@given(predicted=st.floats(1e-6, 1e6), off=st.floats(-11.0, 11.0))
def test_the_limit_is_within_a_factor_of_two_of_where_overshoot_begins(predicted: float, off: float) -> None:
    assume(abs(abs(off) - 1.0) > 1e-6)
    edge = predicted * 2.0**off
    problem = Edge(edge)
    found = seen(problem, curved(predicted))
    assert isinstance(found, Overshoot)
    assert 0.5 <= found.limit / edge <= 2.0
    assert found.low <= edge <= found.high
    assert found.corrected == (abs(off) > 1.0)
    assert len(problem.tried) == len(set(problem.tried)) <= 2 * DOWN + 2
    assert found.gradients <= FOLLOWED * len(problem.tried)
    assert found.ratio == pytest.approx(1.0 / found.limit)


def test_agreement_costs_three_or_four_trials() -> None:
    problem = Edge(0.9)
    found = seen(problem, curved(1.0))
    assert (found.limit, found.high) == (1.0, 1.0)
    assert problem.tried == pytest.approx([1.0, 0.5**0.5, 0.5])
    assert found.gradients == 2 * FOLLOWED + 6
    problem = Edge(1.3)
    found = seen(problem, curved(1.0))
    assert (found.limit, found.low) == (1.0, 1.0)
    assert problem.tried == pytest.approx([1.0, 2.0, 2.0**0.5, 0.5**0.5])


def test_single_rates_that_hold_do_not_count() -> None:
    class Lucky(Edge):
        """Above 0.2 everything overshoots but 0.5 and 0.25."""

        def follow(self, steps: int, *, factor: float, **options: Any) -> tuple[float, ...]:
            lucky = any(math.isclose(factor, one) for one in (0.5, 0.25))
            return super().follow(steps, factor=0.0 if lucky else factor, **options)

    found = seen(Lucky(0.3), curved(1.0))
    assert found.high == pytest.approx(0.125**0.5)
    assert found.limit == pytest.approx(0.125**0.5 / 2**0.25)


def test_a_point_that_the_sharpest_direction_does_not_move_is_no_evidence() -> None:
    found = seen(Edge(math.inf), curved(3.0, excited=False))
    assert found.limit == 3.0
    assert not found.corrected


def test_nothing_overshoots() -> None:
    assert seen(Edge(math.inf), curved(3.0)).limit == math.inf


def test_a_loss_that_rises_at_every_rate_is_not_the_rates_fault() -> None:
    found = seen(Edge(0.0), curved(1.0))
    assert found.reason.startswith("the loss rises at every rate")


def test_without_positive_curvature_the_steps_alone_tell() -> None:
    assert 0.5 <= seen(Edge(7.0), curved(math.inf)).limit / 7.0 <= 2.0


def test_roundoff_is_no_rise() -> None:
    class Flat(Edge):
        def follow(self, steps: int, **options: Any) -> tuple[float, ...]:
            return tuple(2.0 + 1e-7 * (step % 2) for step in range(steps + 1))

    assert seen(Flat(1.0), curved(1.0, excited=False)).limit == 1.0


def test_coarse_parameters_have_more_roundoff() -> None:
    from gradguard.blocks import Block

    class Rough(Edge):
        blocks = (Block(name="w", shape=(3,), dtype="float32"), Block(name="v", shape=(3,), dtype="bfloat16"))

        def follow(self, steps: int, *, factor: float, until: Callable[[Sequence[float]], bool], **options: Any) -> Any:
            losses = (2.0, 2.0 if factor < 1e-3 else 2.3, 4.0 if factor > self.edge else 1.0)
            return next((losses[:k] for k in (1, 2, 3) if until(losses[:k])), losses)

    assert 0.5 <= seen(Rough(8.0), curved(1.0)).limit / 8.0 <= 2.0


def test_the_schedules_peak_counts() -> None:
    problem = Edge(2.0)
    problem.plan = replace(problem.plan, factors=(0.1, 1.0, 3.0, 1.0))
    assert seen(problem, curved(2.0)).ratio == pytest.approx(1.5)


def test_what_the_steps_say_is_told() -> None:
    evidence: dict[str, Any] = {"curvature": curved(8.0)}
    evidence["overshoot"] = seen(Edge(0.9), evidence["curvature"])
    (text,) = explain(evidence)
    assert text == (
        "lambda_1 = 2.5 +- 0.1: first steps overshoot above lr 0.0841 (lr is 1.19 times that), for curvature grows on the way: "
        "at the start it allows 0.8"
    )


torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_is_left_as_curvature_says(name: str) -> None:
    from gradguard.adapters.torch_rates import TorchRates

    make, set_state = OPTIMIZERS[name]
    model = Bowl()
    with torch.no_grad():
        model.w.copy_(torch.tensor(1e-3 * np.random.default_rng(4).standard_normal(len(model.w))))
    optimizer = make(model.parameters())
    set_state(optimizer)
    problem = TorchRates(gg.Scenario(model, [None], loss, optimizer=optimizer), SETTINGS)
    curvature = measure_curvature(problem, SETTINGS, {}, ())
    found = measure(problem, SETTINGS, {"curvature": curvature}, ())
    assert found.high < math.inf
    if name == "momentum with dampening":  # the first gradient of all is not damped: half of the limit is where it overshoots
        assert 0.5 <= found.limit / (curvature.factor / 2 * 2.0 / (2.0 + 2 * 0.9)) <= 2.0
    else:
        assert found.limit == curvature.factor


class Quartic(torch.nn.Module):
    """w^2 / 2 + w^4: the curvature is 1 at 0, and 1 + 12 w^2 on the way."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def forward(self) -> Any:
        return (0.5 * self.w**2 + self.w**4).sum()


class Well(Quartic):
    """log cosh(3 w): the curvature is 9 at 0, and nothing far out."""

    def forward(self) -> Any:
        return torch.log(torch.cosh(3 * self.w)).sum()


@pytest.mark.parametrize(
    ("make", "start", "clip"), [(Quartic, 3.0, None), (Quartic, 3.0, 0.5), (Well, 2.0, None), (Well, 0.5, None), (Well, 0.1, 0.2)]
)
def test_real_losses_against_a_scan(make: type[Quartic], start: float, clip: float | None) -> None:
    """The oracle is gradient descent written out."""
    from gradguard.adapters.torch_rates import TorchRates

    def overshoots(rate: float) -> bool:
        model = make(start)
        first = float(model().detach())
        for _ in range(FOLLOWED):
            (gradient,) = torch.autograd.grad(model(), [model.w])
            size = float(gradient.norm())
            with torch.no_grad():
                model.w -= rate * gradient * (min(1.0, clip / max(size, 1e-300)) if clip is not None else 1.0)
            if not float(model().detach()) <= first:
                return True
        return False

    edge = next(rate for rate in np.logspace(-3, 4, 351) if overshoots(rate))
    model = make(start)
    scenario = gg.Scenario(model, [None], lambda m, b: m(), optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    problem = TorchRates(scenario, SETTINGS, clip=clip)
    curvature = measure_curvature(problem, SETTINGS, {}, ())
    found = measure(problem, SETTINGS, {"curvature": curvature}, ())
    assert 0.5 <= 0.01 * found.limit / edge <= 2.0
    assert float(model.w.detach()) == start


def test_dropout_is_the_same_in_every_step() -> None:
    from gradguard.adapters.torch_rates import TorchRates

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))
    x = torch.randn(16, 8)
    scenario = gg.Scenario(model, [x], lambda m, b: m(b).square().mean(), optimizer=torch.optim.SGD(model.parameters(), 1e-9))
    losses = TorchRates(scenario, SETTINGS).follow(5, factor=1.0, batch=0, seed=0, until=lambda losses: False)
    assert len(losses) == 6
    assert max(losses) - min(losses) < 1e-5 * losses[0]


def test_momentum_is_forgotten_and_the_users_is_not() -> None:
    from gradguard.adapters.torch_rates import TorchRates

    model = Quartic(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    optimizer.state[model.w]["momentum_buffer"] = torch.full((1,), -1e6, dtype=torch.float64)
    problem = TorchRates(gg.Scenario(model, [None], lambda m, b: m(), optimizer=optimizer), SETTINGS)
    losses = problem.follow(3, factor=1.0, batch=0, seed=0, until=lambda losses: False)
    assert list(losses) == sorted(losses, reverse=True)
    assert float(optimizer.state[model.w]["momentum_buffer"]) == -1e6


def test_ascent_is_followed_with_the_other_sign() -> None:
    from gradguard.adapters.torch_rates import TorchRates

    model = Quartic(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, maximize=True)
    problem = TorchRates(gg.Scenario(model, [None], lambda m, b: -m(), optimizer=optimizer), SETTINGS)
    losses = problem.follow(3, factor=1.0, batch=0, seed=0, until=lambda losses: False)
    assert losses[0] == pytest.approx(1.5)
    assert list(losses) == sorted(losses, reverse=True)


def test_an_adaptive_optimizer_is_warmed_up_at_a_rate_that_keeps_its_way() -> None:
    """At the rate itself twenty steps would end where nothing has a gradient any more."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long()

    def cross_entropy(m: Any, b: Any) -> Any:
        return torch.nn.functional.cross_entropy(m(b[0]), b[1])

    row = gg.check_learning_rate(
        model, [(x, y)], loss=cross_entropy, optimizer=torch.optim.RMSprop(model.parameters(), 3.0)
    ).table_rows("learning_rate")[0]
    assert row["lambda_max"] > 0
    assert 0 < row["curvature_limit"] < 1.0


def test_numpy_models_are_followed_alike() -> None:
    model = {"w": np.array([3.0])}
    scenario = gg.Scenario(
        model, [None], lambda m, b: float(np.sum(0.5 * m["w"] ** 2 + m["w"] ** 4)),
        grad=lambda m, b: {"w": m["w"] + 4 * m["w"] ** 3}, optimizer=gg.SGD(0.01),
    )
    problem = NumpyRates(scenario, SETTINGS)
    curvature = measure_curvature(problem, SETTINGS, {}, ())
    found = measure(problem, SETTINGS, {"curvature": curvature}, ())
    edge = 0.01 * found.limit
    w, first = 3.0, 0.5 * 9 + 81
    assert abs(w - 0.5 * edge * (w + 4 * w**3)) < w
    w -= 2.0 * edge * (w + 4 * w**3)
    assert 0.5 * w**2 + w**4 > first
    assert model["w"][0] == 3.0
