"""Whose code a file is: the user's, torch's, or ours."""

from __future__ import annotations

import os

import torch

__all__ = ["is_users"]

OTHERS = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))
"""The folders of torch and of gradguard."""


def is_users(path: str) -> bool:
    """Whether a frame's file is neither torch's nor ours."""
    return not path.startswith(OTHERS)
