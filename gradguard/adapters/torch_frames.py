"""Whose code it is: the user's, torch's, or ours; and what theirs raised, told as their own error."""

from __future__ import annotations

import os
import traceback

import torch

from gradguard.errors import UsageError

__all__ = ["is_users", "user_error"]

OTHERS = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
"""The folders of torch and of gradguard."""


def is_users(path: str) -> bool:
    """Whether a frame's file is neither torch's nor ours."""
    return not path.startswith(OTHERS)


def user_error(error: Exception, where: str) -> UsageError:
    """The user's own exception as ours: its text, and the last line of theirs that raised it."""
    several = "; a tuple is passed as arguments, a dict as keywords, anything else as one argument"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
    line = f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else where
    return UsageError(
        f"the model raised {type(error).__name__}: {error}",
        where=f"{where}; {line}" if frames else where,
        todo="call the model on these inputs without gradguard; it must run there first"
        + (several if isinstance(error, TypeError) and not frames else ""),
    )
