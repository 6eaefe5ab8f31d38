"""GG111 on random architectures in float32, bfloat16, float16 and under autocast: writes docs/precision.md.

    python -m benchmarks.gradients.precision [--first 100000] [--count 300]

The limits were set on seeds below 100,000; the page judges on seeds from there on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradguard as gg
from gradguard.adapters.precision_base import PLAIN, PrecisionFacts
from gradguard.adapters.torch_adapt import adapt_torch
from tests.cases.architectures import SIZES, Trial, trial
from tests.cases.faulty import Fault

PAGE = Path(__file__).resolve().parents[2] / "docs" / "precision.md"
MODES = ("float32", "bfloat16", "float16", "autocast bfloat16")
FACTORS = (0.0, 2.0, 1.3, 1.1, 1.03, 1.01, 1.001, 1.0003, 1.0001)


class LowFault(Fault):
    """A fault that only low precision has: the lifted gradient is right."""

    def spoil(self, parameter: str, gradient: torch.Tensor | None) -> torch.Tensor | None:
        if gradient is None or gradient.dtype == torch.float64:
            return gradient
        return super().spoil(parameter, gradient)


def lowered(found: Trial, mode: str) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
    """The model, inputs and options of a trial in one of the precisions."""
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(mode, torch.float32)
    model = found.model.to(dtype)
    inputs = found.inputs.to(dtype) if found.inputs.is_floating_point() else found.inputs
    if mode.startswith("autocast"):
        inner = model

        def f(x: torch.Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return inner(x)

        return f, inputs, found.options
    return model, inputs, found.options


def facts(found: Trial, mode: str) -> PrecisionFacts | str:
    """What the native pass of a right model is off by."""
    f, inputs, options = lowered(found, mode)
    with adapt_torch(f, inputs, **options) as problem:
        return problem.precision_facts()


def status(found: Trial, mode: str) -> str:
    """What the rule concludes."""
    f, inputs, options = lowered(found, mode)
    report = gg.check_gradients(f, inputs, select="GG111", **options)
    return next(c.status for c in report.checks if c.code == "GG111")


def right(mode: str, first: int, count: int) -> dict[str, Any]:
    """False alarms and the distribution of errors over right models."""
    errors: list[float] = []
    statuses: list[str] = []
    for seed in range(first, first + count):
        found = facts(trial(seed, SIZES[seed % 4]), mode)
        if isinstance(found, PrecisionFacts):
            largest = max(b.size for b in found.blocks)
            errors += [b.error / b.size for b in found.blocks if b.size > 1e-9 * largest]
        statuses.append(status(trial(seed, SIZES[seed % 4]), mode))
    values = np.array(errors)
    return {
        "median": np.median(values), "q99": np.quantile(values, 0.99), "largest": values.max(), "checks": len(statuses),
        "alarms": statuses.count("failed"), "undecided": len(statuses) - statuses.count("failed") - statuses.count("passed"),
    }


def wrong(mode: str, factor: float, first: int, count: int) -> tuple[int, int]:
    """How many of some faults that only low precision has are found."""
    hits = trials = 0
    for seed in range(first, first + count):
        found = trial(seed, SIZES[1 + seed % 3])
        layers = [(name, m) for name, m in found.model.named_modules() if hasattr(m, "fault")]
        layers = [(name, m) for name, m in layers if "weight" in dict(m.named_parameters(recurse=False))]
        if not layers:
            continue
        layers[seed % len(layers)][1].fault = LowFault(f"block x{factor}" if factor else "block zeroed", "weight")
        trials += 1
        hits += status(found, mode) == "failed"
    return hits, trials


def page(first: int, count: int) -> str:
    """The page."""
    start = time.perf_counter()
    lines = [
        INTRODUCTION.format(first=first, count=count, torch=torch.__version__),
        "| precision | median | q99 | largest | needs no explanation | checks | false alarms | undecided |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode in MODES:
        row = right(mode, first, count)
        plain = PLAIN[mode.removeprefix("autocast ")]
        lines.append(
            f"| {mode} | {row['median']:.1e} | {row['q99']:.1e} | {row['largest']:.1e} | {plain:g} | {row['checks']} | "
            f"{row['alarms']} | {row['undecided']} |"
        )
    lines += ["", FAULTS, "| factor | " + " | ".join(MODES) + " |", "|---|" + "---|" * len(MODES)]
    for factor in FACTORS:
        cells = []
        for mode in MODES:
            hits, trials = wrong(mode, factor, first, max(count // 10, 10))
            cells.append(f"{hits} of {trials}")
        lines.append(f"| x {factor:g} | " + " | ".join(cells) + " |")
    lines += ["", f"Made in {time.perf_counter() - start:.0f} s."]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Precision

A model that trains in float32, bfloat16, float16 or under autocast is checked twice. Its logic is checked lifted to float64,
where differences see errors of 1e-9; then GG111 compares its *native* gradient with the lifted one, in one forward and one
backward pass, block by block: `||g - g64|| / ||g64||`.

What may it be off by? Below the limit in the table, anything. Above it, the lifted model is run four times more with the
result of every operation rounded to the native precision, up or down at random: that is what a faithful implementation of
the same formulas is off by, whatever its sizes, its depth and its cancellations. An error counts above 10 times that, and if
it is there at three points nearby, too (rounding may choose the other side of a kink). NaN and infinity count always.
With `reference=`, a plain implementation, the yardstick is its error in the same precision: at most 4 times that.

Where a kernel refuses float64 there is nothing to compare with: GG111 is skipped, with that reason. It does not pass.

*Undecided* under autocast: layers made of custom functions without `custom_fwd`, which raise there without gradguard, too.

Right models: random architectures (`tests/cases/architectures.py`), seeds {first} to {first} + {count}, up to 10,000
parameters; the limits were set on other seeds. The first columns are errors of single blocks (not of
those whose gradient is nothing but rounding). torch {torch}, CPU; made by
`python -m benchmarks.gradients.precision --first {first} --count {count}`.
"""
FAULTS = """Wrong models: the weight gradient of one layer is multiplied by a factor, only where it is computed in low
precision; how many GG111 finds. What is smaller than rounding cannot be told from it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--print", action="store_true", help="print instead of writing the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = page(options.first, options.count)
    if options.print:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
