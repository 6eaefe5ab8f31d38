"""GG307."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.progress import progress
from gradguard.measurements.underflow import Underflow
from gradguard.rules.base import Rule

__all__ = ["GradientUnderflow"]


@dataclass(frozen=True, kw_only=True)
class GradientUnderflow(Rule):
    """Low-precision gradients are flushed to zero.

    What it does:
        Where something in the pass is float16 or bfloat16: takes the gradient of the loss, and of the loss times 1024, and
        counts the entries that are exactly 0 in the first only.

    Why is this bad:
        float16 holds nothing below 6e-8; gradients below it are lost, and those parts of the model do not train.

    What to do:
        Scale the loss (torch.amp.GradScaler), or use bfloat16.

    When it is healthy:
        A small share of tiny entries.

    Options:
        lost: share of a block's entries that is an error.
        warn: share that is a warning, and an error where training does not work.

    References:
        Micikevicius et al. 2018, Mixed precision training, section 3.2.
    """

    code: ClassVar[str] = "GG307"
    slug: ClassVar[str] = "gradient-underflow"
    needs: ClassVar[tuple[str, ...]] = ("underflow",)
    optional: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    lost: float = 0.5
    warn: float = 0.1

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding: the worst block, the others counted."""
        lost = the(evidence, Underflow).lost
        bad = sorted(((share, name) for name, share in lost.items() if share >= self.warn), reverse=True)
        worst = max(lost.values(), default=0.0)
        if not bad:
            return self.outcome([], margin=worst / self.lost)
        share, name = bad[0]
        consequence = progress(evidence)
        failed = share >= self.lost or consequence.verdict == "fails"
        finding = self.finding(
            f"{name}: {100 * share:.0f} % of the gradient's entries are flushed to zero",
            severity="error" if failed else "warning",
            module=name.rpartition(".")[0],
            location=name,
            observed=share,
            limit=self.lost,
            count=len(bad),
            total=len(lost),
            evidence=f"they come back when the loss is multiplied by 1024 first; {consequence.text}",
            likely="float16 without loss scaling",
            hint="scale the loss with torch.amp.GradScaler, or use bfloat16",
        )
        return self.outcome([finding], margin=worst / self.lost, requests=() if failed else consequence.requests)
