"""GitHub: annotations on the log, and the step's summary as Markdown.

Workflow commands as GitHub documents them: ``::error file=F,line=N,title=T::message``, with ``%``, CR and LF of the
message escaped, and ``:`` and ``,`` of the properties too. GitHub shows 10 annotations of a step and drops the others
without a word, so nine are printed, worst first, and a tenth that counts the rest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gradguard.finding import Finding
from gradguard.rendering.markdown import render_markdown
from gradguard.rendering.places import place
from gradguard.rendering.text import render_report, where

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["annotate", "render_github", "step_summary"]

SHOWN = 9
SUMMARY_BYTES = 1024 * 1024
LEVEL = {"error": "error", "warning": "warning", "info": "notice"}


def render_github(report: Report) -> str:
    """The report as text, then its annotations; GitHub takes them out of the log."""
    return "\n".join([render_report(report), *annotate(report)])


def annotate(report: Report) -> list[str]:
    """At most ten workflow commands: roots first, errors before warnings."""
    ordered = sorted(report.findings, key=lambda f: (list(LEVEL).index(f.severity), bool(f.caused_by)))
    shown = ordered if len(ordered) <= SHOWN + 1 else ordered[:SHOWN]
    lines = [_command(finding) for finding in shown]
    rest = ordered[len(shown) :]
    if rest:
        level = LEVEL[rest[0].severity]
        lines.append(f"::{level} title=gradguard::{len(rest)} more findings, all of them in the step's summary and log")
    return lines


def step_summary(report: Report, path: str | None = None) -> None:
    """Append the report as Markdown to ``$GITHUB_STEP_SUMMARY``, within GitHub's 1 MiB; nothing where it is not set."""
    target = path or os.environ.get("GITHUB_STEP_SUMMARY")
    if not target:
        return
    data = (render_markdown(report) + "\n").encode()
    with open(target, "ab") as file:
        room = SUMMARY_BYTES - file.tell()
        if len(data) > room:
            note = b"\n\n... cut: the summary of a step holds 1 MiB\n"
            data = data[: max(room - len(note), 0)].rpartition(b"\n")[0] + note if room > len(note) else b""
        file.write(data)


def _command(finding: Finding) -> str:
    path, line = place(finding)
    title = _property(f"{finding.code} {finding.rule}")
    details = [finding.message, *(text for text in (where(finding), finding.pattern, finding.likely, finding.hint) if text)]
    return f"::{LEVEL[finding.severity]} file={_property(path)},line={line},title={title}::{_escaped(chr(10).join(details))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
