"""What the checks cost: gradients, memory and time, against a range test of 100 steps, up to 10 million parameters.

    python -m benchmarks.learning_rate.cost [--large]

Gradients are those of curvature, and those of the first steps that try what it predicts. The last columns are the times of the first-step limit and of the training limit over that of the range test, which is taken
between and after them in the same process.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time

import torch
from torch import nn

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.nets import NETS, OPTIMIZERS, scenario
from gradguard.adapters.base import Settings
from gradguard.adapters.torch_rates import TorchRates
from gradguard.measurements.curvature import Curvature
from gradguard.measurements.curvature import measure as curvature
from gradguard.measurements.overshoot import Overshoot
from gradguard.measurements.overshoot import measure as overshoot
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_observation import measure as observe


def range_test(problem: gg.Scenario, steps: int = 100) -> None:
    """The usual sweep: one run whose rate grows from 1e-5 to 10."""
    batches = list(problem.batches)
    optimizer = problem.optimizer
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-5 * 1e6 ** (step / steps)
        optimizer.zero_grad()
        problem.loss(problem.model, batches[step % len(batches)]).backward()
        optimizer.step()


def timed_range_test(problem: gg.Scenario) -> float:
    """Seconds of the usual sweep, on a copy."""
    model = copy.deepcopy(problem.model)
    optimizer = type(problem.optimizer)(model.parameters(), lr=1e-5)
    begun = time.perf_counter()
    range_test(gg.Scenario(model, problem.batches, problem.loss, optimizer=optimizer))
    return time.perf_counter() - begun


def wide(width: int = 2200) -> gg.Scenario:
    """An MLP of about 10 million parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10))
    batches = [(torch.randn(64, 64), torch.randint(0, 10, (64,))) for _ in range(4)]
    loss = nn.CrossEntropyLoss()
    return gg.Scenario(model, batches, lambda m, b: loss(m(b[0]), b[1]), optimizer=torch.optim.AdamW(model.parameters(), 1e-4))


def peak() -> float:
    """The largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def runs_of(observed: RateObservation) -> str:
    """How many runs of how many steps, and all steps."""
    short = [run for run in observed.runs if not run.long]
    longer = [run for run in observed.runs if run.long]
    steps = sum(len(run.losses) for run in observed.runs)
    most = f" + {len(longer)} x {max(len(run.losses) for run in longer)}" if longer else ""
    return f"{len(short)} x {observed.steps}{most} | {steps}"


def row(name: str, problem: gg.Scenario, steps: int) -> None:
    """Curvature, runs and range test of one scenario."""
    size = sum(p.numel() for p in problem.model.parameters())
    settings = Settings(steps=steps)
    rates = TorchRates(problem, settings)
    before = peak()
    begun = time.perf_counter()
    found = curvature(rates, settings, {}, ())
    tried = overshoot(rates, settings, {"curvature": found}, ())
    assert isinstance(found, Curvature)
    assert isinstance(tried, Overshoot)
    curved = time.perf_counter() - begun
    grown = peak() - before
    sweep = [timed_range_test(problem)]
    begun = time.perf_counter()
    observed = observe(rates, settings, {}, ())
    assert isinstance(observed, RateObservation)
    ran = time.perf_counter() - begun
    sweep.append(timed_range_test(problem))
    reference = sum(sweep) / 2
    print(
        f"| {name} | {size:,} | {found.products} | {found.evaluations} + {tried.gradients} | {curved:.2f} | {found.vectors} | {grown / (4e-6 * size):.0f} "
        f"| {runs_of(observed)} | {ran:.2f} | {reference:.2f} | {curved / reference:.1f} | {ran / reference:.1f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="with the model of 10 million parameters")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(commit_line())
    print("| net | parameters | products | gradients | s | vectors | peak, vectors | runs | steps | s | range test, s | first-step / range test | training limit / range test |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    nets = {net.name: net for net in NETS}
    for name, optimizer in (("digits-mlp-relu", "SGD"), ("digits-mlp-relu", "Adam"), ("digits-cnn", "Adam"), ("digits-transformer", "AdamW")):
        assert optimizer in OPTIMIZERS
        row(f"{name}, {optimizer}", scenario(nets[name], optimizer, 1e-3), 50)
    if arguments.large:
        row("MLP, AdamW", wide(), 10)


if __name__ == "__main__":
    main()
