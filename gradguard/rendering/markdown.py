"""Markdown: for a pull request's comment, or the summary of a CI step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradguard.rendering.text import plural, render_checks, render_finding, tally

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["cell", "render_markdown"]


def render_markdown(report: Report) -> str:
    """A verdict, a table of findings worst first, their evidence folded away, and what became of every check."""
    scenarios = {check.scenario for check in report.checks} | {finding.scenario for finding in report.findings}
    verdict = "ok" if report.ok else "FAILED"
    lines = [f"## gradguard: {verdict}", "", f"{plural(len(scenarios), 'scenario')}, {tally(report.findings)}.", ""]
    roots = {f.fingerprint: f for f in report.findings}
    if report.findings:
        lines += ["| severity | rule | scenario | where | what |", "|---|---|---|---|---|"]
        for f in report.findings:
            what = f.message + (f" (caused by {roots[f.caused_by].code})" if f.caused_by in roots else "")
            row = (f.severity, f"{f.code} {f.rule}", f.scenario, f.block or f.module, what)
            lines.append("| " + " | ".join(cell(text) for text in row) + " |")
        lines += ["", "<details><summary>Evidence</summary>", "", "```text"]
        lines += ["\n\n".join(_fenced(render_finding(f, roots, scenario=len(scenarios) > 1)) for f in report.findings)]
        lines += ["```", "", "</details>", ""]
    lines += ["<details><summary>Checks</summary>", "", "```text"]
    for name in sorted(scenarios):
        lines.append(_fenced(f"{name}: {render_checks([c for c in report.checks if c.scenario == name])}"))
    return "\n".join([*lines, "```", "", "</details>"])


def cell(text: str) -> str:
    """Text for a cell of a table: no bars, line ends, or markup of its own."""
    for sign in ("\\", "|", "*", "_", "`", "<", ">", "[", "]"):
        text = text.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return " ".join(text.splitlines())


def _fenced(text: str) -> str:
    return text.replace("```", "'''")
