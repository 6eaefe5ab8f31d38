"""GG901."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Finding, Outcome, Severity
from gradguard.measurements.base import Evidence
from gradguard.rules.base import Rule
from gradguard.scenarios import Ignore

__all__ = ["UnusedIgnore"]


@dataclass(frozen=True, kw_only=True)
class UnusedIgnore(Rule):
    """An ignore that matched nothing.

    What it does:
        Compares the ignores of a scenario with the findings that they accepted.

    Why is this bad:
        A stale ignore hides the next finding in the same place, which nobody has accepted.

    What to do:
        Remove it, or correct its block glob.

    When it is healthy:
        Never; it is a warning, so that a fixed bug does not break the build.
    """

    code: ClassVar[str] = "GG901"
    slug: ClassVar[str] = "unused-ignore"
    severity: ClassVar[Severity] = "warning"

    def judge(self, evidence: Evidence) -> Outcome:
        """Passed; the findings are made where the ignores are applied."""
        return Outcome(status="passed")

    @classmethod
    def stale(cls, ignore: Ignore) -> Finding:
        """The finding for one ignore that accepted nothing."""
        return Finding(
            code=cls.code, rule=cls.slug, severity=cls.severity, block=ignore.block,
            message=f"the ignore {ignore.rule}:{ignore.block} matched nothing",
            evidence=f"its reason was: {ignore.reason}",
            hint="remove the ignore, or correct its block glob",
        )
