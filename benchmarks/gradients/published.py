"""The table of published gradient bugs, beside the peers: writes docs/mutations.md.

    python -m benchmarks.gradients.published
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import gradguard as gg
from benchmarks.gradients.peers import PEERS, Outcome, Subject, subject
from gradguard.blocks import matching
from gradguard.rules.registry import RULES
from tests.mutations.mutation import Mutation
from tests.mutations.table import MUTATIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mutations.md"

INTRODUCTION = """# Published gradient bugs

Bugs that were released, re-created as pairs: the wrong backward beside the right one (`tests/mutations`). Each checker is
given both. *found* and *missed* are about the wrong one; **false alarm** means that it objected to the right one. Beside
that: how often the function was called for the wrong one (forwards), and seconds. `-`: cannot be asked.

This page is written by `python -m benchmarks.gradients.published`. The peers are torch {torch}, its `gradcheck` (given the
parameters too, through `functional_call`) and `gradgradcheck` for number 19; pytest-torch's `assert_gradcheck`, which looks
at inputs and not at parameters; and JAX's `check_grads` in reverse mode in float64, through a `custom_vjp`.
"""


def ours(mutation: Mutation) -> tuple[str, bool]:
    """The cell for gradguard, and whether it found the bug."""
    if not mutation.refused and not set(mutation.rules) & set(RULES):
        return "the rule is not there yet", False
    start = time.perf_counter()
    checked = mutation.make(True)
    try:
        report = gg.check_gradients(checked.f, checked.inputs, **checked.options)
    except gg.UsageError as error:
        return f"refused: {error.what}, {time.perf_counter() - start:.2f} s", bool(mutation.refused)
    seconds = time.perf_counter() - start
    forwards = sum(row["forwards"] for row in report.table_rows("measurements"))
    found = [f for f in report.findings if f.code in mutation.rules and matching(f.block or f.module, [mutation.block])]
    if not found:
        return f"missed, {forwards:.0f} forwards, {seconds:.2f} s", False
    right = mutation.make(False)
    clean = gg.check_gradients(right.f, right.inputs, **right.options)
    alarm = ", **false alarm**" if clean.errors else ""
    at = f" at `{found[0].block}`" if found[0].block else ""
    pattern = f": {found[0].pattern}" if found[0].pattern else ""
    return f"{found[0].code}{at}{pattern}{alarm}, {forwards:.0f} forwards, {seconds:.2f} s", True


def cell(wrong: Outcome | None, right: Outcome | None) -> str:
    """The cell for a peer."""
    if wrong is None or right is None:
        return "-"
    alarm = ", **false alarm**" if right.objected else ""
    forwards = f", {wrong.forwards} forwards" if wrong.forwards >= 0 else ""
    return f"{'found' if wrong.objected else 'missed'}{alarm}{forwards}, {wrong.seconds:.2f} s"


def half(mutation: Mutation, wrong: bool) -> Subject:
    return subject(mutation.make(wrong))


def row(mutation: Mutation) -> tuple[list[str], list[str]]:
    """The row's cells, and for each checker ``found``, ``missed``, ``false alarm`` or ``-``."""
    text, found = ours(mutation)
    cells, verdicts = [text], ["found" if found else "missed"]
    for check in PEERS.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            wrong, right = check(half(mutation, True)), check(half(mutation, False))
        cells.append(cell(wrong, right))
        if wrong is None or right is None:
            verdicts.append("-")
        else:
            verdicts.append("false alarm" if right.objected else "found" if wrong.objected else "missed")
    return cells, verdicts


def main() -> int:
    """Run every pair through every checker and write the page."""
    torch.set_num_threads(1)
    names = ["gradguard", *PEERS]
    lines = [f"| | bug | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    tallies: list[list[str]] = []
    for mutation in MUTATIONS:
        cells, verdicts = row(mutation)
        tallies.append(verdicts)
        lines.append(f"| {mutation.number} | {mutation.bug} ({mutation.reference}) | {' | '.join(cells)} |")
        print(mutation.number, *cells, sep=" | ", flush=True)
    counts = []
    for column in zip(*tallies, strict=True):
        asked = [verdict for verdict in column if verdict != "-"]
        count = asked.count("false alarm")
        alarms = f", {count} false alarm{'s' * (count > 1)}" if count else ""
        counts.append(f"**{asked.count('found')} of {len(asked)}**{alarms}")
    lines.append(f"| | found, with the right one left alone | {' | '.join(counts)} |")
    introduction = INTRODUCTION.format(torch=torch.__version__.partition("+")[0])
    PAGE.write_text("\n".join([introduction, *lines, ""]), encoding="utf-8")
    print(f"\nwritten: docs/{PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
