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


def found(name: str, pattern: str) -> list[str]:
    """What a page says, by a pattern's groups."""
    match = re.search(pattern, (FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    assert match is not None, (name, pattern)
    return list(match.groups())


def test_the_summary_says_what_the_pages_say() -> None:
    said = [line for line in (FOLDER.parent / "learning-rate.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    summary = {page: [line for line in said if f"calibration/{page}.md" in line] for page in PAGES}
    for name in ("first-step", "first-step-trained", "first-step-drawn"):
        (ours,) = found(name, r"first-step limit / overshoot: (\d+ of \d+) within")
        (alone,) = found(name, r"curvature / overshoot: (\d+) of \d+ within")
        (line,) = summary[name]
        assert ours in line
        assert f"of curvature alone {alone}" in line or f"of curvature alone for {alone}" in line
    given, seeds, count, inside = found(
        "training-limit", r"factor of 2 of given: (\d+) of \d+,.* seeds: (\d+) of (\d+), seeds \(25\).* disagree: (\d+) of \d+"
    )
    (line,) = summary["training-limit"]
    assert f"of {count} drawn nets" in line
    assert f"within a factor of 2 for {seeds}; of five orders of the given model {given};" in line
    assert line.split("disagree ")[1].startswith(f"{inside} |")
    known = []
    for label in ("seeds", "given"):
        cells = found("training-limit", rf"x {label}, right: " + ", ".join([r"(\d+) of (\d+) \((\d+) of (\d+) known\)"] * 4))
        right, of = cells[::4], cells[1]
        assert any(f"{', '.join(right[:3])} and {right[3]} of {of}" in line for line in said), (label, right)
        known.append(f"{sum(map(int, cells[2::4]))} of {sum(map(int, cells[3::4]))}")
    assert any(f"{known[1]}, and {known[0]} for the seeds" in line for line in said)
    usual, nets, tiny = found("stalled", r"no error: (\d+) of (\d+); at 1e-5 of it an error: (\d+ of \d+)")
    (line,) = summary["stalled"]
    assert usual == nets
    assert f"of {nets} drawn nets" in line
    assert tiny in line
