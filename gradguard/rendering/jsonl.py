"""JSON: the whole report as one document, or findings and checks one a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gradguard.report import SCHEMA_VERSION, plain

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["render_json", "render_jsonl"]


def render_json(report: Report) -> str:
    """The whole report; ``gradguard compare`` and ``load_report`` read it."""
    return report.to_json()


def render_jsonl(report: Report) -> str:
    """One object a line: findings first, then checks; ``kind`` says which."""
    rows = [{"kind": "finding", "schema_version": SCHEMA_VERSION, **plain(f.row())} for f in report.findings]
    rows += [{"kind": "check", "schema_version": SCHEMA_VERSION, **plain(c.row())} for c in report.checks]
    return "\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
