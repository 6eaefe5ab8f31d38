"""GG503."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.training_base import ParameterFacts
from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import Progress, progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["UnscaledWeights"]

ENOUGH = 3
"""With fewer other matrices their median says little: then 1 is the yardstick, which usual initialisations are near."""


@dataclass(frozen=True, kw_only=True)
class UnscaledWeights(Rule):
    """One layer's weights are on another scale than those of the other layers.

    What it does:
        Before the first step, compares the gain of each trainable matrix, RMS(W) sqrt(fan_in), with the median of the
        others. Usual initialisations give about 0.1 to 1.4. Too large: ``large`` times the median, and ``gain`` itself. Too
        small: a hundredth of the median in front of other layers, where the outputs are nearly the same for all samples.
        An error only where training does not work, else a warning.

    Why is this bad:
        Signal and gradient pass a layer with gain g as g times themselves: one such layer saturates or drowns all that
        follow, and no single learning rate fits it and the others.

    What to do:
        Initialise the named layer like the others: std sqrt(2 / fan_in) before a ReLU, 1 / sqrt(fan_in) else.

    When it is healthy:
        Random features that are meant to be large; branches that begin near 0 on purpose.

    Options:
        large: smallest ratio to the median that is too large.
        gain: smallest gain that is too large.
        small: largest ratio to the median that is too small.
        spread: outputs whose standard deviation over samples is below this share of their size are nearly the same.

    References:
        Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks; He et al. 2015,
        Delving deep into rectifiers, equations 10 and 14.
    """

    code: ClassVar[str] = "GG503"
    slug: ClassVar[str] = "unscaled-weights"
    needs: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    large: float = 10.0
    gain: float = 4.0
    small: float = 0.01
    spread: float = 0.05

    def __post_init__(self) -> None:
        if not (self.large > 1 > self.small > 0 and self.gain > 0 and self.spread >= 0):
            raise UsageError("GG503 takes large > 1 > small > 0, gain > 0 and spread >= 0", todo="large=10, small=0.01")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for all layers, which names the one that is furthest off."""
        passes, run = the(evidence, Passes), the(evidence, TrainingRun)
        known = {p.name: p for p in run.parameters}
        first = dict(zip(run.trace.blocks, run.trace.weight[0], strict=True)) if len(run.trace.weight) else {}
        matrices = [
            known[n]
            for n in passes.start.matrices
            if n in known and first.get(n, 0) > 0 and len(known[n].shape) >= 2 and "Embedding" not in known[n].owner
        ]
        gains = {p.name: gains_of(p, float(first[p.name])) for p in matrices}
        outputs = passes.start.outputs
        same = outputs is not None and outputs.spread < self.spread
        found = []
        for facts in matrices:
            others = [gains[p.name][0] for p in matrices if p.name != facts.name]
            usual = float(np.median(others)) if len(others) >= ENOUGH else 1.0
            gain = min(gains[facts.name], key=lambda g: abs(math.log(g / usual)))
            if gain > self.large * usual and gain > self.gain:
                found.append((facts, gain, usual, self.large))
            elif gain < self.small * usual and same and facts.name != passes.start.matrices[-1]:
                found.append((facts, gain, usual, self.small))
        if not found:
            return self.outcome([])
        consequence = progress(evidence)
        ranked = sorted(found, key=lambda row: -abs(math.log(row[1] / row[2])))
        finding = self._finding(*ranked[0], consequence)
        if len(ranked) > 1:
            rest = ", ".join(row[0].name for row in ranked[1:5])
            finding = replace(finding, evidence=f"{finding.evidence}; also {rest}")
        return self.outcome([finding], requests=consequence.requests)

    def _finding(self, facts: ParameterFacts, gain: float, usual: float, limit: float, consequence: Progress) -> Finding:
        ratio = gain / usual
        far = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.0f} of"
        return self.finding(
            f"{facts.name}: weights of gain {gain:.3g}, {far} what is usual in this model",
            severity="error" if consequence.verdict == "fails" else "warning",
            module=facts.module,
            location=facts.name,
            observed=ratio,
            limit=limit,
            step=0,
            pattern="too large" if ratio > 1 else "too small",
            evidence=f"RMS(W) sqrt(fan_in) {gain:.3g}, median of the others {usual:.3g}; {consequence.text}",
            likely="an initialisation that does not divide by sqrt(fan_in), or a factor too many",
            hint="initialise it like the others: torch.nn.init.kaiming_normal_(weight)",
        )


def gains_of(facts: ParameterFacts, norm: float) -> tuple[float, ...]:
    """RMS(W) sqrt(fan_in) of a matrix from its norm; the likeliest fan first.

    A convolution's is that of its window. Of other tensors it is not known which axis is summed over.
    """
    shape = facts.shape
    rest = math.prod(shape[2:])
    fans = [shape[1] * rest, shape[0] * rest]
    if len(shape) > 2 and "Conv" not in facts.owner:
        fans += [shape[1], shape[-1]]
    rms = norm / math.sqrt(max(1, facts.size))
    return tuple(rms * math.sqrt(max(1, fan)) for fan in fans)
