"""GG205."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import progress
from gradguard.rules.base import Rule

__all__ = ["AttentionCollapse"]


@dataclass(frozen=True, kw_only=True)
class AttentionCollapse(Rule):
    """Attention entropy near zero in every head of a layer.

    What it does:
        Takes the mean entropy of the attention weights, divided by the logarithm of the number of keys that are not
        masked, for each head. Every head of a layer below the limit before any step is an error: scores of that scale are
        not learned. After training it is an error where training does not work.

    Why is this bad:
        Each query looks at one key only; the softmax is at its limit, and no gradient reaches queries and keys.

    What to do:
        Scale the scores by 1/sqrt(d); check the initialisation of the query and key projections; normalise queries and
        keys; a lower learning rate.

    When it is healthy:
        Single heads of trained models look at one token; all heads of a layer, at birth, never.

    Options:
        entropy: relative entropy below which a head has collapsed.

    References:
        Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse (arXiv:2303.06296).
    """

    code: ClassVar[str] = "GG205"
    slug: ClassVar[str] = "attention-collapse"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("training_run",)

    entropy: float = 0.1

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for each layer."""
        passes = the(evidence, Passes)
        start = {a.layer: a for a in passes.start.attention}
        consequence = progress(evidence)
        findings, requests = [], False
        for facts in passes.last.attention:
            top = float(facts.entropy.max())
            if top >= self.entropy:
                continue
            before = start.get(facts.layer)
            born = before is not None and float(before.entropy.max()) < self.entropy
            failed = born or consequence.verdict == "fails"
            requests = requests or not failed
            findings.append(
                self.finding(
                    f"{facts.layer or 'attention'}: every head looks at one key only "
                    f"({'from birth' if born else 'after training'})",
                    severity="error" if failed else "warning",
                    module=facts.layer,
                    observed=top,
                    limit=self.entropy,
                    count=len(facts.entropy),
                    total=len(facts.entropy),
                    pattern="at birth" if born else "in training",
                    evidence=f"entropy / log(keys) is at most {top:.2g} over {facts.rows} queries; {consequence.text}",
                    likely="scores without the factor 1/sqrt(d), or projections on too large a scale"
                    if born
                    else "steps too large for the projections",
                    hint="scale the scores by 1/sqrt(d), or normalise queries and keys",
                )
            )
        return self.outcome(findings, requests=consequence.requests if requests else ())
