"""How many of 15 seeds, and of 15 orders from one initialisation, fail by rate; and what gradguard's runs saw of it.

    python -m benchmarks.learning_rate.curve SEED...

For nets of the draw where gradguard's training limit and the yardstick's lie far apart: which of the two is it? Rates are
1.33 apart, from a third of the lower one to three times the higher. An order is another shuffle of the batches from the
initialisation that gradguard was given: what is above its own limit by those cannot be known from it, however many runs.
"""

from __future__ import annotations

import argparse
import math

import torch

from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import draw
from benchmarks.learning_rate.nets import Net
from benchmarks.learning_rate.training_limit import scenario_at
from benchmarks.learning_rate.yardstick import START, Yardstick, end_of_run

RUNS = 15
AROUND = 4
"""So many rates below the lower limit and above the higher one, eight to a decade."""


def failing(net: Net, optimizer: str, rates: list[float], orders: bool) -> list[int]:
    """How many runs at each rate have not come half as far as the best at any lower one; two low rates are run beside them."""
    tried = [rates[0] / 30, rates[0] / 3, *rates]
    failed = [0] * len(tried)
    for run in range(RUNS):
        ends = [end_of_run(net, optimizer, lr, *((0, run + 1) if orders else (run,))) for lr in tried]
        start = ends[0][0]
        for index, (_, end) in enumerate(ends):
            best = min([start, *(lower for _, lower in ends[:index])])
            failed[index] += not end < start - 0.5 * (start - best)
    return failed[2:]


def curve(seed: int) -> str:
    """A net's limits, the runs of the check, and the two rows of counts."""
    net, optimizer = draw(seed)
    half = Yardstick(net, optimizer).limit(0.5)
    report = scenario_at(net, optimizer, START[optimizer])
    ours = report.table_rows("learning_rate")[0]["training_limit"]
    lines = [f"\n{seed}: {net.name} {optimizer}, half {half:.3g} with 5 seeds, training limit {ours:.3g}"]
    lines += [f"    run at {row['lr']:.3g}, seed {row['seed']}: {row['verdict']}" for row in report.table_rows("rates")]
    if math.inf in (half, ours):
        return "\n".join(lines)
    low, high = min(half, ours), max(half, ours)
    rates = [low * 10 ** (k / 8) for k in range(-AROUND, math.ceil(8 * math.log10(high / low)) + AROUND + 1)]
    lines.append("    rate   " + " ".join(f"{lr:>6.3g}" for lr in rates))
    for name, orders in (("seeds", False), ("orders", True)):
        lines.append(f"    {name:6s} " + " ".join(f"{count:>6d}" for count in failing(net, optimizer, rates, orders)))
    return "\n".join(lines)


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, nargs="+")
    torch.set_num_threads(1)
    print(commit_line())
    for seed in parser.parse_args().seed:
        print(curve(seed), flush=True)


if __name__ == "__main__":
    main()
