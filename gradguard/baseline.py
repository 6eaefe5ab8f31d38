"""The baseline: findings that a team has accepted, so that a legacy model passes today and only new findings fail.

An entry is scenario, rule and block (or module), never a measured value: a rerun that measures 4.66 for 4.67 is the same
finding. It also keeps the severity, so that a warning that was accepted is not accepted as an error. An entry that no
longer occurs is reported as GG901, so that the file shrinks as bugs are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradguard.blocks import matching
from gradguard.errors import UsageError
from gradguard.finding import Check, Finding
from gradguard.report import Report
from gradguard.rules.unused_ignore import UnusedIgnore
from gradguard.saved import read_json
from gradguard.scenarios import Ignore

__all__ = ["Accepted", "accept", "apply_baseline", "apply_ignores", "entries_of", "read_baseline", "write_baseline"]

VERSION = 1
DEFAULT = "gradguard-baseline.json"


@dataclass(frozen=True, order=True)
class Accepted:
    """One accepted finding."""

    scenario: str
    rule: str
    block: str = ""
    module: str = ""
    severity: str = "error"

    def covers(self, finding: Finding) -> bool:
        """Whether it is this finding that was accepted, and no worse one."""
        same = (self.scenario, self.rule, self.block, self.module) == (
            finding.scenario, finding.code, finding.block, finding.module,
        )  # fmt: skip
        return same and (self.severity == "error" or finding.severity != "error")


def entry_of(finding: Finding) -> Accepted:
    """What a baseline keeps of a finding."""
    return Accepted(finding.scenario, finding.code, finding.block, finding.module, finding.severity)


def entries_of(report: Report) -> list[Accepted]:
    """The entries that accept every error and warning of a report (GG901 speaks of the baseline itself, and is not one)."""
    found = [f for f in report.findings if f.severity != "info" and f.code != UnusedIgnore.code]
    return sorted({entry_of(f) for f in found})


def read_baseline(path: Path) -> list[Accepted]:
    """The entries of a baseline's file.

    Raises:
        UsageError: it is missing, unreadable, not a baseline, or of another version.
    """
    todo = "`gradguard baseline write TARGET...` writes one"
    data = read_json(path, "a baseline", todo)
    if not isinstance(data, dict) or "gradguard_baseline" not in data:
        raise UsageError(f"{path} is not a baseline of gradguard", todo=todo)
    if data["gradguard_baseline"] != VERSION:
        raise UsageError(
            f"{path} is a baseline of version {data['gradguard_baseline']!r}, this gradguard reads {VERSION}", todo=todo
        )
    try:
        return [Accepted(**entry) for entry in data["accepted"]]
    except (TypeError, KeyError) as error:
        raise UsageError(f"{path} has a damaged entry: {error}", todo=todo) from error


def write_baseline(path: Path, entries: Iterable[Accepted]) -> None:
    """Write a baseline, sorted, one entry a line, so that its history can be read.

    Raises:
        UsageError: the file cannot be written.
    """
    rows = [json.dumps({k: v for k, v in vars(entry).items() if v}, ensure_ascii=False) for entry in sorted(set(entries))]
    accepted = "[\n" + ",\n".join(f"    {row}" for row in rows) + "\n  ]" if rows else "[]"
    text = f'{{\n  "gradguard_baseline": {VERSION},\n  "accepted": {accepted}\n}}\n'
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        todo = "name a file that can be written"
        raise UsageError(f"cannot write the baseline {path}: {error.strerror or error}", todo=todo) from error


def apply_baseline(report: Report, entries: Sequence[Accepted]) -> Report:
    """The report without what the baseline accepts, and with GG901 for entries whose rule ran and found nothing."""
    accepted, used = accept(report, lambda f: "in the baseline" if any(entry.covers(f) for entry in entries) else "")
    decided = {(c.scenario, c.code) for c in report.checks if c.status in ("passed", "failed")}
    stale = [
        entry
        for entry in sorted(set(entries))
        if (entry.scenario, entry.rule) in decided and not any(entry.covers(f) for f in used)
    ]
    return Report((*accepted.findings, *map(_stale, stale)), accepted.checks, accepted.rows, strict=report.strict)


def apply_ignores(report: Report, ignores: Sequence[Ignore]) -> tuple[Report, list[Ignore]]:
    """The report without what the ignores accept, and the ignores that accepted something.

    For ignores that concern a whole run (options, the table): which of them is stale can only be said at its end.
    """
    used: list[Ignore] = []

    def reason(finding: Finding) -> str:
        for one in ignores:
            names = [name for name in (finding.block, finding.module) if name]
            if one.rule == finding.code and (one.block == "*" or any(matching(name, [one.block]) for name in names)):
                used.append(one)
                return one.reason
        return ""

    accepted, _ = accept(report, reason)
    return accepted, used


def accept(report: Report, reason: Callable[[Finding], str]) -> tuple[Report, list[Finding]]:
    """The report without the findings for which ``reason`` returns one, and those findings.

    A check that failed because of them alone has passed, and says why. A finding whose cause was accepted is a finding
    of its own again: it must not hide behind something that nobody looks at.
    """
    reasons = {id(f): reason(f) for f in report.findings}
    dropped = [f for f in report.findings if reasons[id(f)]]
    kept = [f for f in report.findings if not reasons[id(f)]]
    remaining = {f.fingerprint for f in kept}
    kept = [replace(f, caused_by="") if f.caused_by and f.caused_by not in remaining else f for f in kept]
    checks = [_after(check, kept, [(f, reasons[id(f)]) for f in dropped]) for check in report.checks]
    return Report(kept, checks, report.rows, strict=report.strict), dropped


def _after(check: Check, kept: list[Finding], dropped: list[tuple[Finding, str]]) -> Check:
    own = [(f, why) for f, why in dropped if f.code == check.code and f.scenario == check.scenario]
    if not own:
        return check
    failing = any(f.severity == "error" and f.code == check.code and f.scenario == check.scenario for f in kept)
    texts = [f"accepted {f.block or f.module or f.rule}: {why}" for f, why in own]
    status = "passed" if check.status == "failed" and not failing else check.status
    return replace(check, status=status, reason="; ".join([*([check.reason] if check.reason else []), *texts]))


def _stale(entry: Accepted) -> Finding:
    where = entry.block or entry.module
    return Finding(
        code=UnusedIgnore.code,
        rule=UnusedIgnore.slug,
        severity=UnusedIgnore.severity,
        scenario=entry.scenario,
        block=entry.block,
        module=entry.module,
        message=f"the baseline accepts {entry.rule}" + (f" for {where}" if where else "") + ", which no longer occurs",
        hint="gradguard baseline prune TARGET...",
    )
