"""What a rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.finding import Finding, Outcome, Severity
from gradguard.measurements.base import Evidence, Unavailable

__all__ = ["Rule"]


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A pure function from measurements to findings; its fields are its options, validated when it is built.

    The class docstring is the rule's page: the first line says what is bad, then the sections *What it does*, *Why is
    this bad*, *What to do*, *When it is healthy*, *Options*, *References*.

    ``needs`` names the measurements without which the rule is skipped; ``optional`` those that it uses where they are.
    """

    code: ClassVar[str]
    slug: ClassVar[str]
    severity: ClassVar[Severity] = "error"
    needs: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()

    def check(self, evidence: Evidence) -> Outcome:
        """What the rule concludes; skipped, with the reason, where a measurement that it needs could not be made."""
        for name in self.needs:
            found = evidence.get(name)
            if found is None:
                return Outcome(status="skipped", reason=f"no measurement {name!r}")
            if isinstance(found, Unavailable):
                return Outcome(status="skipped", reason=found.reason)
        return self.judge(evidence)

    @abstractmethod
    def judge(self, evidence: Evidence) -> Outcome:
        """What the rule concludes; every measurement in ``needs`` is there."""

    def finding(self, message: str, *, severity: Severity | None = None, **columns: Any) -> Finding:
        """A finding of this rule, with its default severity."""
        return Finding(code=self.code, rule=self.slug, severity=severity or self.severity, message=message, **columns)

    def outcome(self, findings: list[Finding] | tuple[Finding, ...], **columns: Any) -> Outcome:
        """``failed`` where one of the findings is an error, else ``passed``."""
        found = tuple(findings)
        failed = any(f.severity == "error" for f in found)
        return Outcome(status="failed" if failed else "passed", findings=found, **columns)
