"""GG204."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import ignores_its_inputs, progress
from gradguard.rules.base import Rule

__all__ = ["ConstantOutput"]


@dataclass(frozen=True, kw_only=True)
class ConstantOutput(Rule):
    """All samples give nearly the same output.

    What it does:
        Compares the largest standard deviation of an output over samples, and over those of the same batch, with the mean
        magnitude, after the training run.
        It is an error where training does not work either, unless the spread has grown in the run: then the outputs have
        been close together from birth and part, which is no collapse.

    Why is this bad:
        The model ignores its input: it can at best guess the distribution of the labels.

    What to do:
        Look upstream: dead or identical units, a vanished gradient, a regulariser that outweighs the data, a collapsed
        representation in self-supervised training.

    When it is healthy:
        A head that starts at 0, before it has been trained.

    Options:
        spread: standard deviation over samples relative to the mean magnitude.

    References:
        Chen & He 2021, Exploring simple siamese representation learning (arXiv:2011.10566), section 4.1.
    """

    code: ClassVar[str] = "GG204"
    slug: ClassVar[str] = "constant-output"
    needs: ClassVar[tuple[str, ...]] = ("passes", "training_run")

    spread: float = 1e-4

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        passes = the(evidence, Passes)
        outputs = passes.last.outputs
        if outputs is None:
            return Outcome(status="skipped", reason="no outputs were seen: declare outputs=, or return a tensor from the model")
        least = outputs.least_spread
        if outputs.samples < 8 or not least < self.spread:
            return self.outcome([], margin=self.spread / least if least else None)
        if outputs.label_std == 0:
            return self.outcome([], reason="the labels are constant too")
        consequence = progress(evidence)
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
