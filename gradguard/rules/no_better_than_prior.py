"""GG406."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.progress import progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["NoBetterThanPrior"]


@dataclass(frozen=True, kw_only=True)
class NoBetterThanPrior(Rule):
    """After training, no better than guessing the distribution of the labels.

    What it does:
        Compares the loss of the predictions alone (without penalties) with that of the best constant guess: the entropy of
        the labels, or their variance. It is an error only where a longer run has stopped making progress although the
        weights moved: training has ended, and nothing was learned.

    Why is this bad:
        The model has learned the average of the labels and nothing of the inputs.

    What to do:
        Check that labels belong to their inputs; lower penalties and weight decay that outweigh the data; look at the
        other findings for a gradient that does not arrive.

    When it is healthy:
        Early in training, with a small rate, and on labels that are random.

    Options:
        movement: median over blocks of ||w_T - w_0|| / ||w_0|| below which training has not really begun.

    References:
        Karpathy 2019, A recipe for training neural networks ("verify loss at init", "input-independent baseline").
    """

    code: ClassVar[str] = "GG406"
    slug: ClassVar[str] = "no-better-than-prior"
    needs: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    movement: float = 2e-3

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        run, longer = the(evidence, TrainingRun), the(evidence, LongRun)
        consequence = progress(evidence)
        if consequence.worse:
            ascent = self.finding(
                f"the loss falls while the predictions get worse: {consequence.data_loss:.4g}, "
                f"guessing gives {consequence.prior:.4g}",
                observed=consequence.data_loss,
                limit=consequence.prior,
                step=consequence.steps,
                pattern="ascent",
                evidence=consequence.text,
                likely="the loss with the wrong sign, or a term that outweighs it",
                hint="minimise the loss itself",
            )
            return self.outcome([ascent])
        if consequence.verdict == "works":
            return self.outcome([], margin=None)
        if np.isnan(consequence.prior):
            return Outcome(status="skipped", reason="labels are not known: the loss saves none, and labels= is not declared")
        if run.trace.stopped:
            return Outcome(status="skipped", reason=run.trace.stopped)
        if longer is None:
            if len(run.trace.steps) < 20:
                return Outcome(status="skipped", reason="fewer than 20 steps say nothing about the end of training")
            if consequence.fall > 0.02 and consequence.data_loss < consequence.prior:  # early, and on its way
                return Outcome(status="passed", reason=f"not yet better than guessing, but falling: {consequence.text}")
            return Outcome(
                status="passed",
                reason=f"not yet better than guessing: {consequence.text}",
                requests=consequence.requests or (),
            )
        moved = longer.trace.movement
        median = float(np.nanmedian(moved)) if moved is not None and np.isfinite(moved).any() else 0.0
        if not (consequence.plateau and median >= self.movement and consequence.verdict == "fails"):
            return Outcome(status="passed", reason=f"not better than guessing, but still moving: {consequence.text}")
        finding = self.finding(
            f"no better than guessing: loss {consequence.data_loss:.4g}, "
            f"guessing the labels' distribution gives {consequence.prior:.4g}",
            observed=consequence.data_loss,
            limit=consequence.prior,
            step=consequence.steps,
            evidence=f"{consequence.text}; no progress in the second half, although the weights moved by {100 * median:.0f} %",
            likely="labels that do not belong to their inputs, or a penalty or weight decay that outweighs the data",
            hint="check a few pairs of input and label by hand; lower the penalty",
        )
        return self.outcome([finding])
