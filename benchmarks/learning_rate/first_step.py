"""The first-step limit from curvature, against rates that are bisected, on real small nets.

    python -m benchmarks.learning_rate.first_step [--sample] [--warm STEPS]

Three yardsticks, none of which gradguard sees. *Local*: a copy of the net is moved a little along the sharpest direction, the loss is
made flat there (its gradient at the start subtracted), and the optimizer takes 12 steps on the same batch: above which rate
does the deviation grow? This is what the eigenvalue is about, on the real loss with the real optimizer. *Overshoot*: the optimizer
takes 20 steps on the same batch as it is, from rest (momentum zeroed: it would still push along other batches' gradients):
above which rate is its loss at some step above where it began? *Quadratic*: the same
question, asked of the quadratic model of that loss (its gradient and Hessian at the start). Predicted against quadratic is what
20 steps from where the net stands leave out; quadratic against overshoot is what the change of curvature in those steps does.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.nets import everything, scenario
from gradguard.adapters.base import Settings
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_curvature import TorchCurvature
from gradguard.adapters.torch_rates import TorchRates
from gradguard.curvature.lanczos import extremes
from gradguard.measurements.curvature import Curvature, measure

RATE = {"SGD": 5e-2, "momentum": 5e-3, "Nesterov": 5e-3, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 5e-4}
SETTINGS = Settings(steps=50)
LOCAL, FOLLOWED = 12, 20


def bisect(fails: Callable[[float], bool], near: float) -> float:
    """The rate at which ``fails`` begins, within 5 %, looked for from a thousandth to a thousand times of ``near``."""
    low, high = near / 1e3, near * 1e3
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fails(middle) else (middle, high)
    return math.sqrt(low * high)


def at_rest(problem: TorchRates, lr: float) -> Session:
    """A copy of the net and of its optimizer at a rate; what momentum remembers of other batches is forgotten."""
    session = problem.training.fresh()
    for group in session.optimizer.param_groups:
        group["lr"] = lr
    for state in session.optimizer.state.values():
        for name in ("exp_avg", "momentum_buffer"):
            if isinstance(state.get(name), torch.Tensor):
                state[name].zero_()
    return session


def local(problem: TorchRates, lr: float, point: TorchCurvature, top: torch.Tensor) -> bool:
    """Whether a tiny deviation along the sharpest direction grows at that rate, on the tilted loss of the first batch."""
    session = at_rest(problem, lr)
    model, optimizer = session.model, session.optimizer
    batch = problem.training.batches[0]
    parameters = session.params
    torch.manual_seed(0)
    tilt = torch.autograd.grad(session.loss(batch), parameters)
    start = [p.detach().clone() for p in parameters]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    direction = point._root * top
    size = 1e-7 * float(point._join(start).norm()) / float(direction.norm())
    with torch.no_grad():
        for p, piece in zip(parameters, point._split(size * direction), strict=True):
            p.add_(piece)
    along = []
    for _ in range(LOCAL):
        optimizer.zero_grad()
        torch.manual_seed(0)
        value = problem.training.scenario.loss(model, batch)
        gradients = torch.autograd.grad(value, parameters)
        for p, g, t in zip(parameters, gradients, tilt, strict=True):
            p.grad = g - t
        optimizer.step()
        moved = point._join([p.detach() - s for p, s in zip(parameters, start, strict=True)])
        along.append(abs(float(torch.where(point._root > 0, moved / point._root, 0.0) @ top)))
        if not along[-1] < 1e6:
            return True
    return bool(max(along[-2:]) > size)


def overshoots(problem: TorchRates, lr: float) -> bool:
    """Whether the same batch's loss is above its start at some of 20 steps."""
    session = at_rest(problem, lr)
    batch = problem.training.batches[0]
    start = None
    for _ in range(FOLLOWED + 1):
        session.optimizer.zero_grad()
        torch.manual_seed(0)
        value = problem.training.scenario.loss(session.model, batch)
        start = float(value.detach()) if start is None else start
        if not float(value.detach()) <= start:
            return True
        value.backward()
        session.optimizer.step()
    return False


def overshoots_quadratic(problem: TorchRates, lr: float, gradient: torch.Tensor, point: TorchCurvature) -> bool:
    """Whether the quadratic model of the batch's loss is above its start at some of 20 steps of the optimizer."""
    session = at_rest(problem, lr)
    parameters, optimizer = session.params, session.optimizer
    start = [p.detach().clone() for p in parameters]
    moved = torch.zeros_like(gradient)
    image = torch.zeros_like(gradient)
    for _ in range(FOLLOWED):
        for p, piece in zip(parameters, point._split(gradient + image), strict=True):
            p.grad = piece.clone()
        optimizer.step()
        moved = point._join([p.detach() - s for p, s in zip(parameters, start, strict=True)])
        image = point._hessian(moved)
        if not float(gradient @ moved + 0.5 * moved @ image) <= 0.0:
            return True
    return False


def warmed(problem: gg.Scenario, steps: int) -> gg.Scenario:
    """The scenario after some steps of training in double precision, so that tiny deviations are seen."""
    trained = TorchRates(problem, SETTINGS)
    trained.run(steps, keep="warm")
    session = trained.training.sessions["warm"]
    return replace(problem, model=session.model, optimizer=session.optimizer)


def double(problem: gg.Scenario) -> gg.Scenario:
    """The same net and data in float64."""
    problem.model.double()
    batches = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in problem.batches]
    return replace(problem, batches=batches)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", action="store_true", help="a few small nets only")
    parser.add_argument("--warm", type=int, default=200, help="steps of training before the limit is asked for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = list(everything())
    if arguments.sample:
        pairs = [pair for pair in pairs if "friedman" in pair[0].name or "softmax" in pair[0].name]
    print(commit_line())
    print("| net | optimizer | lambda_1 | products | predicted | local | ratio | overshoot | ratio | quadratic | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: list[tuple[float, float, float]] = []
    for net, name in pairs:
        begun = time.perf_counter()
        problem = TorchRates(warmed(double(scenario(net, name, RATE[name], size=128)), arguments.warm), SETTINGS)
        found: Any = measure(problem, SETTINGS, {}, ())
        assert isinstance(found, Curvature), found.reason
        limit = found.groups[0].limit
        point = problem.point()
        top, gradient = extremes(point).top, point._gradient()
        near = bisect(lambda lr, p=problem, c=point, t=top: local(p, lr, c, t), limit)
        far = bisect(lambda lr, p=problem: overshoots(p, lr), limit)
        model = bisect(lambda lr, p=problem, g=gradient, c=point: overshoots_quadratic(p, lr, g, c), limit)
        rows.append((limit / near, limit / far, model / far))
        print(
            f"| {net.name} | {name} | {found.groups[0].lambda_max:.4g} | {found.products} | {limit:.3g} | {near:.3g} | {limit / near:.2f} "
            f"| {far:.3g} | {limit / far:.2f} | {model:.3g} | {time.perf_counter() - begun:.0f} |", flush=True,
        )
    print(f"\n{len(rows)} pairs of a net and an optimizer, after {arguments.warm} steps of training")
    told("predicted / local", [row[0] for row in rows])
    told("predicted / overshoot", [row[1] for row in rows])
    steady = [row for row in rows if within(row[2])]
    told("predicted / overshoot, where the quadratic model's overshoot is within 0.5 to 2 of the real one", [row[1] for row in steady])
    bent = [row for row in rows if not within(row[2])]
    told("predicted / overshoot, where it is not", [row[1] for row in bent])
    told("predicted / overshoot of the quadratic model", [row[1] / row[2] for row in rows])


def within(ratio: float) -> bool:
    """What the prediction is asked to be: right within a factor of two."""
    return 0.5 <= ratio <= 2.0


def told(what: str, ratios: list[float]) -> None:
    """One line of the summary."""
    if ratios:
        print(f"{what}: {sum(map(within, ratios))} of {len(ratios)} within 0.5 to 2; median {np.median(ratios):.2f}, "
              f"{min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
