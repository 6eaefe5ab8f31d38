"""GG305."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.leaks import LeakTrial
from gradguard.rules.base import Rule

__all__ = ["SampleLeak"]


@dataclass(frozen=True, kw_only=True)
class SampleLeak(Rule):
    """One sample's output depends on another sample of the batch.

    What it does:
        Where the scenario declares independent_samples=True: changes one sample (the first axis of the input) and compares
        the outputs of the others, in eval mode (batch statistics frozen). A model that draws more or fewer random values for
        another input is asked about smaller changes that leave the draws as they were.

    Why is this bad:
        Predictions change with what happens to be in the batch; information of other samples leaks into the loss.

    What to do:
        Look at the named module for a softmax, mean or reshape over the batch axis.

    When it is healthy:
        Batch normalisation in training mode, contrastive losses, set models, inputs whose first axis is time: do not
        declare it.

    Options:
        change: largest relative change of the other outputs.

    References:
        Karpathy 2019, A recipe for training neural networks ("use backprop to chart dependencies").
    """

    code: ClassVar[str] = "GG305"
    slug: ClassVar[str] = "sample-leak"
    needs: ClassVar[tuple[str, ...]] = ("leaks",)

    change: float = 1e-4

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        leaks = the(evidence, LeakTrial).leaks
        if leaks.sample is None:
            return Outcome(status="skipped", reason=leaks.reason or "independent_samples is not declared")
        if leaks.sample <= self.change:
            if leaks.sample_own == 0:
                return Outcome(status="inconclusive", reason="changing a sample did not change its own output")
            return self.outcome([], margin=leaks.sample / self.change)
        finding = self.finding(
            f"changing one sample changes the outputs of others by {leaks.sample:.2g} of their largest",
            module=leaks.module_sample,
            observed=leaks.sample,
            limit=self.change,
            evidence=f"first module whose other rows change: {leaks.module_sample or 'the model'}; in eval mode",
            likely="a softmax, mean, normalisation or reshape over the batch axis",
            hint="keep the batch axis apart; or do not declare independent_samples",
        )
        return self.outcome([finding], margin=leaks.sample / self.change)
