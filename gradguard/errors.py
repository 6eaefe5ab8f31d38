"""The two errors that gradguard raises, and those that it lets pass as they are."""

from __future__ import annotations

__all__ = ["INTERRUPTS", "GradGuardError", "UsageError"]

INTERRUPTS = (TimeoutError,)
"""What a signal's handler raises into whatever is running: said of no loss and of no model, and never swallowed."""


class GradGuardError(AssertionError):
    """A rule of severity ``error`` found something.

    It is an ``AssertionError``, so that pytest reports a failure and not an error. The first line of its
    message is the first line of the first finding.
    """


class UsageError(ValueError):
    """The check could not be made as it was asked for.

    The message says what is wrong, where, and what to do. The command turns it into exit code 2.
    """

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what = what
        self.where = where
        self.todo = todo
        lines = [what]
        if where:
            lines.append(f"  where    {where}")
        if todo:
            lines.append(f"  to do    {todo}")
        super().__init__("\n".join(lines))
