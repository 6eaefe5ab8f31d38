"""The line at the head of every table: which commit made it."""

from __future__ import annotations

import subprocess

__all__ = ["commit_line"]


def commit_line() -> str:
    """The commit, marked where the work tree has more than it, as a line and an empty one."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return f"commit {done.stdout.strip() or 'unknown'}\n"
