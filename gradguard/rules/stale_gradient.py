"""GG304."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["StaleGradient"]


@dataclass(frozen=True, kw_only=True)
class StaleGradient(Rule):
    """Gradients accumulate over optimizer steps, because nothing clears them.

    What it does:
        In a watched loop, sees at each step of an optimizer whether its gradients still hold those of the step before.

    Why is this bad:
        Every step repeats all earlier gradients: the effective rate grows with the number of steps until training
        oscillates or diverges.

    What to do:
        Call optimizer.zero_grad() once between two steps, before the first backward.

    When it is healthy:
        Accumulation over several backward calls before one step; a discriminator whose gradients another loss fills, and
        that clears them before its own backward.

    Options:
        share: of the steps.

    References:
        PyTorch, Zeroing out gradients (recipe).
    """

    code: ClassVar[str] = "GG304"
    slug: ClassVar[str] = "stale-gradient"
    needs: ClassVar[tuple[str, ...]] = ("training_run",)

    share: float = 0.5

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        run = the(evidence, TrainingRun)
        if run.stale is None:
            return Outcome(
                status="skipped",
                reason=(
                    "fewer than five steps were seen"
                    if run.source == "watch"
                    else "the copy's gradients are cleared by the check itself; gg.watch sees your own loop"
                ),
            )
        if run.stale <= self.share:
            return self.outcome([], margin=run.stale / self.share)
        finding = self.finding(
            f"gradients are not cleared: {100 * run.stale:.0f} % of the steps still held the gradient of the step before",
            observed=run.stale,
            limit=self.share,
            evidence=f"{len(run.trace.steps)} steps seen",
            likely="zero_grad() is missing",
            hint="call optimizer.zero_grad() once between two steps",
        )
        return self.outcome([finding], margin=run.stale / self.share)
