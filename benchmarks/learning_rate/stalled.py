"""GG403 on drawn nets: at the usual rate of the optimizer it must be silent, at a hundred-thousandth of that an error.

    python -m benchmarks.learning_rate.stalled [--first SEED] [--count N]

Nets that no rate trains within 50 steps are named and left out of the second count: nothing can be said of their rate.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.learning_rate.commit import commit_line
from benchmarks.learning_rate.drawn import EVERY, draw
from benchmarks.learning_rate.nets import Net
from gradguard.health import check_training

USUAL = {"SGD": 5e-2, "momentum": 1e-2, "Nesterov": 1e-2, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-3, "Adagrad": 1e-2}


def judged(net: Net, optimizer: str, lr: float, seed: int) -> tuple[str, str, bool]:
    """The severity of GG403 (or none), its message, and whether a run at some rate gained a tenth of the loss."""
    torch.manual_seed(seed)
    model = net.build()
    report = check_training(
        model, net.batches(64), loss=net.loss, optimizer=EVERY[optimizer](model.parameters(), lr), select="GG403", seed=seed
    )
    found = [f for f in report.findings if f.code == "GG403"]
    learnt = any(r["loss_after"] < 0.9 * r["loss_before"] for r in report.table_rows("rates"))
    return (found[0].severity, found[0].message, learnt) if found else ("none", "", learnt)


def main() -> None:
    """Print a line for each net, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=20000)
    parser.add_argument("--count", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(commit_line())
    silent = found = judgeable = 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        net, optimizer = draw(seed)
        usual, said, _ = judged(net, optimizer, USUAL[optimizer], seed)
        tiny, _, learnt = judged(net, optimizer, 1e-5 * USUAL[optimizer], seed)
        silent += usual != "error"
        found += tiny == "error" and learnt
        judgeable += learnt
        print(f"{net.name} {optimizer}: usual {usual}, tiny {tiny}{'' if learnt else ' (no rate learns)'} {said}", flush=True)
    print(f"at the usual rate no error: {silent} of {arguments.count}; at 1e-5 of it an error: {found} of {judgeable}")


if __name__ == "__main__":
    main()
