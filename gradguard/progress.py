"""A progress bar on standard error: only on a terminal, and only when the work is long."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Bar"]

PATIENCE = 1.0
"""Seconds before the bar appears."""


class Bar:
    """``with Bar() as bar: bar(done, total, what)``; draws nothing where standard error is not a terminal."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._start = time.monotonic()
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Say how far the work is."""
        if not sys.stderr.isatty() or time.monotonic() - self._start < PATIENCE:
            return
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._shown.add_task(self.prefix, total=total)
            self._shown.start()
        description = f"{self.prefix} {what}".strip()
        self._shown.update(self._task, completed=done, total=total, description=description)
