"""Measure, then judge: the one mechanism that every rule goes through.

    problem --measure--> evidence --Rule.check--> outcomes (--requests--> more evidence --> outcomes) --triage--> report
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradguard.adapters.base import Problem, Settings
from gradguard.blocks import matching
from gradguard.errors import UsageError
from gradguard.finding import Check, Finding, Outcome, Request, Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable
from gradguard.measurements.registry import MEASUREMENTS, measure_function
from gradguard.report import Report
from gradguard.rules.base import Rule
from gradguard.rules.triage import triage
from gradguard.scenarios import Ignore

__all__ = ["gather", "judge"]


def needed(rules: Iterable[Rule]) -> list[str]:
    """The union of what the rules need, in the order of the table of measurements."""
    wanted = {name for rule in rules for name in (*rule.needs, *rule.optional)}
    return [name for name in MEASUREMENTS if name in wanted]


def gather(
    problem: Problem, names: Iterable[str], settings: Settings, evidence: Evidence, about: Sequence[str] = ()
) -> dict[str, Measurement]:
    """The evidence, with the named measurements added; each is made once."""
    result = dict(evidence)
    for name in names:
        if name in result:
            continue
        forwards, backwards, start = problem.counts.forwards, problem.counts.backwards, time.perf_counter()
        measured = measure_function(name)(problem, settings, result, tuple(about))
        result[name] = replace(
            measured,
            seconds=time.perf_counter() - start,
            forwards=problem.counts.forwards - forwards,
            backwards=problem.counts.backwards - backwards,
        )
    return result


def judge(
    problem: Problem,
    rules: Sequence[Rule],
    settings: Settings,
    *,
    scenario: str = "",
    ignores: Sequence[Ignore] = (),
    evidence: Evidence | None = None,
) -> Report:
    """Measure what the rules need, judge, measure once more what they ask for, judge again, triage, report."""
    import numpy as np

    with np.errstate(all="ignore"):  # what overflows is measured; a warning would end a check where warnings are errors
        known = gather(problem, needed(rules), settings, evidence or {})
        outcomes = {rule.code: rule.check(known) for rule in rules}
        requests = _requests(outcomes.values())
        for request in requests:
            known = gather(problem, [request.measurement], settings, known, request.about)
        if requests:  # rules are pure: what one asked for may matter to another
            outcomes = {rule.code: rule.check(known) for rule in rules}
    return _assemble(rules, outcomes, known, scenario=scenario, ignores=ignores)


def _requests(outcomes: Iterable[Outcome]) -> list[Request]:
    asked: dict[str, tuple[str, ...]] = {}
    for outcome in outcomes:
        for request in outcome.requests:
            before = asked.get(request.measurement, ())
            asked[request.measurement] = (*before, *(name for name in request.about if name not in before))
    return [Request(measurement=name, about=asked[name]) for name in MEASUREMENTS if name in asked]


def _assemble(
    rules: Sequence[Rule], outcomes: dict[str, Outcome], evidence: Evidence, *, scenario: str, ignores: Sequence[Ignore]
) -> Report:
    findings: list[Finding] = []
    checks: list[Check] = []
    used: set[Ignore] = set()
    roots = {
        f.fingerprint: by for outcome in outcomes.values() for f in outcome.findings
        if (by := next((one for one in ignores if _accepts(one, f)), None)) is not None
    }
    for rule in rules:
        outcome = outcomes[rule.code]
        kept: list[Finding] = []
        accepted: list[str] = []
        for finding in outcome.findings:
            # Who accepts a cause accepts what it causes.
            by = roots.get(finding.fingerprint) or roots.get(finding.caused_by)
            if by is None:
                kept.append(replace(finding, scenario=scenario))
            else:
                used.add(by)
                accepted.append(f"ignored {finding.block or finding.module or finding.rule}: {by.reason}")
        status = outcome.status
        if accepted and status == "failed" and not any(f.severity == "error" for f in kept):
            status = "passed"
        reason = "; ".join([*([outcome.reason] if outcome.reason else []), *accepted])
        findings.extend(kept)
        checks.append(
            Check(scenario=scenario, code=rule.code, rule=rule.slug, status=status, reason=reason, margin=outcome.margin)
        )
    # A cause is named by fingerprint, which the scenario's name is part of.
    named = {replace(f, scenario="").fingerprint: f.fingerprint for f in findings}
    findings = [replace(f, caused_by=named.get(f.caused_by, f.caused_by)) for f in findings]
    judged = {rule.code for rule in rules}
    findings.extend(_unused(ignores, used, judged, scenario))
    return Report(triage(findings), checks, _tables(evidence, scenario))


def _accepts(ignore: Ignore, finding: Finding) -> bool:
    if ignore.rule not in (finding.code, finding.rule):
        return False
    return any(matching(name, [ignore.block]) for name in (finding.block, finding.module) if name) or ignore.block == "*"


def _unused(ignores: Sequence[Ignore], used: set[Ignore], judged: set[str], scenario: str) -> list[Finding]:
    from gradguard.rules.unused_ignore import UnusedIgnore

    if UnusedIgnore.code not in judged:
        return []
    from gradguard.rules.registry import find

    stale = [one for one in ignores if one not in used and find(one.rule) in judged]
    return [replace(UnusedIgnore.stale(one), scenario=scenario) for one in stale]


def _tables(evidence: Evidence, scenario: str) -> dict[str, Table]:
    tables: dict[str, Table] = {"measurements": []}
    for name, measured in evidence.items():
        row = {
            "scenario": scenario, "measurement": name, "seconds": measured.seconds, "forwards": measured.forwards,
            "backwards": measured.backwards, "peak_bytes": measured.peak_bytes, "path": measured.path,
            "reason": measured.reason,
        }
        tables["measurements"].append(row)
        if isinstance(measured, Unavailable):
            continue
        for table, rows in measured.tables().items():
            tables.setdefault(table, []).extend({"scenario": scenario, **one} for one in rows)
    return tables


def check_ignores(ignores: Sequence[Ignore]) -> tuple[Ignore, ...]:
    """The ignores with rules given by slug turned into codes.

    Raises:
        UsageError: an ignore names no rule.
    """
    from gradguard.rules.registry import find

    try:
        return tuple(replace(one, rule=find(one.rule)) for one in ignores)
    except UsageError as error:
        raise UsageError(f"an ignore names an unknown rule: {error.what}", todo=error.todo) from None
