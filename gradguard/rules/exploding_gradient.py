"""GG302."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.observing_base import ModuleFacts
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.flow import Flow
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import Progress, progress
from gradguard.measurements.training_run import TrainingRun, nonfinite_step, overflowed
from gradguard.rules.base import Rule

__all__ = ["ExplodingGradient"]


USUAL = 1.0
"""The RMS that initialisations and normalisations aim at: coming up to it from below is no explosion."""


@dataclass(frozen=True, kw_only=True)
class ExplodingGradient(Rule):
    """The signal or its gradient grows along depth or time beyond limits, or a gradient is not finite.

    What it does:
        Before any step: the RMS of activations along depth (against that of the first layer or the inputs, or 1 where those
        are smaller), and the gradient at the first call of a recurrent layer
        against the last. Growth beyond the limit is an error where training then does not work, or where the first loss is
        far beyond that of guessing. A gradient that is not finite while the loss is, is an error by itself.

    Why is this bad:
        The first step throws the weights far away; nothing that was initialised is left.

    What to do:
        He or Xavier initialisation, a normalisation, residual branches divided by sqrt(depth); gradient clipping for
        recurrent nets. Not finite: look at roots, norms and divisions at 0 in that block.

    When it is healthy:
        Large norms under loss scaling, with sums instead of means, with accumulation: only ratios are judged, between
        optimizer steps.

    Options:
        growth: largest factor along depth or time.
        loss: the first loss relative to that of guessing.

    References:
        He et al. 2015, Delving deep into rectifiers; Pascanu et al. 2013, On the difficulty of training recurrent nets.
    """

    code: ClassVar[str] = "GG302"
    slug: ClassVar[str] = "exploding-gradient"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("flow", "training_run")

    growth: float = 1e4
    loss: float = 100.0

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding for each of: activations, time, a gradient that is not finite."""
        passes, run, flow = the(evidence, Passes), the(evidence, TrainingRun), the(evidence, Flow)
        consequence = progress(evidence)
        findings = [
            f
            for f in (
                self._activations(passes, flow, consequence),
                self._time(passes, consequence),
                self._nonfinite(run),
            )
            if f is not None
        ]
        unsure = any(f.severity != "error" for f in findings)
        return self.outcome(findings, requests=consequence.requests if unsure else ())

    def _activations(self, passes: Passes, flow: Flow | None, consequence: Progress) -> Finding | None:
        modules = [m for m in passes.start.modules if m.path and math.isfinite(m.rms) and m.rms > 0]
        made = {name.rpartition(".")[0] for name in passes.start.order}
        chain = [m for m in modules if m.path in made]
        if len(chain) < 3:
            return None
        low, high = chain[0], max(chain, key=lambda m: m.rms)
        inputs = passes.start.inputs.rms if passes.start.inputs is not None else math.nan
        scale = max(low.rms, USUAL, inputs if math.isfinite(inputs) else 0.0)
        observed = high.rms / scale
        if observed < self.growth or chain.index(high) == 0:
            return None
        outputs = passes.start.outputs
        far = outputs is not None and outputs.prior > 0 and outputs.data_loss > self.loss * outputs.prior
        failed = far or consequence.verdict == "fails"
        first = first_jump(chain)
        return self.finding(
            f"activations grow by {observed:.1e} from {low.path} to {high.path} before any step",
            severity="error" if failed else "warning",
            module=first.path,
            observed=observed,
            limit=self.growth,
            step=0,
            pattern="at birth",
            evidence=(
                f"RMS {low.rms:.3g} -> {high.rms:.3g} over {len(chain)} layers, "
                f"{observed ** (1 / max(1, chain.index(high))):.3g} per layer; "
                f"first loss {passes.start.loss:.3g}; {consequence.text}"
            ),
            likely="weights on too large a scale for their fan-in",
            hint="He initialisation (std sqrt(2/fan_in)), a normalisation, or scaled residual branches",
        )

    def _time(self, passes: Passes, consequence: Progress) -> Finding | None:
        for facts in passes.start.time:
            last = float(facts.norms[-1])
            observed = float(facts.norms[0]) / last if last > 0 else math.nan
            if math.isfinite(observed) and observed > self.growth:
                return self.finding(
                    f"{facts.layer}: the gradient grows by {observed:.1e} along {len(facts.norms)} calls",
                    severity="error" if consequence.verdict == "fails" else "warning",
                    module=facts.layer.partition(":")[0],
                    observed=observed,
                    limit=self.growth,
                    step=0,
                    pattern="time",
                    evidence=f"{observed ** (1 / (len(facts.norms) - 1)):.3g} per call; {consequence.text}",
                    likely="a recurrence whose gain is above 1",
                    hint="gradient clipping, orthogonal recurrent weights of gain 1, or shorter sequences",
                )
        return None

    def _nonfinite(self, run: TrainingRun | None) -> Finding | None:
        found = nonfinite_step(run) if run is not None else None
        if run is None or found is None:
            return None
        last, names = found
        block, total, large = names[-1], len(run.trace.blocks), overflowed(run, last)
        return self.finding(
            f"the gradient of {block} is not finite at step {last.step}, although the loss is ({last.loss:.4g})",
            module=block.rpartition(".")[0],
            location=block,
            step=last.step,
            count=len(names),
            total=total,
            pattern="overflow" if large else "not finite",
            evidence=f"{len(names)} of {total} blocks: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
            likely="steps that made the loss grow until numbers overflow"
            if large
            else "the derivative of a root, norm or power at 0, or a where() whose other branch is not finite",
            hint="a lower learning rate, or standardised data"
            if large
            else "add a small constant inside the root or norm; make the branch that is not taken finite",
        )


def first_jump(chain: list[ModuleFacts]) -> ModuleFacts:
    """The module with the largest growth over the one before it."""
    pairs = list(itertools.pairwise(chain))
    return max(pairs, key=lambda pair: pair[1].rms / pair[0].rms)[1]
