"""Failures that are told by their own text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradguard.errors import UsageError

__all__ = ["Broken", "evidence"]


class Broken(pytest.Item):
    """A test that fails with what is wrong with the settings or with a configured scenario."""

    def __init__(self, *, error: UsageError, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error
        self.add_marker("gradguard")

    def runtest(self) -> None:
        """Fail."""
        __tracebackhide__ = True
        raise self.error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """The message alone."""
        return evidence(excinfo)

    def reportinfo(self) -> tuple[Path | str, int | None, str]:
        """No line: the place is in the message."""
        return self.path, None, f"gradguard::{self.name}"


def evidence(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """The exception's own text as a failure's representation, its first line for the short summary."""
    shown = excinfo.getrepr(style="value", chain=False)
    text = str(excinfo.value)
    crash, trace = getattr(shown, "reprcrash", None), getattr(shown, "reprtraceback", None)
    if crash is None or not hasattr(trace, "reprentries"):
        return text
    crash.message = text.splitlines()[0]
    entries = getattr(trace, "reprentries", [])
    if entries and hasattr(entries[-1], "lines"):
        entries[-1].lines = text.splitlines()
    return shown
