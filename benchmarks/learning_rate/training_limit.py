"""The training limit from at most ten runs, against one found with 5 seeds and 300 steps; and the verdict GG401.

    python -m benchmarks.learning_rate.training_limit [--sample | --held-out SEED [--count N]] [--only NAME]

The yardsticks share no code with gradguard: a plain loop, rates by decades and then by factors of 1.33. A rate fails where
most of 5 seeds (initialisation and order of batches) end not finite, or (``half``) have not covered half of the way from
the loss at the start to the best end of any lower rate; or (``loss``) merely do not end below the loss at the start. Ratios
are of ours to these; verdicts are asked for at multiples of ``half``. Nets that no rate trains (less than a tenth of the
loss at the start), and those that every rate up to 1e4 trains, are counted apart. Printed as a Markdown table. Five seeds
are few where about half of them fail, and a verdict is on one initialisation: below the table, for each verdict that is not
right, stands how many of 25 seeds fail at that rate, and how many of 25 orders of the batches from the initialisation judged.
``--held-out`` draws nets, data and optimizers from a seed; ``--minutes`` ends the draw by the clock, between two nets.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np
import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import NETS, OPTIMIZERS, Net
from gradguard.learning_rate import check_learning_rate

STEPS, SEEDS, MANY = 300, 5, 25
START = {"SGD": 1e-1, "momentum": 1e-2, "Nesterov": 1e-2, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-3, "Adagrad": 1e-2}


def end_of_run(net: Net, optimizer: str, lr: float, seed: int, order: int | None = None) -> tuple[float, float]:
    """The mean loss at the start of a plain loop, and at its end: lower by the median of the last 30 steps' gains.

    ``seed`` is that of the initialisation and, without an ``order`` of its own, of the batches.

    A gain is what the step's own batch has lost since the start, so that batches of another scale do not count as learning.
    """
    torch.manual_seed(seed)
    model = net.build()
    stepper = EVERY[optimizer](model.parameters(), lr)
    batches = net.batches(64)
    with torch.no_grad():
        first = [float(net.loss(model, b)) for b in batches]
    start = float(np.mean(first))
    steps = np.random.default_rng(seed if order is None else order).permutation(np.arange(STEPS) % len(batches))
    gains = []
    for index in steps:
        stepper.zero_grad()
        loss = net.loss(model, batches[int(index)])
        if not torch.isfinite(loss):
            return start, math.inf
        loss.backward()
        stepper.step()
        gains.append(first[int(index)] - float(loss.detach()))
    return start, start - float(np.median(gains[-30:]))


class Yardstick:
    """Ends by rate and seed, judged together; seeds are run as far as they can still change a majority."""

    def __init__(self, net: Net, optimizer: str) -> None:
        self.net, self.optimizer = net, optimizer
        self.ends: dict[float, dict[int, tuple[float, float]]] = {}

    def end(self, lr: float, seed: int) -> tuple[float, float]:
        """One run, once."""
        ends = self.ends.setdefault(lr, {})
        if seed not in ends:
            ends[seed] = end_of_run(self.net, self.optimizer, lr, seed)
        return ends[seed]

    def fails(self, lr: float, lower: list[float], share: float) -> bool:
        """Most seeds end worse than this share of the way to the best end of any lower rate."""
        bad = good = 0
        for seed in range(SEEDS):
            start, end = self.end(lr, seed)
            best = min([start, *(self.end(other, seed)[1] for other in lower)])
            failed = not end < start - share * (start - best)
            bad, good = bad + failed, good + (not failed)
            if max(bad, good) > SEEDS / 2:
                break
        return bad > good

    def learns(self) -> bool:
        """Whether some rate covers a tenth of the loss at the start, in the median over seeds."""
        falls = [float(np.median([1 - end / start for start, end in ends.values()])) for ends in self.ends.values()]
        return max(falls) > 0.1

    def limit(self, share: float) -> float:
        """Between the largest rate below the first that fails, and that; infinite where none up to 1e4 does."""
        lr = START[self.optimizer] / 10
        tried = [lr / 10, lr]

        def fails(lr: float) -> bool:
            lower = [other for other in tried if other < lr]
            tried.append(lr)
            return self.fails(lr, lower, share)

        while not fails(10 * lr):
            lr *= 10
            if lr >= 1e4:
                return math.inf
        low, high = lr, 10 * lr
        while high / low > 1.34:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if fails(middle) else (middle, high)
        return math.sqrt(low * high)


def scenario_at(net: Net, optimizer: str, lr: float, seed: int = 0, select: str | None = None) -> gg.Report:
    """gradguard's report on a fresh net at a rate."""
    torch.manual_seed(seed)
    model = net.build()
    stepper = EVERY[optimizer](model.parameters(), lr)
    return check_learning_rate(model, net.batches(64), loss=net.loss, optimizer=stepper, select=select)


def pairs_of(arguments: argparse.Namespace) -> Iterator[tuple[Net, str]]:
    """The nets and optimizers that are asked for."""
    if arguments.held_out is not None:
        drawn = (draw(arguments.held_out + i) for i in range(arguments.count))
        yield from ((net, name) for net, name in drawn if arguments.only in f"{net.name} {name}")
        return
    every = [(net, name) for i, net in enumerate(NETS) for j, name in enumerate(OPTIMIZERS) if (i + j) % 3 == 0]
    for net, name in [pair for pair in every if "mlp" in pair[0].name][::2] if arguments.sample else every:
        if arguments.only in f"{net.name} {name}":
            yield net, name


def failing(net: Net, optimizer: str, lr: float, low: float) -> str:
    """How many of many seeds, and of many orders from the first initialisation, do not come half as far as at a low rate."""

    def fails(seed: int, order: int | None = None) -> bool:
        start, best = end_of_run(net, optimizer, low, seed, order)
        return not end_of_run(net, optimizer, lr, seed, order)[1] < start - 0.5 * (start - min(start, best))

    seeds = sum(fails(seed) for seed in range(MANY))
    orders = sum(fails(0, order) for order in range(1, MANY + 1))
    return f"{net.name} {optimizer} at {lr:.3g}: {seeds} of {MANY} seeds fail, and {orders} of {MANY} orders from the initialisation judged"


class Tally:
    """The rows so far."""

    def __init__(self) -> None:
        self.half: list[float] = []
        self.loss: list[float] = []
        self.right: dict[float, list[bool]] = {0.1: [], 0.3: [], 3.0: [], 10.0: []}
        self.idle = self.endless = 0
        self.wrong: list[str] = []

    def add(self, net: Net, name: str) -> str:
        """One row of the table."""
        begun = time.perf_counter()
        yardstick = Yardstick(net, name)
        half, loss = yardstick.limit(0.5), yardstick.limit(0.0)
        if not yardstick.learns():
            self.idle += 1
            return f"| {net.name} | {name} | no rate learns | | | | | | | | | | | {time.perf_counter() - begun:.0f} |"
        row = scenario_at(net, name, START[name]).table_rows("learning_rate")[0]
        ours = row["training_limit"]
        if half == math.inf:
            self.endless += 1
            return f"| {net.name} | {name} | inf | {loss:.3g} | {ours:.3g} | | | | | | | | | {time.perf_counter() - begun:.0f} |"
        self.half.append(ours / half)
        self.loss.append(ours / loss)
        verdicts = []
        for factor, seen in self.right.items():
            report = scenario_at(net, name, factor * half, select="GG401")
            check = next(c for c in report.checks if c.code == "GG401")
            seen.append(check.status == ("failed" if factor > 1 else "passed"))
            verdicts.append("right" if seen[-1] else f"**{check.status}**")
            if not seen[-1]:
                self.wrong.append(failing(net, name, factor * half, half / 10))
        return (
            f"| {net.name} | {name} | {half:.3g} | {loss:.3g} | {ours:.3g} | {row['training_low']:.3g} | {row['training_high']:.3g} "
            f"| {ours / half:.2f} | {ours / loss:.2f} | {' | '.join(verdicts)} | {time.perf_counter() - begun:.0f} |"
        )

    def summary(self) -> str:
        """Counts over all rows."""
        half, loss = ([0.5 <= ratio <= 2 for ratio in ratios] for ratios in (self.half, self.loss))
        between = [h >= 0.5 and o <= 2 for h, o in zip(self.half, self.loss, strict=True)]
        lines = [
            f"training limit within a factor of 2 of half: {sum(half)} of {len(half)}; of loss: {sum(loss)}; "
            f"of one of them, or between: {sum(between)}",
            f"left out: no rate learns {self.idle}, every rate up to 1e4 learns {self.endless}",
        ]
        lines += [f"GG401 at {factor:g} x the limit: {sum(seen)} of {len(seen)} right" for factor, seen in self.right.items()]
        return "\n".join(lines + self.wrong)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", action="store_true", help="a few small nets only")
    parser.add_argument("--held-out", type=int, default=None, metavar="SEED", help="nets drawn from this seed on")
    parser.add_argument("--count", type=int, default=28, help="how many are drawn")
    parser.add_argument("--only", default="", help="part of a net's name and its optimizer's, like 'b64 Adam'")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no further net after so many minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(commit_line())
    print("| net | optimizer | half | loss | training_limit | low | high | / half | / loss | 0.1x | 0.3x | 3x | 10x | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    tally, begun = Tally(), time.perf_counter()
    for net, name in pairs_of(arguments):
        if time.perf_counter() - begun > 60 * arguments.minutes:
            print(f"\n(ended after {arguments.minutes:g} minutes)")
            break
        print(tally.add(net, name), flush=True)
    print(f"\n{tally.summary()}")


if __name__ == "__main__":
    main()
