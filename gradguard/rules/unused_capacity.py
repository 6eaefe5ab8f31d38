"""GG207."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["UnusedCapacity"]


@dataclass(frozen=True, kw_only=True)
class UnusedCapacity(Rule):
    """Codes of a codebook, or experts, that nothing uses.

    What it does:
        Counts over all samples how often each choice of an argmin, argmax or top-k that indexes a table (or experts) was
        taken, after the training run. The perplexity exp(-sum p log p) is the number of choices in effect. One code
        for everything is an error after at least ``steps`` steps (not yet where the table is no parameter and all of its rows
        are the same: it is set from data later); one expert for everything is, if already at birth no sample came near
        another one. Fewer than ``warn`` of them in effect are a warning, and one or two an error where
        training fails.

    Why is this bad:
        A code or expert that is never chosen gets no gradient and stays unchosen; one for all carries no information.

    What to do:
        Codebooks: initialise codes from data, restart dead codes, a smaller codebook, a commitment loss. Experts: a
        load-balancing loss, noise in the router.

    When it is healthy:
        Rare codes of a large codebook on little data; a codebook before it has been trained; a router that settles on one
        expert, which then learns what all of them would have.

    Options:
        collapsed: perplexity up to which all samples make one choice.
        warn: share of the choices in effect.
        steps: optimizer steps before a verdict.
        lead: how far, at birth, the best expert's score is ahead of the second's, in standard deviations over samples, for
            no sample to come near another one.

    References:
        van den Oord et al. 2017, Neural discrete representation learning; Fedus et al. 2021, Switch transformers.
    """

    code: ClassVar[str] = "GG207"
    slug: ClassVar[str] = "unused-capacity"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("training_run",)

    collapsed: float = 1.05
    warn: float = 0.1
    steps: int = 20
    lead: float = 10.0

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for each table of choices."""
        passes, run = the(evidence, Passes), the(evidence, TrainingRun)
        steps = len(run.trace.steps) if run is not None else 0
        findings, requests = [], False
        consequence = progress(evidence)
        born = {(c.layer, c.kind): c.lead for c in passes.start.codes}
        for facts in passes.last.codes:
            total, size = float(facts.counts.sum()), len(facts.counts)
            if size < 4 or total < 8 * size:
                continue
            p = facts.counts[facts.counts > 0] / total
            perplexity = float(np.exp(-np.sum(p * np.log(p))))
            if perplexity > max(self.collapsed, self.warn * size):
                continue
            one = perplexity <= self.collapsed and steps >= self.steps
            settled = facts.kind == "experts" and born.get((facts.layer, facts.kind), 0.0) < self.lead
            unset = facts.alike and consequence.verdict != "fails"  # a table that is set from data later
            failed = (one and not settled and not unset) or (perplexity <= 2 and consequence.verdict == "fails")
            requests = requests or not failed
            used = int((facts.counts > 0).sum())
            findings.append(
                self.finding(
                    f"{facts.layer or facts.kind}: {used} of {size} {facts.kind} used",
                    severity="error" if failed else "warning",
                    module=facts.layer,
                    location=facts.block,
                    observed=perplexity,
                    limit=self.collapsed if one else self.warn * size,
                    count=size - used,
                    total=size,
                    step=steps,
                    pattern="one choice" if one else "few choices",
                    evidence=f"perplexity {perplexity:.3g} over {int(total)} choices after {steps} steps",
                    likely="a collapsed codebook" if facts.kind == "codes" else "a router that sends everything to one expert",
                    hint="restart dead codes, initialise from data"
                    if facts.kind == "codes"
                    else "a load-balancing loss, or noise in the router",
                )
            )
        return self.outcome(findings, requests=consequence.requests if requests else ())
