"""GG902."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, Unavailable, the
from gradguard.measurements.block_results import Gradients
from gradguard.rules.base import Rule

__all__ = ["VacuousCheck"]


@dataclass(frozen=True, kw_only=True)
class VacuousCheck(Rule):
    """A check that compared nothing.

    What it does:
        Counts the blocks about which something was found out.

    Why is this bad:
        A test that compares nothing is green for ever.

    What to do:
        Let parameters or inputs require a gradient, name them with ``wrt``, or choose inputs at which steps can be taken.

    When it is healthy:
        Never.

    Options:
        None.
    """

    code: ClassVar[str] = "GG902"
    slug: ClassVar[str] = "vacuous-check"
    optional: ClassVar[tuple[str, ...]] = ("gradients",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding where no block was compared."""
        measured = evidence.get(Gradients.name)
        if measured is None:
            return Outcome(status="skipped", reason="no gradient was asked for")
        if isinstance(measured, Unavailable):
            hint = "make the value the same in every call, and the function one that has a gradient"
            return self.outcome([self.finding(f"nothing was compared: {measured.reason}", count=0, hint=hint)])
        gradients = the(evidence, Gradients)
        empty = bool(gradients.results) and all(r.verdict in ("empty", "excluded") for r in gradients.results)
        if gradients.compared or empty:
            return Outcome(status="passed")
        reasons = list(dict.fromkeys(r.reason for r in gradients.results if r.reason))
        if not gradients.results:
            message = "nothing was compared: no parameter and no input requires a gradient"
            hint = "let inputs require a gradient, or name blocks with wrt="
        else:
            message = f"nothing was compared: all of its blocks ({len(gradients.results)}) are empty or inconclusive"
            hint = "check it at another point or on another scale, or other blocks with wrt="
        finding = self.finding(
            message, evidence="; ".join(reasons[:3]), count=0, total=len(gradients.results),
            hint=hint,
        )
        return self.outcome([finding])
