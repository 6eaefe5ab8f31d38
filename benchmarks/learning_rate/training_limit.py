"""The training limit from at most ten runs, against one found with 5 seeds and 300 steps; and the verdict GG401.

    python -m benchmarks.learning_rate.training_limit [--sample | --held-out SEED [--count N]] [--only NAME]

The yardsticks (``yardstick.py``) share no code with gradguard. A rate fails where most of 5 seeds (initialisation and order
of batches) end not finite, or (``half``) have not covered half of the way from the loss at the start to the best end of any
lower rate; or (``loss``) merely do not end below the loss at the start. ``of 25`` is ``half`` with up to 25 seeds where the
five are split; ``split`` are the rates between which they are. All are found before gradguard is asked. Ratios are of ours to
these; verdicts are asked for at multiples of ``half``, and of ``of 25`` where that is more than one step of the bisection
away. Nets that no rate trains (less than a tenth of the loss at the start), and those that every rate up to 1e4 trains, are
counted apart. Printed as a Markdown table, with the seconds of the yardsticks and of gradguard. A verdict is on one
initialisation: below the table, for each that is not right, stands how many of 25 seeds fail at that rate, and how many of 25
orders of the batches from the initialisation judged.
``--held-out`` draws nets, data and optimizers from a seed; ``--minutes`` ends the draw by the clock, between two nets.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import NETS, OPTIMIZERS, Net
from benchmarks.learning_rate.yardstick import MANY, START, Yardstick, end_of_run
from gradguard.learning_rate import check_learning_rate


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


FACTORS = (0.1, 0.3, 3.0, 10.0)
"""Multiples of the limit at which the verdict is asked for."""


def gg401(net: Net, optimizer: str, limit: float) -> dict[float, str]:
    """The verdict's status at multiples of a limit; nothing where there is none."""
    if limit == math.inf:
        return {}
    reports = {factor: scenario_at(net, optimizer, factor * limit, select="GG401") for factor in FACTORS}
    return {factor: next(c.status for c in report.checks if c.code == "GG401") for factor, report in reports.items()}


def right(factor: float, status: str) -> bool:
    """Whether it fails above the limit, and passes below."""
    return status == ("failed" if factor > 1 else "passed")


def cell(factor: float, *statuses: str) -> str:
    """The verdicts at a multiple of both limits: both where one is right and the other is not."""
    texts = ["right" if right(factor, status) else f"**{status}**" for status in statuses if status]
    return ", ".join(dict.fromkeys(texts))


def near(ratios: list[float]) -> str:
    """How many are within a factor of 2, as a text."""
    return f"{sum(0.5 <= ratio <= 2 for ratio in ratios)} of {len(ratios)}"


class Tally:
    """The rows so far; a yardstick that is infinite is left out of its counts."""

    def __init__(self) -> None:
        self.half: list[float] = []
        self.wide: list[float] = []
        self.loss: list[float] = []
        self.splits: list[float] = []
        """Decades between the rates at which five seeds agree."""
        self.verdicts: dict[str, list[dict[float, str]]] = {"half": [], "of 25": []}
        self.idle = 0
        self.endless = {"half": 0, "of 25": 0}
        self.wrong: list[str] = []

    def add(self, net: Net, name: str) -> str:
        """One row of the table."""
        begun = time.perf_counter()
        yardstick = Yardstick(net, name)
        half, loss = yardstick.limit(0.5), yardstick.limit(0.0)
        if not yardstick.learns():
            self.idle += 1
            return f"| {net.name} | {name} | no rate learns |{13 * ' |'} {time.perf_counter() - begun:.0f} |"
        wide = yardstick.limit(0.5, MANY)
        holds, fails = (0.0, math.inf) if wide == math.inf else yardstick.split(wide, 0.5)
        judged = time.perf_counter()
        row = scenario_at(net, name, START[name]).table_rows("learning_rate")[0]
        ours = row["training_limit"]
        if half < math.inf:
            self.half.append(ours / half)
            self.loss.append(ours / loss)
        if wide < math.inf:
            self.wide.append(ours / wide)
            self.splits.append(math.log10(fails / holds) if holds > 0 else math.inf)
        cells = self._judge(net, name, half, wide)
        return (
            f"| {net.name} | {name} | {half:.3g} | {wide:.3g} | {holds:.2g} to {fails:.2g} | {loss:.3g} | {ours:.3g} "
            f"| {row['training_low']:.3g} | {row['training_high']:.3g} | {ours / half:.2f} | {ours / wide:.2f} | {ours / loss:.2f} "
            f"| {' | '.join(cells)} | {judged - begun:.0f} + {time.perf_counter() - judged:.0f} |"
        )

    def _judge(self, net: Net, name: str, half: float, wide: float) -> list[str]:
        """Verdicts at multiples of both limits, as the table's cells."""
        first = gg401(net, name, half)
        second = first if wide < math.inf and max(half, wide) < 1.34 * min(half, wide) else gg401(net, name, wide)
        for label, limit, asked in (("half", half, first), ("of 25", wide, second)):
            if limit == math.inf:
                self.endless[label] += 1
                continue
            self.verdicts[label].append(asked)
            wrong = [factor for factor, status in asked.items() if not right(factor, status)]
            if asked is not first or label == "half":
                self.wrong += [failing(net, name, factor * limit, limit / 10) for factor in wrong]
        return [cell(factor, first.get(factor, ""), second.get(factor, "")) for factor in FACTORS]

    def summary(self) -> str:
        """Counts over all rows."""
        between = [h >= 0.5 and o <= 2 for h, o in zip(self.half, self.loss, strict=True)]
        split = sorted(self.splits)
        lines = [
            f"training limit within a factor of 2 of half with 5 seeds: {near(self.half)}; with up to {MANY} where 5 are split: "
            f"{near(self.wide)}; of loss: {near(self.loss)}; of half or loss, or between: {sum(between)}",
            f"left out: no rate learns {self.idle}, every rate up to 1e4 learns {self.endless['half']} with 5 seeds, "
            f"{self.endless['of 25']} with up to {MANY}",
        ]
        if split:
            lines.append(
                f"5 seeds disagree over {split[len(split) // 2]:.2f} decades in the median, {split[9 * len(split) // 10]:.2f} in a "
                f"tenth of the nets; over more than a factor of 2: {sum(s > math.log10(2) for s in split)} of {len(split)}"
            )
        for limit, asked in self.verdicts.items():
            for factor in FACTORS:
                seen = [right(factor, verdicts[factor]) for verdicts in asked]
                lines.append(f"GG401 at {factor:g} x {limit}: {sum(seen)} of {len(seen)} right")
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
    print(
        "| net | optimizer | half | of 25 | split | loss | training_limit | low | high | / half | / of 25 | / loss | 0.1x | 0.3x | 3x "
        "| 10x | s |"
    )
    print(f"|{17 * '---|'}")
    tally, begun = Tally(), time.perf_counter()
    for net, name in pairs_of(arguments):
        if time.perf_counter() - begun > 60 * arguments.minutes:
            print(f"\n(ended after {arguments.minutes:g} minutes)")
            break
        print(tally.add(net, name), flush=True)
    print(f"\n{tally.summary()}")


if __name__ == "__main__":
    main()
