"""GG204."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.observing_base import OutputFacts
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import ONLY_CONSTANT, ignores_its_inputs, progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["ConstantOutput"]

MOVED = 10.0
"""Labels of data have the same variance before and after; a target whose variance changed by this factor is an output, too."""
FELL = 0.99
"""The part of the loss that must be gone."""


@dataclass(frozen=True, kw_only=True)
class ConstantOutput(Rule):
    """All samples give nearly the same output.

    What it does:
        Compares the largest standard deviation of an output over samples, and over those of the same batch, with the mean
        magnitude, after the training run.
        It is an error where training does not work either, unless the spread has grown in the run: then the outputs have
        been close together from birth and part, which is no collapse. Where the loss compares outputs with each other (it
        saves no labels, or they are outputs too: their variance changed with the training), it works best when all are the
        same: an error where the spread fell to ``collapsed`` of what it was, while the loss fell by 99 %.

    Why is this bad:
        The model ignores its input: it can at best guess the distribution of the labels.

    What to do:
        Look upstream: dead or identical units, a vanished gradient, a regulariser that outweighs the data, a collapsed
        representation in self-supervised training (a term or a stopped gradient that keeps samples apart is missing).

    When it is healthy:
        A head that starts at 0, before it has been trained; a model that has no more weights than one output has numbers, and
        has come to the best constant.

    Options:
        spread: standard deviation over samples relative to the mean magnitude.
        collapsed: share of its start to which it must fall, as it is and relative to the mean magnitude, without labels.

    References:
        Chen & He 2021, Exploring simple siamese representation learning (arXiv:2011.10566), section 4.1.
    """

    code: ClassVar[str] = "GG204"
    slug: ClassVar[str] = "constant-output"
    needs: ClassVar[tuple[str, ...]] = ("passes", "training_run")

    spread: float = 1e-4
    collapsed: float = 0.03

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        passes = the(evidence, Passes)
        outputs = passes.last.outputs
        if outputs is None:
            return Outcome(status="skipped", reason="no outputs were seen: declare outputs=, or return a tensor from the model")
        collapse = self._collapse(evidence, passes.start.outputs, passes.end.outputs if passes.end is not None else None)
        if collapse is not None:
            return self.outcome([collapse])
        least = outputs.least_spread
        if outputs.samples < 8 or not least < self.spread:
            return self.outcome([], margin=self.spread / least if least else None)
        if outputs.label_std == 0:
            return self.outcome([], reason="the labels are constant too")
        consequence = progress(evidence)
        if consequence.only_constant:
            return Outcome(status="passed", reason=f"{ONLY_CONSTANT}: {consequence.text}")
        growing = not ignores_its_inputs(outputs, passes.start.outputs, self.spread)
        finding = self.finding(
            f"the output is the same for all {outputs.samples} samples"
            if outputs.spread < self.spread
            else f"the output is the same for all samples of a batch, and differs between batches ({outputs.samples} samples)",
            severity="error" if consequence.verdict == "fails" and not growing else "warning",
            observed=least,
            limit=self.spread,
            evidence=f"largest standard deviation over samples / mean magnitude = {least:.2g}; {consequence.text}",
            likely="dead or identical units, a gradient that does not arrive, or a regulariser that outweighs the data",
            hint="look at the other findings first; then lower the weight decay or the penalty in the loss",
        )
        return self.outcome([finding], requests=consequence.requests)

    def _collapse(self, evidence: Evidence, first: OutputFacts | None, last: OutputFacts | None) -> Finding | None:
        """Outputs that became the same because nothing but each other was their target."""
        run = the(evidence, TrainingRun)
        if first is None or last is None or min(first.samples, last.samples) < 8 or last.rewarded:
            return None
        moved = last.prior / first.prior if last.kind and first.prior > 0 else math.nan
        own_target = not last.kind or moved > MOVED or moved < 1 / MOVED
        if run is None or run.objective != "supervised" or not own_target:
            return None
        consequence = progress(evidence)
        relative = last.spread / first.spread if first.spread > 0 else math.inf
        absolute = relative * last.rms / first.rms if first.rms > 0 else math.inf
        if not (consequence.fall > FELL and max(relative, absolute) < self.collapsed):
            return None
        spreads = f"{first.spread:.2g} -> {last.spread:.2g}"
        return self.finding(
            f"the outputs of all {last.samples} samples became the same: their spread fell to {relative:.2g} of what it was",
            observed=last.spread,
            limit=self.collapsed * first.spread,
            pattern="collapse",
            evidence=f"standard deviation over samples / mean magnitude {spreads}; {consequence.text}",
            likely="a loss that only pulls outputs together: nothing holds different samples apart",
            hint="negatives, a variance term, or a predictor with a stopped gradient",
        )
