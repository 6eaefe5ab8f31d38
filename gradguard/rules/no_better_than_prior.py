"""GG406."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.observing_base import OutputFacts
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import ENOUGH, LEAST_PROGRESS, LONGER, ONLY_CONSTANT, Progress, progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["NoBetterThanPrior"]


@dataclass(frozen=True, kw_only=True)
class NoBetterThanPrior(Rule):
    """After training, no better than guessing the distribution of the labels.

    What it does:
        Compares the loss of the predictions alone (without penalties) with that of the best constant guess: the entropy of
        the labels, or their variance. It is an error only where a longer run has stopped making progress although the
        weights moved: training has ended, and nothing was learned. A watched loop is asked the same from its 200th step
        on, by the losses that were recorded: noise that could hide progress keeps it silent, and so do predictions that are
        better than the guess by a hundredth, or worse by as much but better than they were at first. Labels of a classification
        that are all the same are an error at once: guessing that class is all that there is to learn. So is a total that is
        nothing but the loss of the predictions with a factor below 0.

    Why is this bad:
        The model has learned the average of the labels and nothing of the inputs.

    What to do:
        Check that labels belong to their inputs; lower penalties and weight decay that outweigh the data; look at the
        other findings for a gradient that does not arrive.

    When it is healthy:
        Early in training, with a small rate, on labels that are random, and where a constant is all that the model can be:
        it has no more weights than one output has numbers, and has come to the guess.

    Options:
        movement: median over blocks of ||w_T - w_0|| / ||w_0|| below which training has not really begun.
        samples: labels of a classification that are all the same class, from this many on.
        rare: the same, where all of two classes' labels are 0: the other may be rare.

    References:
        Karpathy 2019, A recipe for training neural networks ("verify loss at init", "input-independent baseline").
    """

    code: ClassVar[str] = "GG406"
    slug: ClassVar[str] = "no-better-than-prior"
    needs: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    movement: float = 2e-3
    samples: int = 64
    rare: int = 256

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        run, longer, passes = the(evidence, TrainingRun), the(evidence, LongRun), the(evidence, Passes)
        consequence = progress(evidence)
        outputs = passes.start.outputs
        if outputs is not None and outputs.constant_label is not None and run.objective == "supervised":
            found = self._constant(outputs)
            if found is not None:
                return self.outcome([found])
        if outputs is not None and outputs.negated and self._descends(run, passes):
            return self.outcome([self._negated(outputs, consequence)])
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
        watched = run.source == "watch"
        if longer is None and not (watched and consequence.final):
            if len(run.trace.steps) < 20:
                return Outcome(status="skipped", reason="fewer than 20 steps say nothing about the end of training")
            began = outputs.data_loss if outputs is not None else np.nan
            fallen = (began - consequence.data_loss) / abs(began) if np.isfinite(began) and began else consequence.fall
            early = len(run.trace.steps) < ENOUGH
            # on its way: down to the guess alone it also comes where there is nothing to learn
            if early and min(fallen, consequence.fall) > 0.02 and not consequence.guesses:
                return Outcome(status="passed", reason=f"not yet better than guessing, but falling: {consequence.text}")
            return Outcome(
                status="passed",
                reason=f"not yet better than guessing: {consequence.text}",
                requests=() if watched else (LONGER,),
            )
        if longer is None and not consequence.guesses:
            return Outcome(status="passed", reason=f"hardly better than guessing, but better: {consequence.text}")
        if longer is None and consequence.nearing:
            return Outcome(status="passed", reason=f"not better than guessing, but nearer than at first: {consequence.text}")
        moved = longer.trace.movement if longer is not None else run.trace.movement
        median = float(np.nanmedian(moved)) if moved is not None and np.isfinite(moved).any() else 0.0
        if not (consequence.plateau and median >= self.movement and consequence.verdict == "fails"):
            return Outcome(status="passed", reason=f"not better than guessing, but still moving: {consequence.text}")
        if consequence.only_constant:
            return Outcome(status="passed", reason=f"{ONLY_CONSTANT}: {consequence.text}")
        finding = self.finding(
            f"no better than guessing: loss {consequence.data_loss:.4g}, "
            f"guessing the labels' distribution gives {consequence.prior:.4g}",
            observed=consequence.data_loss,
            limit=consequence.prior,
            step=consequence.steps,
            pattern="same input" if consequence.same_inputs else "",
            evidence=f"{consequence.text}; no progress in the second half, although the weights moved by {100 * median:.3g} %",
            likely="an input that was lost on its way: blank, overwritten, or replaced by a constant"
            if consequence.same_inputs
            else "labels that do not belong to their inputs, or a penalty or weight decay that outweighs the data",
            hint="look at what the model is given"
            if consequence.same_inputs
            else "check a few pairs of input and label by hand; lower the penalty",
        )
        return self.outcome([finding])

    @staticmethod
    def _descends(run: TrainingRun, passes: Passes) -> bool:
        """The predictions do not get better, and nothing is held fixed.

        An optimizer of the user's may climb; an input that is learnt against a fixed classifier (an attack) climbs on purpose.
        """
        trained = run.source == "copy" and all(p.trainable and p.group is not None for p in run.parameters)
        first, last = passes.start.outputs, passes.end.outputs if passes.end is not None else None
        better = first is not None and last is not None and last.data_loss < (1 - LEAST_PROGRESS) * first.data_loss
        return trained and run.objective == "supervised" and not better

    def _negated(self, outputs: OutputFacts, consequence: Progress) -> Finding:
        name = outputs.kind.replace("_", "-")
        return self.finding(
            f"what is minimised is the {name} of the predictions times a number below 0: they are driven from their labels",
            observed=outputs.data_loss,
            limit=consequence.prior,
            step=consequence.steps,
            pattern="ascent",
            evidence=f"the derivative of the total with respect to the {name} is below 0, and nothing else is minimised; "
            f"{consequence.text}",
            likely="the loss with the wrong sign, or maximize=True",
            hint="minimise the loss itself; objective= where climbing is meant",
        )

    def _constant(self, outputs: OutputFacts) -> Finding | None:
        two = outputs.kind == "bce" or outputs.width == 2
        enough = self.rare if two and outputs.constant_label == 0 else self.samples
        if outputs.samples < enough or outputs.constant_label is None:
            return None
        return self.finding(
            f"all labels of {outputs.samples} samples are {outputs.constant_label:g}: nothing of the inputs can be learned",
            observed=0.0,
            total=outputs.samples,
            pattern="constant labels",
            evidence="guessing that class gives a loss of 0",
            likely="labels that were lost or overwritten, or data sorted by class and not shuffled",
            hint="look at the labels; shuffle the data (objective= where a constant label is meant, as in a GAN)",
        )
