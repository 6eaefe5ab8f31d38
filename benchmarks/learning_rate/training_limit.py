"""The training limit from at most ten runs, against one found with 5 seeds and 300 steps; and the verdict GG401.

    python -m benchmarks.learning_rate.training_limit [--sample | --held-out SEED [--count N]] [--only NAME]

The yardsticks (``yardstick.py``) share no code with gradguard. ``given``: a rate fails where most of 5 runs from the model that
gradguard is given, each with another order of batches, end not finite or have not covered half of the way from the loss at the
start to the best end of any lower rate. ``seeds``: the same of 5 seeds, each with an initialisation of its own. ``loss``: most
of these 5 do not even end below the loss at the start. The columns ``(25)`` are with up to 25 runs where the five are split, and
``split`` are the rates between which five runs from the given model are. All are found before gradguard is asked. Ratios are of
ours to these. Verdicts are asked for at multiples of ``given`` and of ``seeds``; beside each stands how many of the five runs fail
at that very rate: where they all do the same, it is known what is right; else most of 25 say. Nets that no rate trains (less than
a tenth of the loss at the start) are counted apart, and so are limits above 1e4. Printed as a Markdown table, with the seconds of
the yardsticks and of gradguard; below it, for each verdict that is not right by the limit, how many of 25 orders from the given
model fail at that rate, and how many of 25 seeds.
``--held-out`` draws nets, data and optimizers from a seed; ``--minutes`` ends the draw by the clock, between two nets.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import gradguard as gg
from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import NETS, OPTIMIZERS, Net
from benchmarks.learning_rate.yardstick import MANY, SEEDS, START, Yardstick, end_of_run
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


def closely(net: Net, optimizer: str, lr: float) -> tuple[int, int]:
    """How many of 25 orders from the given model, and of 25 seeds, do not come half as far as at any of two lower rates."""

    def fails(seed: int, order: int | None = None) -> bool:
        start, *best = (end for low in (lr / 100, lr / 10) for end in end_of_run(net, optimizer, low, seed, order))
        return not end_of_run(net, optimizer, lr, seed, order)[1] < start - 0.5 * (start - min(start, *best))

    return sum(fails(GIVEN, order) for order in range(1, MANY + 1)), sum(fails(seed) for seed in range(MANY))


GIVEN = 0
"""The seed of the model that gradguard is given."""
LIMITS = ("given", "given (25)", "seeds", "seeds (25)", "loss")
FACTORS = (0.1, 0.3, 3.0, 10.0)
"""Multiples of the limit at which the verdict is asked for."""
COLUMNS = (
    "net", "optimizer", *LIMITS, "split", "training_limit", "low", "high", *(f"/ {label}" for label in LIMITS),
    *(f"{factor:g} x {label}" for label in ("given", "seeds") for factor in FACTORS), "s",
)


@dataclass(frozen=True)
class Verdict:
    """GG401's status at a multiple of a limit, and how many of the five runs fail there."""

    factor: float
    status: str
    failing: int

    @property
    def right(self) -> bool:
        """It fails above the limit, and passes below."""
        return self.status == ("failed" if self.factor > 1 else "passed")

    @property
    def known(self) -> bool:
        """All five runs do the same."""
        return self.failing in (0, SEEDS)

    @property
    def true(self) -> bool:
        """It says what all five runs do."""
        return self.status == ("failed" if self.failing else "passed")

    @property
    def cell(self) -> str:
        """As it stands in the table."""
        return f"{'right' if self.right else f'**{self.status}**'} {self.failing}/{SEEDS}"


def gg401(net: Net, optimizer: str, lr: float) -> str:
    """The verdict's status at a rate."""
    return next(c.status for c in scenario_at(net, optimizer, lr, GIVEN, "GG401").checks if c.code == "GG401")


def counts(verdicts: list[list[Verdict]]) -> str:
    """How many are right by the limit at each multiple, and how many of those that are known."""
    texts = []
    for at in zip(*verdicts, strict=True):
        known = [v for v in at if v.known]
        texts.append(f"{sum(v.right for v in at)} of {len(at)} ({sum(v.true for v in known)} of {len(known)} known)")
    return ", ".join(texts)


def near(ratios: list[float]) -> str:
    """How many are within a factor of 2, as a text."""
    return f"{sum(0.5 <= ratio <= 2 for ratio in ratios)} of {len(ratios)}"


class Tally:
    """The rows so far; limits that are infinite are left out of their counts."""

    def __init__(self) -> None:
        self.ratios: dict[str, list[float]] = {label: [] for label in LIMITS}
        self.verdicts: dict[str, list[list[Verdict]]] = {"given": [], "seeds": []}
        self.endless: dict[str, int] = dict.fromkeys(LIMITS, 0)
        self.inside: list[bool] = []
        """Whether ours is within a factor of 2 of the rates between which five runs from the given model are."""
        self.splits: list[float] = []
        """Decades between the rates at which five runs from the given model agree."""
        self.idle = 0
        self.wrong: list[str] = []

    def add(self, net: Net, name: str) -> str:
        """One row of the table."""
        begun = time.perf_counter()
        yardsticks = {"given": Yardstick(net, name, GIVEN), "seeds": Yardstick(net, name)}
        found = {label: yardstick.limit(0.5) for label, yardstick in yardsticks.items()}
        found["loss"] = yardsticks["seeds"].limit(0.0)
        if not any(yardstick.learns() for yardstick in yardsticks.values()):
            self.idle += 1
            return f"| {net.name} | {name} | no rate learns |{(len(COLUMNS) - 4) * ' |'} {time.perf_counter() - begun:.0f} |"
        found |= {f"{label} ({MANY})": yardstick.limit(0.5, MANY) for label, yardstick in yardsticks.items()}
        given = found["given"]
        holds, fails = (0.0, math.inf) if given == math.inf else yardsticks["given"].split(given, 0.5)
        self.splits.append(math.log10(fails / holds) if holds > 0 else math.inf)
        failing = {
            (label, factor): yardsticks[label].failing(factor * found[label], 0.5)
            for label in self.verdicts for factor in FACTORS if found[label] < math.inf
        }
        judged = time.perf_counter()
        row = scenario_at(net, name, START[name], GIVEN).table_rows("learning_rate")[0]
        ours = row["training_limit"]
        for label, limit in found.items():
            if limit < math.inf:
                self.ratios[label].append(ours / limit)
            else:
                self.endless[label] += 1
        if given < math.inf:
            self.inside.append(holds / 2 <= ours <= 2 * fails)
        cells = []
        for label, all_verdicts in self.verdicts.items():
            asked = [self._ask(net, name, found[label], f, failing[label, f]) for f in FACTORS if found[label] < math.inf]
            all_verdicts += [asked] if asked else []
            cells += [verdict.cell for verdict in asked] or [""] * len(FACTORS)
        return (
            f"| {net.name} | {name} | {' | '.join(f'{found[label]:.3g}' for label in LIMITS)} | {holds:.2g} to {fails:.2g} "
            f"| {ours:.3g} | {row['training_low']:.3g} | {row['training_high']:.3g} "
            f"| {' | '.join(f'{ours / found[label]:.2f}' for label in LIMITS)} "
            f"| {' | '.join(cells)} | {judged - begun:.0f} + {time.perf_counter() - judged:.0f} |"
        )

    def _ask(self, net: Net, name: str, limit: float, factor: float, failing: int) -> Verdict:
        """The verdict at a multiple of a limit; a closer look where it is not right."""
        verdict = Verdict(factor, gg401(net, name, factor * limit), failing)
        if not verdict.right:
            orders, seeds = closely(net, name, factor * limit)
            self.wrong.append(
                f"{net.name} {name} {verdict.status} at {factor * limit:.3g}, {factor:g} x {limit:.3g}: "
                f"{orders} of {MANY} orders from the given model fail, and {seeds} of {MANY} seeds"
            )
        return verdict

    def summary(self) -> str:
        """Counts over all rows."""
        lines = ["training limit within a factor of 2 of " + ", ".join(f"{k}: {near(v)}" for k, v in self.ratios.items())]
        lines[0] += f"; of given, or of where five runs from it disagree: {sum(self.inside)} of {len(self.inside)}"
        lines.append(f"left out: no rate learns {self.idle}; every rate up to 1e4 holds {self.endless}")
        if self.splits:
            split = sorted(self.splits)
            lines.append(
                f"5 orders disagree over {split[len(split) // 2]:.2f} decades in the median, {split[9 * len(split) // 10]:.2f} in a "
                f"tenth of the nets; over more than a factor of 2: {sum(s > math.log10(2) for s in split)} of {len(split)}"
            )
        for label, verdicts in self.verdicts.items():
            lines.append(f"GG401 at {', '.join(f'{factor:g}' for factor in FACTORS)} x {label}, right: {counts(verdicts)}")
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
    print(f"| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}")
    tally, begun = Tally(), time.perf_counter()
    for net, name in pairs_of(arguments):
        if time.perf_counter() - begun > 60 * arguments.minutes:
            print(f"\n(ended after {arguments.minutes:g} minutes)")
            break
        print(tally.add(net, name), flush=True)
    print(f"\n{tally.summary()}")


if __name__ == "__main__":
    main()
