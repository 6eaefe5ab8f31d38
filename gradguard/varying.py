"""The same check on variants of the user's inputs: what only some values or sizes show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from gradguard.adapters.variants import Variant
from gradguard.errors import UsageError
from gradguard.finding import Check, Finding
from gradguard.report import Report

__all__ = ["varied"]


def varied(report: Report, variants: Iterable[Variant], run: Callable[[Any], Report]) -> Report:
    """The report, with what the variants found besides; a variant that cannot run is skipped, and said.

    A finding that the user's own inputs show, too, is not repeated.
    """
    known = {(f.code, f.block or f.module) for f in report.findings}
    found: list[Finding] = []
    ran: list[str] = []
    skipped: list[str] = []
    for variant in variants:
        try:
            other = run(variant.inputs)
        except UsageError as error:
            skipped.append(f"{variant.name} ({_short(error.what)})")
            continue
        ran.append(variant.name)
        for finding in other.findings:
            where = (finding.code, finding.block or finding.module)
            if where in known or finding.severity == "info":
                continue
            known.add(where)
            evidence = "; ".join(part for part in (f"inputs: {variant.name}", finding.evidence) if part)
            found.append(replace(finding, pattern=variant.pattern, evidence=evidence))
    said = f"{len(ran)} variants of the inputs: {', '.join(ran)}" + (f"; not taken: {', '.join(skipped)}" if skipped else "")
    checks = [_with(c, [f for f in found if f.code == c.code], said if c.code == "GG101" else "") for c in report.checks]
    return Report([*report.findings, *found], checks, report.rows, strict=report.strict)


def _with(check: Check, found: list[Finding], said: str) -> Check:
    reason = "; ".join(part for part in (check.reason, said) if part)
    failed = any(f.severity == "error" for f in found)
    return replace(check, status="failed" if failed else check.status, reason=reason)


def _short(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= 80 else f"{line[:77]}..."
