"""``python -m benchmarks.health [--steps N] [--seeds N] [ids]``: the two lists, and a confusion matrix for each rule."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import torch

from benchmarks.health.faulty import FAULTY
from benchmarks.health.healthy import HEALTHY
from benchmarks.health.programs import Case
from gradguard.finding import Finding
from gradguard.report import Report

__all__ = ["Result", "main", "run_case", "summary"]


@dataclass(frozen=True)
class Result:
    """What one case with one seed gave: errors in order, the first root's code, and the rest."""

    case: Case
    seed: int
    errors: tuple[str, ...]
    first: str
    warnings: tuple[str, ...]
    skipped: tuple[str, ...]
    inconclusive: tuple[str, ...]
    seconds: float
    module: str
    raised: str = ""

    @property
    def flagged(self) -> bool:
        return bool(self.case.expected & set(self.errors))


def run_case(case: Case, seed: int, steps: int) -> Result:
    """Build the program and judge it: a copy, or the user's loop under watch."""
    start = time.perf_counter()
    try:
        report = judge(case, seed, steps)
    except Exception as error:
        return Result(
            case,
            seed,
            (),
            "",
            (),
            (),
            (),
            time.perf_counter() - start,
            "",
            f"{type(error).__name__}: {error}".splitlines()[0],
        )
    errors: list[Finding] = [f for f in report.findings if f.severity == "error"]
    roots = [f for f in errors if not f.caused_by] or errors
    return Result(
        case,
        seed,
        tuple(f.code for f in errors),
        roots[0].code if roots else "",
        tuple(f.code for f in report.findings if f.severity == "warning"),
        tuple(c.code for c in report.checks if c.status == "skipped"),
        tuple(c.code for c in report.checks if c.status == "inconclusive"),
        time.perf_counter() - start,
        roots[0].module if roots else "",
    )


def judge(case: Case, seed: int, steps: int) -> Report:
    """One case's report."""
    program = case.build(seed)
    if case.watched is not None:
        from gradguard.watching import watch

        with watch(program.model, optimizer=program.optimizer) as watched:
            case.watched(program, watched, max(steps, 200))
        return watched.report()
    from gradguard.health import check_training

    return check_training(
        program.model,
        program.batches,
        loss=program.loss,
        optimizer=program.optimizer,
        steps=steps,
        seed=seed,
        **program.options,
    )


def summary(results: list[Result]) -> str:
    """Recall, root cause first, false alarms, and for each rule how often it was right, missing and wrong."""
    faulty = [r for r in results if r.case.faulty]
    healthy = [r for r in results if not r.case.faulty]
    lines = []
    if faulty:
        flagged, any_error = sum(r.flagged for r in faulty), sum(bool(r.errors) for r in faulty)
        first = sum(r.first in r.case.expected for r in faulty)
        lowered = sum(not r.flagged and bool(r.case.expected & set(r.warnings)) for r in faulty)
        n = len(faulty)
        lines.append(
            f"faulty {n}: expected code is an error {flagged} ({100 * flagged / n:.1f} %), any error {any_error} ({100 * any_error / n:.1f} %), "
            f"root cause first {first} ({100 * first / n:.1f} %), only a warning {lowered}, raised {sum(bool(r.raised) for r in faulty)}"
        )
    if healthy:
        wrong = [r for r in healthy if r.errors or r.raised]
        lines.append(f"healthy {len(healthy)}: with an error {len(wrong)} ({100 * len(wrong) / len(healthy):.1f} %)")
    hit, miss, false, also = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for r in results:
        if not r.case.faulty:
            false.update(set(r.errors))
            continue
        hit.update(r.case.expected & set(r.errors))
        also.update(set(r.errors) - r.case.expected)
        if not r.flagged:
            miss.update(sorted(r.case.expected)[:1])
    lines.append(f"{'rule':8}{'right':>7}{'missed':>8}{'beside':>8}{'false':>7}")
    lines += [
        f"{code:8}{hit[code]:7}{miss[code]:8}{also[code]:8}{false[code]:7}" for code in sorted({*hit, *miss, *false, *also})
    ]
    return "\n".join(lines)


def show(r: Result, *, quiet: bool) -> None:
    """One line for one result; only what is not right, where quiet."""
    good = (r.first in r.case.expected) if r.case.faulty else not r.errors and not r.raised
    if good and quiet:
        return
    mark = "ok" if good else ("FLAG" if r.flagged else "MISS") if r.case.faulty else "FALSE"
    errors, warnings = " ".join(dict.fromkeys(r.errors)), " ".join(dict.fromkeys(r.warnings))
    print(
        f"{mark:5} {r.case.id:5} {r.seed} {r.seconds:5.1f}s first {r.first:6} errors [{errors}] warnings [{warnings}] {r.raised} "
        f"{'' if good else r.case.title}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    cases = [c for c in (*FAULTY, *HEALTHY) if not options.ids or c.id in options.ids or c.id[0] in options.ids]
    try:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for case in cases:
                results.append(run_case(case, seed, options.steps))
                show(results[-1], quiet=options.quiet)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {options.seeds * len(cases)}")
    print(summary(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
