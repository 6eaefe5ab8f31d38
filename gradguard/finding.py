"""What a rule says: findings, the outcome of a rule on a scenario, and what makes a finding the same one again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = ["Check", "Finding", "Outcome", "Request", "Severity", "Status", "Table"]

Severity = Literal["error", "warning", "info"]
Status = Literal["passed", "failed", "inconclusive", "skipped"]
Table = list[dict[str, Any]]
"""Rows of one of the report's tables, before they become a DataFrame."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One bug, named by a rule; the fields are the columns of the table ``findings``.

    ``observed`` and ``limit`` are the two numbers that were compared, ``count`` of ``total`` how much of the block (or
    layer, or run) is concerned. ``message`` is one line; ``evidence``, ``likely`` and ``hint`` are one line each or
    empty. ``repeat`` is the command that shows it again. ``caused_by`` is the fingerprint of the root finding.
    """

    code: str
    rule: str
    severity: Severity
    message: str
    scenario: str = ""
    block: str = ""
    location: str = ""
    module: str = ""
    step: int | None = None
    observed: float | None = None
    limit: float | None = None
    count: int | None = None
    total: int | None = None
    pattern: str = ""
    evidence: str = ""
    likely: str = ""
    hint: str = ""
    repeat: str = ""
    caused_by: str = ""

    @property
    def fingerprint(self) -> str:
        """A digest of scenario, block, module and rule; never of a measured value, so that it survives a rerun."""
        where = self.block or self.module
        return hashlib.sha256(f"{self.scenario}\0{where}\0{self.code}".encode()).hexdigest()[:16]

    @property
    def headline(self) -> str:
        """The first line of the finding."""
        return f"{self.code} {self.rule}  {self.message}"

    def row(self) -> dict[str, Any]:
        """The finding as a row of the table ``findings``."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        row["fingerprint"] = self.fingerprint
        return row


@dataclass(frozen=True, kw_only=True)
class Request:
    """A further measurement that a rule asks for, once, before it decides: its name, and what it is about."""

    measurement: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rule concluded from the measurements that it needs.

    ``margin`` is how far the worst observation was from the limit: observed / limit, below 1 where it passed.
    """

    status: Status
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    margin: float | None = None
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule on one scenario: the columns of the table ``checks``."""

    scenario: str
    code: str
    rule: str
    status: Status
    reason: str = ""
    margin: float | None = None

    def row(self) -> dict[str, Any]:
        """The check as a row of the table ``checks``."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
