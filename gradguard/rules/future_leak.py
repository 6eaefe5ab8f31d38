"""GG306."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.leaks import LeakTrial
from gradguard.rules.base import Rule

__all__ = ["FutureLeak"]


@dataclass(frozen=True, kw_only=True)
class FutureLeak(Rule):
    """A causal model's output depends on later positions.

    What it does:
        Where the scenario declares causal=True: changes the later half of the positions (the input's second axis) and
        compares the outputs at the earlier ones, in eval mode.

    Why is this bad:
        The model is trained to copy what it will not see when it is used.

    What to do:
        Look at the named module for a missing or transposed mask, a convolution padded on both sides, or statistics
        taken over positions.

    When it is healthy:
        Encoders, bidirectional models, inputs whose first axis is time: do not declare causal.

    Options:
        change: largest relative change of the earlier outputs.

    References:
        Karpathy 2019, A recipe for training neural networks ("use backprop to chart dependencies").
    """

    code: ClassVar[str] = "GG306"
    slug: ClassVar[str] = "future-leak"
    needs: ClassVar[tuple[str, ...]] = ("leaks",)

    change: float = 1e-4

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        leaks = the(evidence, LeakTrial).leaks
        if leaks.future is None:
            return Outcome(status="skipped", reason=leaks.reason or "causal is not declared")
        if leaks.future <= self.change:
            if leaks.future_own == 0:
                return Outcome(status="inconclusive", reason="changing later positions did not change their own outputs")
            return self.outcome([], margin=leaks.future / self.change)
        finding = self.finding(
            f"changing later positions changes the outputs at earlier ones by {leaks.future:.2g} of their largest",
            module=leaks.module_future,
            observed=leaks.future,
            limit=self.change,
            evidence=f"first module whose earlier positions change: {leaks.module_future or 'the model'}; in eval mode",
            likely="a missing or transposed causal mask, or padding on both sides",
            hint="mask later positions, pad on the left only; or do not declare causal",
        )
        return self.outcome([finding], margin=leaks.future / self.change)
