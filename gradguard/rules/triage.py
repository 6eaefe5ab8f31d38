"""Order findings by cause: one root, the others caused by it. A pure function.

A rule whose finding was triaged still fails, in one line that points to the root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gradguard.finding import Finding

__all__ = ["CAUSES", "triage"]

CAUSES: dict[str, tuple[str, ...]] = {
    # what is seen: what, if it is there too (for the same block, or for all blocks where it names none), explains it
    "GG105": ("GG113", "GG106"),
    "GG107": ("GG106", "GG108"),
    "GG109": ("GG101", "GG105", "GG106"),
    "GG111": ("GG101",),
    "GG102": ("GG203/output", "GG302/at birth", "GG302/time"),
    "GG101": ("GG104", "GG102", "GG106", "GG107", "GG108", "GG113"),
    "GG103": ("GG104", "GG102"),
    "GG113": ("GG104",),
    "GG902": ("GG104",),
    "GG201": (
        "GG406/same input", "GG304", "GG501", "GG206", "GG404/sum", "GG302/at birth", "GG502", "GG401", "GG402", "GG302",
        "GG207/one choice", "GG303/cut", "GG503",
    ),
    "GG202": ("GG304", "GG501", "GG404/sum", "GG302/at birth", "GG502", "GG401", "GG302", "GG503"),
    "GG204": (
        "GG406/same input", "GG304", "GG501", "GG206", "GG303", "GG201", "GG205", "GG404/sum", "GG302/at birth", "GG502",
        "GG401", "GG402", "GG302", "GG301", "GG202", "GG207/one choice", "GG403", "GG406", "GG503",
    ),
    "GG205": ("GG503",),
    "GG205/in training": ("GG503", "GG404/sum", "GG401", "GG402"),
    "GG302": ("GG502", "GG503"),
    "GG302/not finite": ("GG102",),
    "GG302/overflow": ("GG304", "GG404/sum", "GG302/at birth", "GG502", "GG401"),
    "GG301": ("GG501", "GG206", "GG303", "GG201", "GG502", "GG503"),
    "GG303": ("GG307", "GG206", "GG201", "GG501"),
    "GG303/cut": ("GG307", "GG206", "GG501"),
    "GG401": ("GG102", "GG501", "GG404", "GG302/at birth", "GG302/time", "GG502", "GG503"),
    "GG402": ("GG102", "GG203", "GG401", "GG404", "GG304"),
    "GG403": ("GG307", "GG501", "GG206", "GG303", "GG201", "GG301", "GG202", "GG503"),
    "GG404": ("GG203", "GG102", "GG501", "GG502", "GG503"),
    "GG405": (
        "GG406/same input",
        "GG203",
        "GG501",
        "GG206",
        "GG303",
        "GG205",
        "GG201",
        "GG302",
        "GG502",
        "GG404",
        "GG401",
        "GG301",
        "GG202",
        "GG403",
    ),
    "GG406": (
        "GG203",
        "GG501",
        "GG206",
        "GG303",
        "GG304",
        "GG205",
        "GG201",
        "GG404/sum",
        "GG302",
        "GG502",
        "GG401",
        "GG402",
        "GG301",
        "GG202",
        "GG207",
        "GG403",
        "GG503",
    ),
    "GG406/same input": ("GG203", "GG501"),
    "GG406/ascent": ("GG203", "GG501", "GG401", "GG402"),
    "GG502": ("GG501",),
}
"""Which findings explain which; the first one found is the root. ``CODE/pattern`` is a finding with that pattern."""

RANK = {"error": 0, "warning": 1, "info": 2}


def triage(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings with ``caused_by`` set, roots first, errors before warnings before infos.

    A finding that already names its cause keeps it. A root explains a finding of the same scenario when it concerns the
    same block, or when it concerns no block in particular, or when the rules' table says so for the whole scenario.
    """
    found = list(findings)
    result: list[Finding] = []
    for finding in found:
        cause = finding.caused_by or _cause(finding, found)
        result.append(replace(finding, caused_by=cause) if cause != finding.caused_by else finding)
    order = {id(f): i for i, f in enumerate(result)}
    return tuple(sorted(result, key=lambda f: (RANK[f.severity], bool(f.caused_by), order[id(f)])))


def _cause(finding: Finding, found: list[Finding]) -> str:
    for cause in CAUSES.get(f"{finding.code}/{finding.pattern}", CAUSES.get(finding.code, ())):
        code, _, pattern = cause.partition("/")
        for other in found:
            if other.code != code or pattern not in ("", other.pattern):
                continue
            if finding.code == "GG102" and (other.step or 0) > (finding.step or 0):
                continue  # the values became what the gradient had made of the weights
            within = bool(finding.module) and not finding.block and other.module == finding.module
            same_place = not other.block or other.block == finding.block or within
            severe = RANK[other.severity] <= RANK[finding.severity]
            if other.scenario == finding.scenario and same_place and severe:
                return other.fingerprint
    return ""
