"""The plugin's section at the end of a run: short, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gradguard.errors import UsageError
from gradguard.finding import Finding
from gradguard.integrations.pytest_session import report_of_run, work_of
from gradguard.rendering.text import count_checks, shorten, tally
from gradguard.report import Report

__all__ = ["summarise", "summary_lines"]

SHOWN = 12
MARKUP = {"error": {"red": True}, "warning": {"yellow": True}, "info": {"cyan": True}}


def summarise(reporter: Any, config: pytest.Config, payloads: Sequence[str], problem: str = "") -> None:
    """Write the section; with ``-q`` only where something was found. ``problem``: what could not be written."""
    report = report_of_run(config, payloads)
    _show_format(reporter, config, report)
    note = _note(config)
    if config.get_verbosity() < 0 and not report.findings and not problem and not note:
        return
    reporter.ensure_newline()
    reporter.section("gradguard", sep="=")
    if problem:
        reporter.write_line(f"gradguard: {problem}", red=True)
    if note:
        reporter.write_line(note, yellow=True)
    lines, more = summary_lines(report, config.get_terminal_writer().fullwidth)
    reporter.write_line(count_checks(report))
    for finding, line in lines:
        reporter.write_line(line, **MARKUP[finding.severity])
    if more:
        reporter.write_line(more)


def _note(config: pytest.Config) -> str:
    try:
        return work_of(config).note
    except UsageError:
        # The tests that needed the settings have failed with this already.
        return ""


def summary_lines(report: Report, width: int) -> tuple[list[tuple[Finding, str]], str]:
    """A line per finding, worst first, none wider than ``width``; and how many more there are."""
    shown = report.findings[:SHOWN]
    lines = [(finding, _line(finding, width)) for finding in shown]
    rest = report.findings[SHOWN:]
    return lines, f"... and {tally(rest)} more" if rest else ""


def _line(finding: Finding, width: int) -> str:
    head = f"{finding.severity:<7} {finding.code} {finding.rule}"
    caused = "  (caused by another)" if finding.caused_by else ""
    place = f"{finding.scenario}  {finding.block or finding.module}".strip()
    room = width - len(head) - len(caused) - 2
    if room < 16:
        # Too narrow for the place beside the rule: the rule's code is enough to find the rest.
        return shorten(f"{finding.code} {place}", width)
    return f"{head}  {shorten(place, room)}{caused}"


def _show_format(reporter: Any, config: pytest.Config, report: Report) -> None:
    """Formats that belong on the terminal: GitHub's annotations, or any other that was asked for without a file."""
    name, file = config.getoption("gradguard_output_format"), config.getoption("gradguard_output_file")
    if name == "github":
        from gradguard.rendering.github import annotate, step_summary

        for line in annotate(report):
            reporter.write_line(line)
        step_summary(report)
    elif name and not file:
        from gradguard.rendering.formats import render

        reporter.write_line(render(report, name))
