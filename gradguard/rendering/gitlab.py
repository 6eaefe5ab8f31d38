"""GitLab's code quality report: a JSON array; every entry has a fingerprint of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gradguard.rendering.places import place, unique_fingerprints

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["render_gitlab"]

SEVERITY = {"error": "critical", "warning": "minor", "info": "info"}


def render_gitlab(report: Report) -> str:
    """``artifacts:reports:codequality`` of a GitLab job."""
    entries = []
    for finding, fingerprint in zip(report.findings, unique_fingerprints(report.findings), strict=True):
        path, line = place(finding)
        entries.append(
            {
                "description": f"{finding.code} {finding.rule}: {finding.message}",
                "check_name": finding.code,
                "fingerprint": fingerprint,
                "severity": SEVERITY[finding.severity],
                "location": {"path": path, "lines": {"begin": line}},
            }
        )
    return json.dumps(entries, indent=2, ensure_ascii=False)
