"""A report as text for people: worst first, the evidence beside the verdict, and nothing left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gradguard.finding import Check, Finding
from gradguard.rendering.rates import render_limits

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["count_checks", "plural", "render_failures", "render_finding", "render_report", "shorten", "tally", "where"]

LABEL = 9
"""Width of the labels ``where``, ``pattern``, ``evidence`` and so on, with two blanks before and after."""

COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "info": "\x1b[36m"}
RESET = "\x1b[0m"


def plural(count: int, word: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def shorten(text: str, width: int) -> str:
    """The text cut in the middle to ``width`` characters: the ends of a module's path say more than its middle."""
    if len(text) <= width:
        return text
    if width <= 5:
        return text[: max(width, 0)]
    head = (width - 3) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head):]}"


def where(finding: Finding) -> str:
    """Block, module, step and place of a finding in words; empty where it concerns the whole scenario."""
    parts = []
    if finding.block and finding.block not in finding.location:
        parts.append(f"block {finding.block}")
    if finding.module and finding.module not in finding.location:
        parts.append(f"module {finding.module}")
    if finding.step is not None:
        parts.append(f"step {finding.step}")
    if finding.location:
        parts.append(finding.location)
    return "; ".join(parts)


def render_finding(
    finding: Finding, roots: Mapping[str, Finding] | None = None, *, scenario: bool = False, colour: bool = False
) -> str:
    """One finding: its headline, and below it what is known of it, a line each.

    A finding that another one caused is one line that points to that one. ``roots``: the findings by fingerprint.
    ``scenario`` adds the scenario's name, for reports on several.
    """
    headline = _painted(finding, colour)
    if finding.caused_by:
        root = (roots or {}).get(finding.caused_by)
        return f"{headline}  (caused by {_place(root) if root else finding.caused_by})"
    rows = [
        ("scenario", finding.scenario if scenario else ""),
        ("where", where(finding)),
        ("pattern", finding.pattern),
        ("evidence", finding.evidence),
        ("likely", finding.likely),
        ("to do", finding.hint),
        ("repeat", finding.repeat),
    ]
    return "\n".join([headline, *(f"  {label:<{LABEL}}  {text}" for label, text in rows if text)])


def render_failures(report: Report, *, colour: bool = False) -> str:
    """What failed, for an exception: the first line is the first error's; what it caused follows in one line each."""
    several = len({check.scenario for check in report.checks} | {f.scenario for f in report.findings}) > 1
    roots = {f.fingerprint: f for f in report.findings}
    lines = [render_finding(f, roots, scenario=several, colour=colour) for f in _ordered(report.errors)]
    if report.strict:
        lines.extend(
            f"{check.code} {check.rule}  inconclusive, which --gradguard-strict counts as a failure: {check.reason}"
            for check in report.inconclusive
        )
    rest = [f for f in report.findings if f.severity != "error"]
    if rest:
        codes = ", ".join(sorted({f"{f.code} {f.rule}" for f in rest}))
        lines.append(f"also {tally(rest)}: {codes}")
    return "\n".join(lines)


def render_report(report: Report, *, colour: bool = False) -> str:
    """The whole report: a verdict, the findings, then every check, those that decided nothing with their reason."""
    scenarios = list(dict.fromkeys([*(c.scenario for c in report.checks), *(f.scenario for f in report.findings)]))
    roots = {f.fingerprint: f for f in report.findings}
    parts = []
    for name in scenarios:
        findings = _ordered(f for f in report.findings if f.scenario == name)
        checks = [c for c in report.checks if c.scenario == name]
        text = [_verdict(name, findings, checks, strict=report.strict)]
        text.extend(render_finding(f, roots, colour=colour) for f in findings)
        text.append(render_checks(checks))
        limits = render_limits([r for r in report.table_rows("learning_rate") if r.get("scenario", "") == name])
        for more in (limits, _measured(report, name)):
            text[-1] += f"\n{more}" if more else ""
        parts.append("\n\n".join(text))
    if not parts:
        return "no check ran"
    if len(scenarios) > 1:
        parts.append(f"{plural(len(scenarios), 'scenario')}: {tally(report.findings)}")
    return "\n\n\n".join(parts)


def tally(findings: Iterable[Finding]) -> str:
    """``2 errors (1 caused by another), 1 warning``, or ``no finding``."""
    found = list(findings)
    parts = []
    for severity in ("error", "warning", "info"):
        of_kind = [f for f in found if f.severity == severity]
        caused = sum(bool(f.caused_by) for f in of_kind)
        if of_kind:
            parts.append(plural(len(of_kind), severity) + (f" ({caused} caused by another)" if caused else ""))
    return ", ".join(parts) or "no finding"


def count_checks(report: Report) -> str:
    """``12 checks on 2 scenarios: 11 passed, 1 failed``."""
    scenarios = len({check.scenario for check in report.checks})
    return f"{plural(len(report.checks), 'check')} on {plural(scenarios, 'scenario')}: {_statuses(report.checks)}"


def _statuses(checks: Sequence[Check]) -> str:
    counts = {s: sum(c.status == s for c in checks) for s in ("passed", "failed", "inconclusive", "skipped")}
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"


def render_checks(checks: list[Check]) -> str:
    """How many checks there were and how each ended; inconclusive and skipped ones with their reason, never silent."""
    lines = [f"{plural(len(checks), 'check')}: {_statuses(checks)}"]
    checks = sorted(checks, key=lambda check: check.code)
    passed = [c.code for c in checks if c.status == "passed" and not c.reason]
    if passed:
        lines.append(f"  passed        {', '.join(passed)}")
    for status in ("passed", "failed", "inconclusive", "skipped"):
        by_reason: dict[str, list[str]] = {}
        for check in checks:
            if check.status == status and (check.reason or status in ("inconclusive", "skipped")):
                by_reason.setdefault(check.reason or "no reason was given", []).append(check.code)
        lines.extend(f"  {status:<12}  {', '.join(codes)}: {reason}" for reason, codes in by_reason.items())
    return "\n".join(lines)


def _painted(finding: Finding, colour: bool) -> str:
    if not colour:
        return finding.headline
    return f"{COLOURS[finding.severity]}{finding.code} {finding.rule}{RESET}  {finding.message}"


def _place(finding: Finding) -> str:
    return f"{finding.code} {finding.block or finding.module or finding.rule}"


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    rank = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda f: (rank[f.severity], bool(f.caused_by)))


def _verdict(name: str, findings: list[Finding], checks: list[Check], *, strict: bool) -> str:
    errors = any(f.severity == "error" for f in findings)
    undecided = [c for c in checks if c.status == "inconclusive"]
    # GG9xx speak of the checks themselves: they decide nothing about the model.
    passed = any(c.status == "passed" and not c.code.startswith("GG9") for c in checks)
    if errors or (strict and undecided):
        verdict = "FAILED"
    elif passed:
        verdict = "ok, but not all of it could be decided" if undecided else "ok"
    else:
        verdict = "nothing was decided"
    return f"{name or 'gradguard'}: {verdict} ({tally(findings)})"


def _measured(report: Report, scenario: str) -> str:
    """What the verdict rests on: how many blocks were compared, and the worst resolution among them."""
    rows = [r for r in report.table_rows("gradients") if r.get("scenario", "") == scenario]
    spent = [r for r in report.table_rows("measurements") if r.get("scenario", "") == scenario]
    lines = []
    if rows:
        decided = [r for r in rows if str(r.get("verdict", "")).startswith(("pass", "fail"))]
        text = f"  {len(decided)} of {plural(len(rows), 'block')} compared"
        finite = [r for r in decided if isinstance(r.get("resolution"), float) and r["resolution"] == r["resolution"]]
        if finite:
            worst = max(finite, key=lambda r: r["resolution"])
            text += f"; smallest error seen in any of them: {worst['resolution']:.1e} of the block ({worst['block']})"
        lines.append(text)
    if spent:
        forwards = sum(float(r.get("forwards") or 0) for r in spent)
        backwards = sum(float(r.get("backwards") or 0) for r in spent)
        lines.append(f"  cost: {forwards:.4g} forwards, {backwards:.4g} backwards")
    return "\n".join(lines)
