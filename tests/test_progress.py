from __future__ import annotations

import io
import sys

import pytest

from gradguard import progress
from gradguard.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with Bar("models.py:net") as bar:
        bar(1, 2, "gradients")
    assert plain.getvalue() == ""


@pytest.mark.parametrize(("patience", "drawn"), [(0.0, True), (60.0, False)])
def test_a_bar_appears_only_on_long_work(monkeypatch: pytest.MonkeyPatch, patience: float, drawn: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm")
    with Bar("models.py:net") as bar:
        bar(0, 3, "gradients")
        bar(2, 3, "[training]")
    assert ("models.py:net [training]" in terminal.getvalue()) is drawn
    assert ("2/3" in terminal.getvalue()) is drawn
