"""The pages of the calibration: what a benchmark prints, under a title and the command that made it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.learning_rate.calibrate import PAGES, commands, page

FOLDER = Path(__file__).parents[2] / "docs" / "calibration"


def test_tables_stay_tables_and_all_else_is_text() -> None:
    printed = "commit 0123abc\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n1 of 1\nno more\n"
    assert page("Title", "cost --large", printed) == (
        "# Title\n\n    python -m benchmarks.learning_rate.cost --large\n\n    commit 0123abc\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n    1 of 1\n    no more\n"
    )


def test_every_page_has_a_command() -> None:
    assert list(commands(1, 2.0)) == list(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_of_a_commit_and_of_its_command(name: str) -> None:
    title, command, commit = (FOLDER / f"{name}.md").read_text(encoding="utf-8").split("\n\n")[:3]
    assert title == f"# {PAGES[name]}"
    module = commands(0, 0)[name].split()[0]
    assert re.fullmatch(rf"    python -m benchmarks\.learning_rate\.{module}[ \w.-]*", command)
    assert re.fullmatch(r"    commit [0-9a-f]{7,}", commit)  # not of a changed tree
