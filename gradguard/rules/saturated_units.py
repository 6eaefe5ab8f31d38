"""GG202."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.progress import progress
from gradguard.measurements.units import UnitStates
from gradguard.rules.base import Rule

__all__ = ["SaturatedUnits"]


@dataclass(frozen=True, kw_only=True)
class SaturatedUnits(Rule):
    """Sigmoid or tanh units held at their limits, in a net that does not learn.

    What it does:
        Counts units whose derivative is below 1e-7 for at least 95 % of all samples (tanh beyond about 9.5, sigmoid
        beyond about 16). A symptom: it is an error only where training does not work.

    Why is this bad:
        At its limit a unit passes no gradient, and a step that brought it there cannot bring it back.

    What to do:
        Standardise the inputs; Xavier initialisation; a normalisation before the activation; a lower learning rate.

    When it is healthy:
        Gates of recurrent and highway layers are open or closed by design, and trained classifiers are sure of
        themselves.

    Options:
        share: of a layer's units.

    References:
        Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """

    code: ClassVar[str] = "GG202"
    slug: ClassVar[str] = "saturated-units"
    needs: ClassVar[tuple[str, ...]] = ("units",)
    optional: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    share: float = 0.5

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for each layer."""
        states = the(evidence, UnitStates)
        consequence = progress(evidence)
        findings = []
        worst = 0.0
        for state in states.last:
            observed = state.saturated / state.units if state.units else 0.0
            worst = max(worst, observed)
            if observed < self.share or state.samples < 8:
                continue
            findings.append(
                self.finding(
                    f"{state.name}: {state.saturated} of {state.units} units held at their limits",
                    severity="error" if consequence.verdict == "fails" else "info",
                    module=state.module or state.layer,
                    location=state.block,
                    step=state.step,
                    observed=observed,
                    limit=self.share,
                    count=state.saturated,
                    total=state.units,
                    evidence=f"derivative below 1e-7 for 95 % of {state.samples} values per unit; {consequence.text}",
                    likely="inputs or weights on too large a scale, or steps too large",
                    hint="standardise the inputs, Xavier initialisation, a normalisation before it, a lower learning rate",
                )
            )
        return self.outcome(findings, margin=worst / self.share, requests=consequence.requests if findings else ())
