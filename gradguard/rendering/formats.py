"""The table of output formats: a format is added by writing its file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from gradguard.blocks import nearest
from gradguard.errors import UsageError

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["FORMATS", "check_format", "render"]

FORMATS: dict[str, str] = {
    # name: module under gradguard.rendering and function
    "text": "text:render_report",
    "json": "jsonl:render_json",
    "jsonl": "jsonl:render_jsonl",
    "markdown": "markdown:render_markdown",
    "github": "github:render_github",
    "gitlab": "gitlab:render_gitlab",
    "sarif": "sarif:render_sarif",
    "junit": "junit:render_junit",
}


def check_format(name: str) -> None:
    """Raise where there is no such format.

    Raises:
        UsageError: names the nearest.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no output format {name!r}.{nearest(name, FORMATS)}", todo=f"one of {', '.join(FORMATS)}")


def render(report: Report, name: str) -> str:
    """The report in a format.

    Raises:
        UsageError: there is no such format.
    """
    check_format(name)
    module, _, function = FORMATS[name].partition(":")
    found = cast("Callable[[Report], str]", getattr(import_module(f"gradguard.rendering.{module}"), function))
    return found(report)
