"""Where in the source a finding is shown: the class of the guilty module, else the scenario's file."""

from __future__ import annotations

import re

from gradguard.finding import Finding

__all__ = ["place", "unique_fingerprints"]

SOURCE = re.compile(r"([^\s:;()]+\.py):(\d+)")


def place(finding: Finding) -> tuple[str, int]:
    """Path (forward slashes, relative to the project's root where it can be) and line, from 1."""
    found = SOURCE.search(finding.location)
    if found:
        return _relative(found.group(1)), max(int(found.group(2)), 1)
    head, python, _ = finding.scenario.partition(".py")
    return (_relative(head + python), 1) if python else ("pyproject.toml", 1)


def unique_fingerprints(findings: tuple[Finding, ...]) -> list[str]:
    """A fingerprint per finding, all different: where one rule says two things of one place, the second is numbered."""
    seen: dict[str, int] = {}
    result = []
    for finding in findings:
        count = seen.get(finding.fingerprint, 0)
        seen[finding.fingerprint] = count + 1
        result.append(finding.fingerprint if count == 0 else f"{finding.fingerprint}-{count + 1}")
    return result


def _relative(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")
