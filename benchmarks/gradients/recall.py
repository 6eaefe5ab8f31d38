"""Faults planted in real backwards of random architectures: how many are found, missed, undecided, or put elsewhere.

    python -m benchmarks.gradients.recall                 # 600 trials; about ten minutes on one core
    python -m benchmarks.gradients.recall --tiny          # every gradient below 1e-8
    python -m benchmarks.gradients.recall --factor 1.00001
    python -m benchmarks.gradients.recall --native        # in float32, as for kernels that cannot be lifted

Prints one table by kind of fault and one by size, and what was not found. Exit code 1 if a fault passed that the reported
resolution says would be seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass

import torch

import gradguard as gg
from tests.cases.architectures import SIZES, Trial, planted
from tests.cases.faulty import FAULTS

OUTCOMES = ("found", "undecided", "unresolved", "missed", "elsewhere")
"""``unresolved``: not found, and the report says that it could not have been: its resolution is not 20 times finer."""


@dataclass(frozen=True)
class Result:
    """One trial: the fault, its outcome, and what the report says of the block that is wrong."""

    seed: int
    kind: str
    trial: Trial
    outcome: str
    strays: tuple[str, ...]
    resolution: float
    seconds: float


def judge(trial: Trial, report: gg.Report) -> tuple[str, tuple[str, ...], float]:
    """The outcome, right blocks that were blamed, and the resolution of the wrong block."""
    rows = [row for row in report.table_rows("gradients") if row["block"] == trial.block]
    resolution = float(rows[0]["resolution"] or "nan") if rows else float("nan")
    blamed = {finding.block for finding in report.errors}
    strays = tuple(sorted(blamed - {trial.block}))
    if trial.block in blamed:
        return "found", strays, resolution
    if strays:
        return "elsewhere", strays, resolution
    if any(row["verdict"] == "inconclusive" for row in rows):
        return "undecided", strays, resolution
    return ("unresolved" if resolution > trial.error / 20 else "missed"), strays, resolution


def run(seed: int, kind: str, size: int, scale: float, *, native: bool = False) -> Result:
    """Plant, check, judge."""
    trial = planted(seed, kind, size, scale=scale)
    options = dict(trial.options)
    if native:
        options["precision"] = "native"
        trial.model.float()
        trial.inputs = torch.utils._pytree.tree_map(
            lambda v: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, trial.inputs
        )
    start = time.perf_counter()
    report = gg.check_gradients(trial.model, trial.inputs, seed=seed, select=("GG101", "GG105") if native else None, **options)
    seconds = time.perf_counter() - start
    outcome, strays, resolution = judge(trial, report)
    return Result(seed, kind, trial, outcome, strays, resolution, seconds)


def table(title: str, results: list[Result], key: str) -> str:
    """Counts of outcomes by kind or by size."""
    def of(result: Result) -> str:
        return result.kind if key == "kind" else f"{10 ** (len(str(result.trial.parameters)) - 1):,}+"

    counts = Counter((of(r), r.outcome) for r in results)
    groups = list(dict.fromkeys(of(r) for r in results))
    lines = [f"| {title} | trials | {' | '.join(OUTCOMES)} | right blocks blamed | median seconds |", "|---|" + "---|" * 8]
    for group in groups:
        inside = [r for r in results if of(r) == group]
        cells = [str(counts[group, outcome]) for outcome in OUTCOMES]
        strays = sum(bool(r.strays) for r in inside)
        median = sorted(r.seconds for r in inside)[len(inside) // 2]
        lines.append(f"| {group} | {len(inside)} | {' | '.join(cells)} | {strays} | {median:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the trials, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--tiny", action="store_true", help="scale the loss so that every gradient is below 1e-8")
    parser.add_argument("--native", action="store_true", help="float32 models, not lifted")
    parser.add_argument("--factor", help="instead of the usual faults: the block's gradient times this")
    parser.add_argument("--size", type=int, choices=SIZES, help="one size instead of all")
    parser.add_argument("--seed", type=int, default=10_000)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kinds = (f"block x{chosen.factor}",) if chosen.factor else FAULTS
    # The largest size costs a hundred times the others: one trial in eleven.
    sizes = [chosen.size] if chosen.size else [*SIZES[:5], *SIZES[:5], SIZES[5]]
    results: list[Result] = []
    for i in range(chosen.trials):
        result = run(chosen.seed + i, kinds[i % len(kinds)], sizes[i // len(kinds) % len(sizes)], 1e-12 if chosen.tiny else 1.0, native=chosen.native)
        results.append(result)
        if chosen.tiny and result.trial.largest >= 1e-8:
            raise RuntimeError(f"seed {result.seed}: a gradient of {result.trial.largest:.1e} is not below 1e-8")
        if result.outcome != "found" or result.strays:
            trial = result.trial
            print(
                f"{result.outcome}: seed {result.seed}, {result.kind}, {trial.family}, {trial.parameters} parameters, "
                f"{trial.block}, error {trial.error:.1e} of the block, resolution {result.resolution:.1e}, "
                f"blamed {list(result.strays)}",
                file=sys.stderr,
            )
    found = sum(r.outcome == "found" for r in results)
    broken = sum(r.outcome in ("missed", "elsewhere") for r in results)
    bound = 3 / len(results)  # the rule of three: with no miss in n trials, the rate is below 3 / n (95 %)
    print(table("fault", results, "kind"), table("parameters", results, "size"), sep="\n\n")
    print(f"\n{found} of {len(results)} found, {broken} passed although the resolution is 20 times finer than the error")
    if found == len(results):
        print(f"the miss rate is below {bound:.2%} (95 %, rule of three)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
