"""A measurement, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.finding import Table

__all__ = ["Evidence", "Measure", "Measurement", "Unavailable"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was observed. ``path`` says how (which of several ways ran), ``reason`` why not another way."""

    name: ClassVar[str] = ""
    seconds: float = 0.0
    forwards: float = 0.0
    backwards: float = 0.0
    peak_bytes: int = 0
    path: str = ""
    reason: str = ""

    def tables(self) -> dict[str, Table]:
        """Rows for the report's tables, by table name, without the column ``scenario``."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Unavailable(Measurement):
    """A measurement that could not be made; ``reason`` says why. Rules that need it are skipped with that reason."""

    wanted: str


Evidence = Mapping[str, Measurement]
"""Measurements by name."""

Measure = Callable[[Problem, Settings, Evidence, tuple[str, ...]], Measurement]
"""``measure(problem, settings, evidence so far, what a rule asked about)``."""


def the(evidence: Evidence, kind: type[Any]) -> Any:
    """The measurement of that class, or None where it is missing or unavailable."""
    found = evidence.get(kind.name)
    return found if isinstance(found, kind) else None
