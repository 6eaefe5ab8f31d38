"""A report: findings, checks, and the tables of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradguard.errors import GradGuardError
from gradguard.finding import Check, Finding, Severity, Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "SCHEMA_VERSION", "Report", "merge"]

SCHEMA_VERSION = 1

TEXT = "string"
NUMBER = "float64"
COUNT = "Int64"
TRUTH = "boolean"

COLUMNS: dict[str, dict[str, str]] = {
    "findings": {
        "scenario": TEXT, "code": TEXT, "rule": TEXT, "severity": TEXT, "block": TEXT, "location": TEXT, "module": TEXT,
        "step": COUNT, "observed": NUMBER, "limit": NUMBER, "count": COUNT, "total": COUNT, "pattern": TEXT, "message": TEXT,
        "evidence": TEXT, "likely": TEXT, "hint": TEXT, "repeat": TEXT, "caused_by": TEXT, "fingerprint": TEXT,
    },
    "checks": {"scenario": TEXT, "code": TEXT, "rule": TEXT, "status": TEXT, "reason": TEXT, "margin": NUMBER},
    "measurements": {
        "scenario": TEXT, "measurement": TEXT, "seconds": NUMBER, "forwards": NUMBER, "backwards": NUMBER,
        "peak_bytes": COUNT, "path": TEXT, "reason": TEXT,
    },
    "gradients": {
        "scenario": TEXT, "block": TEXT, "shape": TEXT, "dtype": TEXT, "analytical": NUMBER, "numerical": NUMBER,
        "error_bar": NUMBER, "z": NUMBER, "relative_error": NUMBER, "resolution": NUMBER, "ratio": NUMBER,
        "order_observed": NUMBER, "kink": TRUTH, "verdict": TEXT, "forwards": NUMBER, "path": TEXT, "reason": TEXT,
    },
    "units": {
        "scenario": TEXT, "step": COUNT, "layer": TEXT, "kind": TEXT, "units": COUNT, "samples": COUNT, "dead": NUMBER,
        "dormant": NUMBER, "saturated": NUMBER, "zero_fraction": NUMBER, "rms": NUMBER,
    },
    "flow": {
        "scenario": TEXT, "step": COUNT, "block": TEXT, "layer": TEXT, "depth": COUNT, "grad_rms": NUMBER,
        "weight_rms": NUMBER, "update_ratio": NUMBER, "growth": NUMBER,
    },
    "curve": {
        "scenario": TEXT, "step": COUNT, "lr": NUMBER, "loss": NUMBER, "grad_norm": NUMBER, "sharpness": NUMBER,
        "nonfinite": COUNT,
    },
    "learning_rate": {
        "scenario": TEXT, "group": COUNT, "lr": NUMBER, "optimizer": TEXT, "lambda_max": NUMBER, "lambda_min": NUMBER,
        "error_bar": NUMBER, "curvature_limit": NUMBER, "first_step_limit": NUMBER, "training_limit": NUMBER,
        "training_low": NUMBER, "training_high": NUMBER, "evaluations": COUNT,
    },
    "rates": {
        "scenario": TEXT, "lr": NUMBER, "batch": COUNT, "seed": COUNT, "loss_before": NUMBER, "loss_after": NUMBER,
        "verdict": TEXT,
    },
    "entries": {
        "scenario": TEXT, "block": TEXT, "index": TEXT, "analytical": NUMBER, "numerical": NUMBER, "error_bar": NUMBER,
    },
    "runs": {
        "gradguard": TEXT, "python": TEXT, "numpy": TEXT, "torch": TEXT, "device": TEXT, "dtype": TEXT, "seed": COUNT,
        "threads": COUNT, "time": TEXT, "commit": TEXT,
    },
}
"""Fixed column order and dtype of every table; ``pd.concat`` of two runs just works."""

RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


class Report:
    """What the checks found. Everything is plain data; DataFrames are made when they are asked for.

    Attributes:
        findings: the findings, roots first, errors before warnings.
        checks: one :class:`~gradguard.finding.Check` per rule and scenario, skipped ones with their reason.
    """

    def __init__(
        self,
        findings: Iterable[Finding] = (),
        checks: Iterable[Check] = (),
        tables: Mapping[str, Table] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        self.checks: tuple[Check, ...] = tuple(checks)
        self.rows: dict[str, Table] = {name: list(rows) for name, rows in (tables or {}).items()}
        self.strict = strict

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def inconclusive(self) -> tuple[Check, ...]:
        """The checks that could not decide."""
        return tuple(c for c in self.checks if c.status == "inconclusive")

    @property
    def ok(self) -> bool:
        """No finding of severity ``error`` (and, when strict, nothing inconclusive)."""
        return not self.errors and not (self.strict and self.inconclusive)

    def table_rows(self, name: str) -> Table:
        """The rows of one table, as dicts."""
        if name == "findings":
            return [f.row() for f in self.findings]
        if name == "checks":
            return [c.row() for c in self.checks]
        return self.rows.get(name, [])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table as a DataFrame, with fixed columns and dtypes; ``attrs['schema_version']`` is set."""
        return {name: frame(name, self.table_rows(name)) for name in COLUMNS}

    def to_frame(self) -> pd.DataFrame:
        """The findings as a DataFrame."""
        return frame("findings", self.table_rows("findings"))

    def raise_if_failed(self) -> None:
        """Raise what failed, with its evidence.

        Raises:
            GradGuardError: a finding is an error. The first line of the message is the first finding's.
        """
        __tracebackhide__ = True
        if not self.ok:
            raise GradGuardError(self.failure_text())

    def failure_text(self) -> str:
        """The text of what failed: each root with its evidence, what it caused in one line each."""
        from gradguard.rendering.text import render_failures

        return render_failures(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able data; NaN and infinities become the texts ``nan``, ``inf``, ``-inf``."""
        names = [name for name in COLUMNS if self.table_rows(name)]
        return {
            "schema_version": SCHEMA_VERSION,
            "ok": self.ok,
            "tables": {name: [plain(row) for row in self.table_rows(name)] for name in names},
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json`` and one CSV file per table that has rows into a folder; returns the folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        for name, table in self.tables.items():
            if len(table):
                table.to_csv(target / f"{name}.csv", index=False)
        return target

    def __str__(self) -> str:
        from gradguard.rendering.text import render_report

        return render_report(self)

    def __repr__(self) -> str:
        errors = len(self.errors)
        return f"<Report: {'ok' if self.ok else 'failed'}, {len(self.checks)} checks, {errors} error{'s' * (errors != 1)}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def merge(reports: Iterable[Report]) -> Report:
    """One report of several scenarios; the tables are concatenated, ``runs`` keeps its distinct rows."""
    findings: list[Finding] = []
    checks: list[Check] = []
    rows: dict[str, Table] = {}
    strict = False
    for report in reports:
        findings.extend(report.findings)
        checks.extend(report.checks)
        strict = strict or report.strict
        for name, table in report.rows.items():
            target = rows.setdefault(name, [])
            target.extend(row for row in table if name != "runs" or row not in target)
    return Report(findings, checks, rows, strict=strict)


def frame(name: str, rows: Table) -> pd.DataFrame:
    """Rows as the DataFrame of that table: its columns, in its order, with its dtypes."""
    import pandas as pd

    columns = COLUMNS[name]
    for row in rows:
        unknown = set(row) - set(columns)
        if unknown:
            raise KeyError(f"table {name!r} has no column {', '.join(sorted(unknown))}")
    data = {column: pd.Series([row.get(column) for row in rows], dtype=dtype) for column, dtype in columns.items()}
    table = pd.DataFrame(data, columns=list(columns))
    table.attrs["schema_version"] = SCHEMA_VERSION
    return table


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON-able values."""
    return {key: plain_value(value) for key, value in row.items()}


def plain_value(value: Any) -> Any:
    """A Python scalar that JSON can hold."""
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
