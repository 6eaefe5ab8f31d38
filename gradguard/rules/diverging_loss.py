"""GG402."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.loss_curve import CurveShape, shape_of
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["DivergingLoss"]

LEAP, BEFORE = 100.0, 3
"""A loss that each later step exceeds by the first factor was left for good, where at most so many steps had it."""
ROSE = 1.5
"""A rate that is larger by this factor was raised."""
RECOVERING = 0.1
"""A loss that falls by this part of what it has lost, from one third to the next, is coming back."""


@dataclass(frozen=True, kw_only=True)
class DivergingLoss(Rule):
    """The loss blows up, spikes without coming back, or turns non-finite.

    What it does:
        Reads the loss of every step of a watched loop (``watch.record(loss=...)``), or of the training copy. Not finite is
        an error unless the loop goes on with finite losses. Smoothed, the end may not lie above the start by half of the
        descent, a twentieth of the loss and three times the noise; nor may every loss after the first one to three be more
        than a hundred times as high, unless it is falling again; nor may it stay above the floor by half of the descent
        after a spike, unless it is falling again or the rate was raised (a restart; above all rates before, it may not lose
        the whole descent).

    Why is this bad:
        What was learnt is lost, and the run goes on.

    What to do:
        Lower the rate, warm up, clip the gradient; look at the batch of the spike.

    When it is healthy:
        Noise, negative losses, spikes that come back, restarts, warm-up, and objectives that are not meant to fall
        (adversarial, reinforcement, metric): only what is not finite counts there.

    Options:
        descent: the part of the descent that may be lost.
        level: the part of the loss at the start by which it may end higher.
        patience: a spike must have lasted this many steps.

    References:
        Cohen et al. 2021 (edge of stability: short-term rises are normal); Loshchilov & Hutter 2017, SGDR.
    """

    code: ClassVar[str] = "GG402"
    slug: ClassVar[str] = "diverging-loss"
    needs: ClassVar[tuple[str, ...]] = ("training_run",)

    descent: float = 0.5
    level: float = 0.05
    patience: int = 20

    def __post_init__(self) -> None:
        if not self.descent > 0 or not self.level >= 0 or self.patience < 1:
            raise UsageError(f"{self.code} takes descent > 0, level >= 0 and patience >= 1")

    def judge(self, evidence: Evidence) -> Outcome:
        """Errors as above; skipped where no loss was recorded."""
        run: TrainingRun = the(evidence, TrainingRun)
        losses = run.trace.losses
        if not losses or (run.source == "watch" and all(math.isnan(loss) for loss in losses)):
            return Outcome(status="skipped", reason="no loss was recorded: watch.record(loss=...)")
        rates = [step.lr[0] for step in run.trace.steps if step.lr]
        shape = shape_of(losses, rates if len(rates) == len(losses) else ())
        findings = self._nonfinite(shape)
        if not findings and run.objective == "supervised" and shape.steps >= self.patience:
            findings = [*self._leapt(losses, shape), *self._above_start(shape), *self._after_spike(shape)][:1]
        return self.outcome(findings, margin=self._margin(shape))

    def _margin(self, shape: CurveShape) -> float | None:
        allowed = self._allowed(shape)
        return max(0.0, shape.end - shape.first) / allowed if math.isfinite(shape.first) and allowed > 0 else None

    def _allowed(self, shape: CurveShape) -> float:
        return self.descent * (shape.first - shape.floor) + self.level * abs(shape.first) + 3.0 * shape.noise

    def _nonfinite(self, shape: CurveShape) -> list[Finding]:
        if not shape.nonfinite:
            return []
        step, count = shape.nonfinite[0], len(shape.nonfinite)
        goes_on = shape.finite_after >= 5
        return [
            self.finding(
                f"the loss is not finite at step {step}" + (f", and in {count - 1} more steps" if count > 1 else ""),
                severity="warning" if goes_on else "error", step=step, count=count, total=shape.steps,
                evidence=f"then {shape.finite_after} finite steps" if goes_on else "",
                likely="a rate that is too high, log or division of 0, or a batch with NaN",
                hint="a lower rate or clipping; GG203 names the first module that is not finite",
            )
        ]

    def _leapt(self, losses: Sequence[float], shape: CurveShape) -> list[Finding]:
        """The first steps threw the loss up at once: medians over several steps do not see where it began."""
        kept = [loss for loss in losses if math.isfinite(loss)]
        for steps in range(1, min(BEFORE, len(kept) - self.patience) + 1):
            began, rest = max(kept[:steps]), kept[steps:]
            lowest, third = min(rest), len(rest) // 3
            falling = float(np.median(rest[third : 2 * third]) - np.median(rest[-third:])) > RECOVERING * (shape.end - began)
            if min(kept[:steps]) > 0 and lowest > LEAP * began and not falling:
                return [
                    self.finding(
                        f"the loss leapt from {began:.4g} at step {steps - 1} to {rest[0]:.4g}, and ends at {shape.end:.4g}",
                        step=steps, observed=shape.end, limit=LEAP * began, total=shape.steps,
                        evidence=f"the lowest loss since is {lowest:.4g}",
                        likely="a rate that is far too high, or a gradient that was scaled and never unscaled",
                        hint="unscale the gradient before the step; check_learning_rate says which rate holds",
                    )
                ]
        return []

    def _above_start(self, shape: CurveShape) -> list[Finding]:
        risen = shape.end - shape.first
        if not risen > self._allowed(shape) or shape.drop > RECOVERING * risen:
            return []
        return [
            self.finding(
                f"the loss ends at {shape.end:.4g}, above {shape.first:.4g} where it began", step=shape.peak_step,
                observed=shape.end, limit=shape.first + self._allowed(shape), total=shape.steps,
                evidence=f"lowest {shape.floor:.4g} at step {shape.floor_step}; noise of single steps {shape.noise:.2g}",
                likely="the learning rate is too high, or the sign of the loss or gradient is wrong",
                hint="check_learning_rate says which rate holds",
            )
        ]

    def _after_spike(self, shape: CurveShape) -> list[Finding]:
        lost = shape.end - shape.floor
        allowed = self.descent * (shape.first - shape.floor) + 3.0 * shape.noise
        lasted = shape.steps - shape.floor_step
        learnt = shape.first - shape.floor > self.level * abs(shape.first) + 3.0 * shape.noise
        if not (learnt and lost > allowed) or lasted < self.patience or shape.drop > RECOVERING * lost:
            return []
        all_lost = shape.rate_new > ROSE and lost > shape.first - shape.floor - 3.0 * shape.noise
        if shape.rate_rose > ROSE and not all_lost:
            return []
        likely = "a step that was too large: a rate too high for the curvature by then, or an outlier batch"
        if all_lost:
            likely = f"the learning rate, which rose to {shape.rate_new:.3g} times the largest before"
        return [
            self.finding(
                f"the loss rose from {shape.floor:.4g} at step {shape.floor_step} to {shape.peak:.4g} and "
                f"stays at {shape.end:.4g}",
                step=shape.floor_step, observed=shape.end, limit=shape.floor + allowed, total=shape.steps,
                evidence=f"it began at {shape.first:.4g}; {lost / (shape.first - shape.floor):.0%} of the descent is lost",
                likely=likely,
                hint="clip the gradient, lower the rate, look at the batch of that step",
            )
        ]
