"""GG301."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.observing_base import TimeFlow
from gradguard.finding import Finding, Outcome, Severity
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.flow import Flow, LayerFlow, sparkline
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import Progress, progress
from gradguard.rules.base import Rule

__all__ = ["VanishingGradient"]


@dataclass(frozen=True, kw_only=True)
class VanishingGradient(Rule):
    """The gradient shrinks along depth, or time, beyond what training recovers from.

    What it does:
        Takes ||g|| ||w|| of every weight matrix, in the second half of the training run, as a ratio to the largest one
        downstream; and for layers that are called many times (recurrent ones) the gradient of the loss at the first call
        against the largest. A ratio below the limit is a symptom: it is an error where training does not work, a warning where
        the longer run cannot tell (the loss still falls, as it also does where noise is learnt by heart), and else an info.

    Why is this bad:
        Layers behind a vanished gradient stay where their initialisation put them.

    What to do:
        ReLU or GELU instead of sigmoid; He or Xavier initialisation; a normalisation; residual connections. Recurrent
        nets: LSTM or GRU with a forget bias of 1, orthogonal recurrent weights, shorter sequences, attention.

    When it is healthy:
        Exact zeros at the first step (residual branches, heads and LoRA's B that start at 0). A trained model whose loss
        has fallen. Weights that a penalty drives to 0, which GG406 names. Healthy ratios seen begin at 0.01, healthy growth
        ends at 2.2 per layer.

    Options:
        ratio: along depth.
        growth: factor per layer towards the output, which over few layers says the same (with a ratio below 100 times the
            limit).
        time_ratio: along time.
        shrunk: median over matrices of ||w|| late to first: below it, the gradient went with the weights.

    References:
        Glorot & Bengio 2010; Hochreiter et al. 2001, Gradient flow in recurrent nets.
    """

    code: ClassVar[str] = "GG301"
    slug: ClassVar[str] = "vanishing-gradient"
    needs: ClassVar[tuple[str, ...]] = ("flow",)
    optional: ClassVar[tuple[str, ...]] = ("passes", "training_run")

    ratio: float = 1e-4
    growth: float = 8.0
    time_ratio: float = 1e-6
    shrunk: float = 0.1

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding for depth, and one for each recurrent layer."""
        flow, passes = the(evidence, Flow), the(evidence, Passes)
        consequence = progress(evidence)
        shrunk = float(np.median([f.shrunk for f in flow.layers])) if flow.layers else 1.0
        severity = _severity(consequence) if shrunk > self.shrunk else "info"
        findings: list[Finding] = []
        layers = [f for f in flow.layers if math.isfinite(f.late) and f.weight > 0 and not (f.start == 0 and f.late == 0)]
        worst, margin = self._worst(layers), None
        if worst is not None:
            low, high, observed = worst
            margin = self.ratio / observed if observed > 0 else math.inf
            steep = flow.growth > self.growth and observed < 100 * self.ratio
            if observed < self.ratio or steep:
                findings.append(self._depth(flow, low, high, observed, consequence, severity))
        for facts in passes.start.time if passes is not None else ():
            found = self._time(facts, consequence, severity)
            if found is not None:
                findings.append(found)
        return self.outcome(findings, margin=margin, requests=consequence.requests if findings else ())

    @staticmethod
    def _worst(layers: list[LayerFlow]) -> tuple[LayerFlow, LayerFlow, float] | None:
        """The cut through depth across which the flow falls most: the largest flow before it over the largest after it.

        One small matrix beside larger ones of the same depth is no vanished gradient.
        """
        best: tuple[LayerFlow, LayerFlow, float] | None = None
        for i in range(1, len(layers) - 1):
            low, high = max(layers[:i], key=lambda f: f.late), max(layers[i:], key=lambda f: f.late)
            observed = low.late / high.late if high.late > 0 else math.nan
            if math.isfinite(observed) and (best is None or observed < best[2]):
                best = (low, high, observed)
        return best

    def _depth(
        self, flow: Flow, low: LayerFlow, high: LayerFlow, observed: float, consequence: Progress, severity: Severity
    ) -> Finding:
        return self.finding(
            f"the gradient vanishes towards {low.block}: {observed:.1e} of what reaches {high.block}",
            severity=severity,
            module=low.module,
            location=low.block,
            observed=observed,
            limit=self.ratio,
            step=flow.steps,
            pattern="depth",
            evidence=(
                f"||g|| ||w|| is {low.late:.2g} at depth {low.depth} and {high.late:.2g} at depth {high.depth} "
                f"of {len(flow.layers)}; it grows by "
                f"{flow.growth:.3g} per layer towards the output: "
                f"{sparkline([f.late for f in flow.layers[:60]])}; {consequence.text}"
            ),
            likely="saturating activations (a sigmoid passes at most a quarter), or weights too small for the depth",
            hint="ReLU or GELU with He initialisation, a normalisation, or residual connections",
        )

    def _time(self, facts: TimeFlow, consequence: Progress, severity: Severity) -> Finding | None:
        top = float(facts.norms.max())
        if not top > 0 or not math.isfinite(top):
            return None
        observed = float(facts.norms[0]) / top
        if observed >= self.time_ratio:
            return None
        calls = len(facts.norms)
        growth = observed ** (1 / max(1, calls - 1)) if observed > 0 else 0.0
        return self.finding(
            f"{facts.layer}: the gradient vanishes along {calls} calls: {observed:.1e} of it reaches the first",
            severity=severity,
            module=facts.layer.partition(":")[0],
            observed=observed,
            limit=self.time_ratio,
            pattern="time",
            evidence=f"it shrinks by {growth:.3g} per call towards the first; {consequence.text}",
            likely="a recurrence whose gain is below 1",
            hint="LSTM or GRU with a forget bias of 1, orthogonal recurrent weights, or shorter sequences",
        )


def _severity(consequence: Progress) -> Severity:
    """By what became of training; a run that was long enough and decided nothing is no proof that it works."""
    if consequence.verdict == "fails":
        return "error"
    return "warning" if consequence.verdict == "unclear" and consequence.longest and consequence.final else "info"
