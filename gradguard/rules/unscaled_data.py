"""GG502."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import progress
from gradguard.rules.base import Rule

__all__ = ["UnscaledData"]


@dataclass(frozen=True, kw_only=True)
class UnscaledData(Rule):
    """Inputs or labels on a scale that this initialisation and rate cannot take.

    What it does:
        Compares the RMS of the inputs with 1 (where no normalisation comes first), and that of regression labels with
        the outputs at the start. A scale beyond the limit is an error only where training does not work.

    Why is this bad:
        Inputs of scale s multiply the curvature by s^2: the rate that held for standardised data diverges, or the first
        layer saturates. Labels of scale s must be reached by weights that move by the rate per step.

    What to do:
        Standardise inputs and labels with the mean and standard deviation of the training set, or normalise first.

    When it is healthy:
        Raw pixels into a batch normalisation; any scale with which training works.

    Options:
        inputs: largest RMS of the inputs.
        labels: largest RMS of the labels, relative to the outputs at the start and to 1.

    References:
        LeCun et al. 1998, Efficient backprop, section 4.3.
    """

    code: ClassVar[str] = "GG502"
    slug: ClassVar[str] = "unscaled-data"
    needs: ClassVar[tuple[str, ...]] = ("passes", "training_run")

    inputs: float = 10.0
    labels: float = 30.0

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        passes = the(evidence, Passes)
        consequence = progress(evidence)
        seen, outputs = passes.start.inputs, passes.start.outputs
        parts = []
        if seen is not None and not seen.normalised and seen.rms > self.inputs:
            parts.append(
                f"inputs of RMS {seen.rms:.3g} ({seen.low:.3g} to {seen.high:.3g}) "
                f"go into {seen.first_module or 'the model'} ({seen.first_owner})"
            )
        observed = seen.rms if parts and seen is not None else math.nan
        if (
            outputs is not None
            and outputs.kind in ("mse", "absolute")
            and outputs.label_rms > self.labels * max(1.0, outputs.rms)
        ):
            parts.append(f"labels of RMS {outputs.label_rms:.3g} against outputs of RMS {outputs.rms:.3g}")
            observed = observed if math.isfinite(observed) else outputs.label_rms
        if not parts:
            return self.outcome([])
        finding = self.finding(
            "; ".join(parts),
            severity="error" if consequence.verdict == "fails" else "info",
            observed=observed,
            limit=self.inputs if "inputs" in parts[0] else self.labels,
            module=seen.first_module if seen is not None else "",
            evidence=consequence.text,
            likely="data that was not standardised",
            hint="standardise with the training set's mean and standard deviation",
        )
        return self.outcome([finding], requests=consequence.requests)
