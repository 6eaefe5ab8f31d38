"""GG103."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import Gradients
from gradguard.measurements.kinks import KinkEntry, Kinks
from gradguard.rules.base import Rule

__all__ = ["NondifferentiablePoint"]


@dataclass(frozen=True, kw_only=True)
class NondifferentiablePoint(Rule):
    """The point is a kink; a gradient outside of the one-sided slopes is an error.

    What it does:
        Where the gradient differs from the slopes at the point but is right nearby, compares every entry with the
        gradients nearby and with its one-sided slopes.

    Why is this bad:
        A value that no point nearby has is not a subgradient: relu(x) - relu(-x) at 0 has slope 1 from both sides, and
        gradient 0.

    What to do:
        Write the operation so that its value at the kink is one of the limits, or move the inputs off it.

    When it is healthy:
        Inside the interval (relu or abs at 0, ties of a maximum): an info, not an error.

    Options:
        None.

    References:
        W. Lee, H. Yu, X. Rival, H. Yang, "On correctness of automatic differentiation for non-differentiable functions",
        NeurIPS 2020.
    """

    code: ClassVar[str] = "GG103"
    slug: ClassVar[str] = "nondifferentiable-point"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One error per block with an entry outside; one info where the point is a kink and all is inside."""
        gradients = the(evidence, Gradients)
        if gradients.at_point:
            return Outcome(status="passed")
        kinks = the(evidence, Kinks)
        if kinks is None:
            return Outcome(status="passed", requests=(Request(measurement="kinks"),))
        wrong = [e for e in kinks.wrong if e.kink]
        blocks = list(dict.fromkeys(e.block.name for e in wrong))
        findings = [self._of([e for e in wrong if e.block.name == name]) for name in blocks]
        if not kinks.wrong:
            findings.append(
                self.finding(
                    "the point is a kink; the gradient lies between the one-sided slopes", severity="info",
                    evidence=f"{kinks.suspects} entries differ from all points nearby, none from its own one-sided slopes",
                    hint="the blocks were compared at a point nearby",
                )
            )
        return self.outcome(findings)

    def _of(self, entries: list[KinkEntry]) -> Finding:
        worst = entries[0]
        return self.finding(
            f"{worst.name}: analytical {worst.analytical:.6g}, one-sided slopes {worst.left:.6g} and {worst.right:.6g}",
            block=worst.block.name, module=worst.block.module or "", count=len(entries), total=worst.block.size,
            location=f"block {worst.block.name}, at a kink", pattern="only at a kink; a point nearby is right",
            likely="a special value at zeros, ties or a threshold",
        )
