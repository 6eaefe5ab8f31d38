"""Run the calibration of the learning rate, and write what it prints as pages: ``docs/calibration/*.md``.

    python -m benchmarks.learning_rate.calibrate [--first-seed SEED] [--minutes M] [--only NAME ...]

Each page names the command and the commit that made it. The draws of nets begin at a seed that no earlier one has reached, so that
they judge what they have not led to; that of the training limit is ended by the clock, ``--minutes``.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

__all__ = ["PAGES", "commands", "page"]

FIRST_SEED = 23000
FOLDER = Path(__file__).parents[2] / "docs" / "calibration"
PAGES = {
    "first-step": "The first-step limit before training",
    "first-step-trained": "The first-step limit after 200 steps",
    "first-step-drawn": "The first-step limit of drawn nets",
    "training-limit": "The training limit and the verdict of drawn nets",
    "stalled": "Rates that are too low",
    "cost": "What it costs",
}


def commands(first_seed: int, minutes: float) -> dict[str, str]:
    """The module and arguments that make each page."""
    return {
        "first-step": "first_step",
        "first-step-trained": "first_step --warm 200",
        "first-step-drawn": f"first_step --held-out {first_seed} --count 60",
        "training-limit": f"training_limit --held-out {first_seed} --count 120 --minutes {minutes:g}",
        "stalled": f"stalled --first {first_seed} --count 14",
        "cost": "cost --large",
    }


def page(title: str, command: str, printed: str) -> str:
    """A page: tables as they are printed, and all else as text."""
    parts = [f"# {title}", f"    python -m benchmarks.learning_rate.{command}"]
    for kind, lines in itertools.groupby(printed.splitlines(), lambda line: "table" if line.startswith("|") else "text" if line else ""):
        if kind:
            parts.append("\n".join(lines if kind == "table" else (f"    {line}" for line in lines)))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Make the pages, one after the other; what is printed is seen as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--only", nargs="+", choices=PAGES, default=list(PAGES), metavar="NAME", help=", ".join(PAGES))
    arguments = parser.parse_args()
    made = {}
    for name in arguments.only:
        command = commands(arguments.first_seed, arguments.minutes)[name]
        module, *rest = command.split()
        lines = []
        with subprocess.Popen(
            [sys.executable, "-u", "-m", f"benchmarks.learning_rate.{module}", *rest], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            sys.exit(f"{command} ended with {process.returncode}")
        made[name] = page(PAGES[name], command, "".join(lines))
    FOLDER.mkdir(exist_ok=True)  # written at the end: a page says which commit made it, and a changed tree is marked
    for name, text in made.items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
