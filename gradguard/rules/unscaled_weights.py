"""GG503."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.errors import UsageError
from gradguard.finding import Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import LONGER, progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.measurements.weight_gains import RescaledRun, WeightGains
from gradguard.rules.base import Rule

__all__ = ["UnscaledWeights"]

LEARNT = 0.1
"""The run at the usual gain must learn at least this part of its loss, or it says nothing."""


@dataclass(frozen=True, kw_only=True)
class UnscaledWeights(Rule):
    """One layer's weights are on another scale than those of the other layers.

    What it does:
        Before the first step, compares the gain of each trainable matrix, RMS(W) sqrt(fan_in), with the median of the
        others. Usual initialisations give about 0.1 to 1.4. Too large: ``large`` times the median, and ``gain`` itself. Too
        small: a hundredth of the median in front of other layers, where the outputs are nearly the same for all samples.
        Then the same training is run again with that layer brought to the usual gain. An error where training does not
        work, or where this run's loss was on average above that one's by more than ``harm`` of all that that one gained.

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
        harm: excess of the loss, against what the run at the usual gain gained, that is an error.

    References:
        Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks; He et al. 2015,
        Delving deep into rectifiers, equations 10 and 14.
    """

    code: ClassVar[str] = "GG503"
    slug: ClassVar[str] = "unscaled-weights"
    needs: ClassVar[tuple[str, ...]] = ("training_run", "passes", "weight_gains")

    large: float = 10.0
    gain: float = 4.0
    small: float = 0.01
    spread: float = 0.05
    harm: float = 0.5

    def __post_init__(self) -> None:
        if not (self.large > 1 > self.small > 0 and self.gain > 0 and self.spread >= 0 and self.harm > 0):
            raise UsageError(
                "GG503 takes large > 1 > small > 0, gain > 0, spread >= 0 and harm > 0", todo="large=10, small=0.01"
            )

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for all layers, which names the one that is furthest off."""
        weights: WeightGains = the(evidence, WeightGains)
        outputs = the(evidence, Passes).start.outputs
        same = outputs is not None and outputs.spread < self.spread
        found = [
            g
            for g in weights.gains
            if (g.ratio > self.large and g.gain > self.gain) or (g.ratio < self.small and same and not g.last)
        ]
        if not found:
            return self.outcome([])
        worst, *rest = sorted(found, key=lambda g: -abs(math.log(g.ratio)))
        consequence = progress(evidence)
        harm = self._harm(evidence)
        text = f"RMS(W) sqrt(fan_in) {worst.gain:.3g}, median of the others {worst.usual:.3g}; {consequence.text}"
        if harm > self.harm:
            text += f"; on average {harm:.3g} times what training gains with it at the usual gain is lost"
        if rest:
            text += f"; also {', '.join(g.facts.name for g in rest[:4])}"
        ratio = worst.ratio
        far = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.0f} of"
        failed = consequence.verdict == "fails" or harm > self.harm
        finding = self.finding(
            f"{worst.facts.name}: weights of gain {worst.gain:.3g}, {far} what is usual in this model",
            severity="error" if failed else "warning",
            module=worst.facts.module,
            location=worst.facts.name,
            observed=ratio,
            limit=self.large if ratio > 1 else self.small,
            step=0,
            pattern="too large" if ratio > 1 else "too small",
            evidence=text,
            likely="an initialisation that does not divide by sqrt(fan_in), or a factor too many",
            hint="initialise it like the others: torch.nn.init.kaiming_normal_(weight)",
        )
        again = Request(measurement=RescaledRun.name, about=tuple(g.facts.name for g in found))
        return self.outcome([finding], requests=(LONGER, again) if not failed else ())

    @staticmethod
    def _harm(evidence: Evidence) -> float:
        """Mean excess of this run's losses over those at the usual gain, step by step, in units of what the latter gained."""
        run, longer, other = the(evidence, TrainingRun), the(evidence, LongRun), the(evidence, RescaledRun)
        if other is None or run.objective != "supervised" or other.trace.stopped or not other.trace.loss_end:
            return math.nan
        losses = (longer or run).trace.losses
        before, after = float(np.mean(other.trace.loss_start)), float(np.mean(other.trace.loss_end))
        gained = before - after
        if not gained > LEARNT * abs(before):
            return math.nan
        excess = np.array(losses) - np.array(other.trace.losses)[: len(losses)]
        return float(np.mean(excess)) / gained
