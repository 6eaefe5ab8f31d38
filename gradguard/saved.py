"""Read a saved report back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gradguard.errors import UsageError
from gradguard.finding import Check, Finding
from gradguard.report import COLUMNS, SCHEMA_VERSION, Report

__all__ = ["load_report", "read_json", "report_from_dict"]


def load_report(path: str | Path) -> Report:
    """A report from ``report.json``, or from the folder that :meth:`Report.save` wrote.

    Raises:
        UsageError: it cannot be read, is not a report, or is of another schema version.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    data = read_json(file, "a report", "`gradguard report TARGET --json FILE` writes one")
    if not isinstance(data, dict) or "tables" not in data or "schema_version" not in data:
        raise UsageError(f"{file} is not a report of gradguard", todo="`gradguard report TARGET --json FILE` writes one")
    if data["schema_version"] != SCHEMA_VERSION:
        raise UsageError(
            f"{file} has schema version {data['schema_version']!r}, this gradguard reads {SCHEMA_VERSION}",
            todo="write it again with this version of gradguard",
        )
    try:
        return report_from_dict(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is damaged: {type(error).__name__}: {error}", todo="write it again") from error


def report_from_dict(data: Mapping[str, Any]) -> Report:
    """A report from what :meth:`Report.to_dict` gave; the texts ``nan``, ``inf`` and ``-inf`` become numbers again."""
    tables = {name: [_numbers(name, row) for row in rows] for name, rows in data["tables"].items()}
    finding_names = {f.name for f in fields(Finding)}
    findings = [Finding(**{k: v for k, v in row.items() if k in finding_names}) for row in tables.pop("findings", [])]
    checks = [Check(**row) for row in tables.pop("checks", [])]
    return Report(findings, checks, tables)


def read_json(file: Path, what: str, todo: str) -> Any:
    """The JSON data of a file, or an error that says what the file should have been."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {file}, which should be {what}", todo=todo) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}, which should be {what}: {error}", todo=todo) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{file} is not JSON, and should be {what}: {error}", todo=todo) from error


def _numbers(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    types = COLUMNS.get(table, {})
    return {k: float(v) if types.get(k) == "float64" and isinstance(v, str) else v for k, v in row.items()}
