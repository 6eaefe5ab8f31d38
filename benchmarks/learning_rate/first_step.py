"""The first-step limit against rates that are found without gradguard, on real small nets and on drawn ones.

    python -m benchmarks.learning_rate.first_step [--sample] [--warm STEPS] [--held-out SEED --count N] [--float32]

*Overshoot*: a plain loop takes 20 steps on the same batch with copies of the net and of its optimizer, from rest (momentum
zeroed: it would still push along other batches' gradients): which is the lowest rate at which the loss is at some step above
where it began? Rates go up by a quarter from far below until one does (single ones above it may not), then the limit is bisected
to 5 %. Beside the ratio of gradguard's first-step limit stands that of what curvature at the start allows, before the steps that
gradguard takes to try it.
*Local* asks the optimizer about that curvature: a copy of the net is moved a little along the sharpest direction, the loss is
made flat there (its gradient at the start subtracted), and the optimizer takes 12 steps on the same batch: above which rate does
the deviation grow? (After some training only: an empty state is warmed up by gradguard first.)
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import Net, everything
from gradguard.adapters.base import Settings
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_curvature import TorchCurvature
from gradguard.adapters.torch_rates import TorchRates
from gradguard.curvature.lanczos import extremes
from gradguard.learning_rate import check_learning_rate

RATE = {"SGD": 5e-2, "momentum": 5e-3, "Nesterov": 5e-3, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 5e-4, "Adagrad": 1e-2}
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


def overshoots(problem: gg.Scenario, lr: float) -> bool:
    """Whether the first batch's loss is above its start at some of 20 steps of a plain loop."""
    memo: dict[int, Any] = {}
    model, optimizer = copy.deepcopy(problem.model, memo), copy.deepcopy(problem.optimizer, memo)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for state in optimizer.state.values():
        for name in ("exp_avg", "momentum_buffer"):
            if state.get(name) is not None:
                state[name] = torch.zeros_like(state[name])
    start = None
    for _ in range(FOLLOWED + 1):
        optimizer.zero_grad()
        loss = problem.loss(model, problem.batches[0])
        value = float(loss.detach())
        start = value if start is None else start
        if not value <= start + (4e-6 * abs(start) if loss.dtype == torch.float32 else 0.0):
            return True
        loss.backward()
        optimizer.step()
    return False


def lowest(fails: Callable[[float], bool], near: float) -> float:
    """The lowest rate that fails, within 5 %: steps of 1.25 from far below ``near`` on, then bisected."""
    high = near / 32 if not fails(near / 32) else near / 4096
    while not fails(high):
        high *= 1.25
        if high > 1e4 * near:
            return math.inf
    low = high / 1.25
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fails(middle) else (middle, high)
    return math.sqrt(low * high)


def warmed(problem: gg.Scenario, steps: int) -> gg.Scenario:
    """The scenario after some steps of training."""
    if not steps:
        return problem
    trained = TorchRates(problem, SETTINGS)
    trained.run(steps, keep="warm")
    session = trained.training.sessions["warm"]
    return replace(problem, model=session.model, optimizer=session.optimizer)


def double(problem: gg.Scenario) -> gg.Scenario:
    """The same net and data in float64."""
    problem.model.double()
    batches = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in problem.batches]
    return replace(problem, batches=batches)


def prepared(net: Net, name: str, *, warm: int, single: bool = False) -> gg.Scenario:
    """A net and its optimizer after some steps of training."""
    torch.manual_seed(0)
    model = net.build()
    given = gg.Scenario(model, net.batches(128), net.loss, optimizer=EVERY[name](model.parameters(), RATE[name]))
    return warmed(given if single else double(given), warm)


def limits_of(given: gg.Scenario) -> dict[str, Any]:
    """gradguard's row of the table ``learning_rate``."""
    report = check_learning_rate(given.model, given.batches, loss=given.loss, optimizer=given.optimizer, steps=8, select="GG401")
    (row,) = report.table_rows("learning_rate")
    return row


def pairs_of(arguments: argparse.Namespace) -> Iterator[tuple[Net, str]]:
    """The nets and optimizers that are asked for."""
    if arguments.held_out is not None:
        yield from (draw(arguments.held_out + i) for i in range(arguments.count))
        return
    for net, name in everything():
        if not arguments.sample or "friedman" in net.name or "softmax" in net.name:
            yield net, name


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", action="store_true", help="a few small nets only")
    parser.add_argument("--warm", type=int, default=0, help="steps of training before the limit is asked for")
    parser.add_argument("--held-out", type=int, default=None, metavar="SEED", help="nets drawn from this seed on")
    parser.add_argument("--count", type=int, default=40, help="how many are drawn")
    parser.add_argument("--float32", action="store_true", help="single precision, without the local yardstick")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(commit_line())
    print("| net | optimizer | lambda_1 | by curvature | local | ratio | first-step limit | overshoot | ratio | gradients | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: list[tuple[float, float, float]] = []
    nets: dict[str, dict[str, str]] = {}
    for net, name in pairs_of(arguments):
        begun = time.perf_counter()
        given = prepared(net, name, warm=arguments.warm, single=arguments.float32)
        row = limits_of(given)
        curvature, limit = row["curvature_limit"], row["first_step_limit"]
        near = math.nan
        if arguments.warm and not arguments.float32:
            problem = TorchRates(given, SETTINGS)
            point = problem.point()
            top = extremes(point).top
            near = bisect(lambda lr, p=problem, c=point, t=top: local(p, lr, c, t), curvature)
        far = lowest(lambda lr, p=given: overshoots(p, lr), limit)
        beside = "- | -" if math.isnan(near) else f"{near:.3g} | {curvature / near:.2f}"
        rows.append((curvature / near, curvature / far, limit / far))
        nets.setdefault(net.name, {})[name] = f"{limit / far:.2f} ({curvature / far:.2g})"
        print(
            f"| {net.name} | {name} | {row['lambda_max']:.4g} | {curvature:.3g} | {beside} "
            f"| {limit:.3g} | {far:.3g} | {limit / far:.2f} | {row['evaluations']:.0f} | {time.perf_counter() - begun:.0f} |", flush=True,
        )
    print(f"\n{len(rows)} pairs of a net and an optimizer, of {len(nets)} nets, after {arguments.warm} steps of training")
    if arguments.held_out is None:
        heads = list(dict.fromkeys(name for cells in nets.values() for name in cells))
        print("\nfirst-step limit / overshoot (curvature alone / overshoot)\n")
        print(f"| net | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for net_name, cells in nets.items():
            print(f"| {net_name} | {' | '.join(cells[name] for name in heads)} |")
        print()
    told("curvature / local", [row[0] for row in rows if not math.isnan(row[0])])
    told("curvature / overshoot", [row[1] for row in rows])
    told("first-step limit / overshoot", [row[2] for row in rows])


def within(ratio: float) -> bool:
    """What the limit is asked to be: right within a factor of two."""
    return 0.5 <= ratio <= 2.0


def told(what: str, ratios: list[float]) -> None:
    """One line of the summary."""
    if ratios:
        print(f"{what}: {sum(map(within, ratios))} of {len(ratios)} within 0.5 to 2; median {np.median(ratios):.2f}, "
              f"{min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
