"""How far single runs disagree about the training limit, and where it lies above what short runs hold.

    python -m benchmarks.learning_rate.spread [--first SEED] [--count N]

The constants of ``gradguard/measurements/rate_belief.py`` come from here, from nets drawn with ``--first 11000``. For each net:
the limit of 5 seeds (``half`` of ``training_limit``); the standard deviation, in decades, of the limits of single seeds
(initialisation and order of batches), and of single orders from one initialisation; and how many decades the limit lies above
the largest rate that gradguard's short runs hold. A single seed's limit is where its runs, at rates 1.33 apart, fit a single
change from holding to failing best. No method that sees one initialisation can be nearer than the spread over seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import Net
from benchmarks.learning_rate.yardstick import SEEDS, START, Yardstick, end_of_run
from gradguard.learning_rate import learning_rate_problem
from gradguard.measurements.rate_observation import RateObservation, measure

NEAR = [10.0 ** (step / 8) for step in range(-4, 6)]
"""Rates that are looked at, as multiples of the limit."""


def single_limit(end: Callable[[float], tuple[float, float]], limit: float) -> float:
    """Decades from the limit to where one seed's runs change from holding to failing."""
    start, low = end(limit / 10)
    best = min(start, low)
    failed = []
    for factor in NEAR:
        _, last = end(factor * limit)
        best = min(best, last)
        failed.append(not last < start - 0.5 * (start - best))
    misfits = [sum(failed[:cut]) + sum(not bad for bad in failed[cut:]) for cut in range(len(failed) + 1)]
    return (float(np.argmin(misfits)) - 0.5 - NEAR.index(1.0)) / 8


def short_runs_hold(net: Net, optimizer: str) -> float:
    """The largest rate of the decades that gradguard's short runs hold."""
    torch.manual_seed(0)
    model = net.build()
    scenario = gg.Scenario(model, net.batches(64), net.loss, optimizer=EVERY[optimizer](model.parameters(), START[optimizer]))
    problem, settings = learning_rate_problem(scenario)
    problem.plan = replace(problem.plan, refine=False)
    observed = measure(problem, settings, {}, ())
    assert isinstance(observed, RateObservation)
    return observed.low * observed.unit


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=11000)
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(commit_line())
    print("| net | optimizer | half | over seeds | over orders | above short runs |\n|---|---|---|---|---|---|")
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.count):
        net, name = draw(seed)
        yardstick = Yardstick(net, name)
        half = yardstick.limit(0.5)
        if half == math.inf or not yardstick.learns():
            continue
        seeds = [single_limit(lambda lr, s=s, y=yardstick: y.end(lr, s), half) for s in range(SEEDS)]
        orders = [single_limit(lambda lr, o=o, n=net, m=name: end_of_run(n, m, lr, 0, order=o), half) for o in range(1, SEEDS)]
        rows.append((float(np.std(seeds, ddof=1)), float(np.std(orders, ddof=1)), math.log10(half / short_runs_hold(net, name))))
        print(f"| {net.name} | {name} | {half:.3g} | {rows[-1][0]:.2f} | {rows[-1][1]:.2f} | {rows[-1][2]:.2f} |", flush=True)
    if rows:
        print("\nmedian: " + ", ".join(f"{value:.2f}" for value in np.median(rows, axis=0)))


if __name__ == "__main__":
    main()
