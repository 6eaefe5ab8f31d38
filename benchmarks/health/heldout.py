"""Judge the held-out programs: ``python -m benchmarks.health.heldout [--draw 1|2|3|4|5|6] [--seeds 1] [--only TEXT] [--audit]``.

Prints one line per program that was judged wrongly, then recall (an expected code is an error), whether the cause came
first, downgrades (the expected code is there, but no error), and the errors among healthy programs.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from typing import Any

import torch

import gradguard as gg
from benchmarks.health.heldout_programs import Program


def judge(program: Program, seed: int, way: str) -> Any:
    torch.manual_seed(seed)
    s = program.build(seed)
    if s.loop is not None:
        with gg.watch(s.model, optimizer=s.optimizer, objective=s.more.get("objective", "supervised")) as watch:
            s.loop(watch)
        return watch.report()
    if way == "audit" or s.way == "audit":
        return gg.audit(gg.Scenario(s.model, s.batches, s.loss, optimizer=s.optimizer, **s.more), seed=seed)
    return gg.check_training(s.model, s.batches, loss=s.loss, optimizer=s.optimizer, steps=s.steps, seed=seed, **s.more)


def verdict(program: Program, report: Any) -> tuple[str, str]:
    """One of found, late, downgraded, missed / silent, false; and what the report says."""
    errors = [f for f in report.findings if f.severity == "error"]
    text = "; ".join(f"{f.code}{'' if f.severity == 'error' else '?'} {f.block or f.module}{' <- ' + f.caused_by if f.caused_by else ''}" for f in report.findings[:6])
    if not program.codes:
        return ("false" if errors else "silent"), text
    if any(f.code in program.codes for f in errors):
        return ("found" if errors[0].code in program.codes else "late"), text
    if any(f.code in program.codes for f in report.findings):
        return "downgraded", text
    return ("misnamed" if errors else "missed"), text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draw", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--kind", choices=("faulty", "healthy"))
    parser.add_argument("--audit", action="store_true", help="healthy programs through gg.audit")
    parser.add_argument("--verbose", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    suffix = "" if a.draw == 1 else str(a.draw)
    for kind in ("faulty", "healthy"):
        if a.kind not in (None, kind):
            continue
        programs = getattr(importlib.import_module(f"benchmarks.health.heldout_{kind}{suffix}"), kind).programs
        counts: dict[str, int] = {}
        for program in programs:
            if a.only and not any(word in program.name for word in a.only.split(",")):
                continue
            for seed in range(a.seeds):
                start = time.perf_counter()
                try:
                    report = judge(program, seed, "audit" if a.audit and kind == "healthy" else "training")
                    word, text = verdict(program, report)
                    if a.verbose:
                        print(report)
                except Exception as error:  # a crash is a result of its own: it must be seen beside the others
                    word, text = "crashed", f"{type(error).__name__}: {str(error)[:300]}"
                counts[word] = counts.get(word, 0) + 1
                if word not in ("found", "silent") or a.only or "?" in text:
                    print(f"{word:10} {program.name} seed {seed} ({time.perf_counter() - start:.1f} s)  {'/'.join(sorted(program.codes))}  got: {text}", flush=True)
        total = sum(counts.values())
        print(f"{kind}: {total} runs of draw {a.draw}: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())), flush=True)


if __name__ == "__main__":
    main()
