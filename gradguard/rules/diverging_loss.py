"""GG402."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.loss_curve import CurveShape, fall_of, noise_of, running_median, shape_of, width_of
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["DivergingLoss"]

Losses = NDArray[np.float64]

LEAP = 100.0
"""A loss that each later step exceeds by this factor was left for good."""
ROSE = 1.5
"""A rate that is larger by this factor was raised."""
RECOVERING = 0.1
"""A loss that falls by this part of what it has lost, from one third to the next, is coming back,"""
AHEAD = 3.0
"""where it gets there if it falls this many times as far as an exponential would that slows down like it (a power law does)."""
EARLY = 20
"""First steps, each of whose gradients a watched loop knows."""
LASTING = 5
"""Times the patience that a loss must have gained nothing: some optimizers' first steps are large in a run that holds."""
THROWN = 1.0
"""Weights that are further from their start than they were long, in the median block, are other weights."""


@dataclass(frozen=True, kw_only=True)
class DivergingLoss(Rule):
    """The loss blows up, spikes without coming back, or turns non-finite.

    What it does:
        Reads the loss of every step of a watched loop (``watch.record(loss=...)``), or of the training copy. Not finite is
        an error unless the loop goes on with finite losses. Smoothed, the end may not lie above the start by half of the
        descent, a twentieth of the loss and three times the noise; nor may it stay above the floor by half of the descent
        after a spike, unless the rate was raised (a restart; above all rates before, it may not lose the whole descent).

        Of the first twenty steps none may raise the loss for good. The start is then the highest loss before that step, and
        the step must be able to explain the rise (its length times the gradient; an easy first batch raises the loss, too),
        or every later loss be a hundred times as high. Where the weights are further from their start than they were long,
        the loss may not be back at best where it began either: that is the guess. In less than five times the patience, or
        while it falls from above its start, that is a warning.

        What falls again is no error: by a tenth of what is lost from one third since the peak to the next, and not as if it
        came to rest above what it has to make up for.

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
        Cohen et al. 2021 (edge of stability: short-term rises are normal); Lewkowycz et al. 2020 (catapults: a first rise
        that comes down again); Loshchilov & Hutter 2017, SGDR.
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
            findings = self._leapt(run, shape)
            shape = replace(shape, first=self._start(run, shape))
            findings = [*findings, *self._above_start(shape), *self._after_spike(shape)][:1]
        return self.outcome(findings, margin=self._margin(shape))

    def _margin(self, shape: CurveShape) -> float | None:
        allowed = self._allowed(shape)
        return max(0.0, shape.end - shape.first) / allowed if math.isfinite(shape.first) and allowed > 0 else None

    def _allowed(self, shape: CurveShape) -> float:
        return self.descent * max(0.0, shape.first - shape.floor) + self.level * abs(shape.first) + 3.0 * shape.noise

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

    def _leapt(self, run: TrainingRun, shape: CurveShape) -> list[Finding]:
        """One of the first steps threw the loss up: the median of the first losses is not where it began."""
        losses = np.asarray(run.trace.losses)
        for steps in range(1, min(EARLY, len(losses) - self.patience) + 1):
            before, rest = losses[:steps], losses[steps:]
            began = float(np.max(before))
            if not rest[0] > began + self.level * abs(began):
                continue  # it was another step
            found = self._stays_up(run, shape, before, rest) or self._thrown_away(run, shape, before, rest)
            if found:
                return found
        return []

    def _start(self, run: TrainingRun, shape: CurveShape) -> float:
        """Where the loop began: before a leap by which the median of the first losses is too high."""
        losses = np.asarray(run.trace.losses)
        for steps in range(1, min(EARLY, len(losses) - 1) + 1):
            began = float(np.max(losses[:steps]))
            least = self.level * abs(began)
            leapt = losses[steps] > began + least and shape.first > began + least + 3.0 * shape.noise
            if leapt and _thrown(run) and _caused(run, steps, shape.first - began):
                return began
        return shape.first

    def _stays_up(self, run: TrainingRun, shape: CurveShape, before: Losses, rest: Losses) -> list[Finding]:
        """The loss never came back, and is not about to."""
        began, low = float(np.max(before)), float(np.min(running_median(rest, width_of(shape.steps))))
        limit = began + self.level * abs(began) + 3.0 * shape.noise
        high = bool(np.min(before) > 0 and np.min(rest) > LEAP * began)
        if not (high or (low > limit and _caused(run, len(before), low - began))):
            return []
        if self._coming_back(*fall_of(rest, 0, 0.0 if high else shape.noise), shape.end - began):
            return []
        return [self._leap(shape, before, rest, limit)]

    def _thrown_away(self, run: TrainingRun, shape: CurveShape, before: Losses, rest: Losses) -> list[Finding]:
        """The leap is beyond the noise, the weights are other ones, and the loss is back at guessing or has not come so far."""
        began, smooth = float(np.max(before)), running_median(rest, width_of(shape.steps))
        least, top, low = self.level * abs(began), float(np.max(smooth)), float(np.min(smooth))
        if not (top > began + least + 3.0 * shape.noise and _thrown(run) and _caused(run, len(before), top - began)):
            return []
        half = rest[-(len(rest) // 2) :]
        noise, size = noise_of(half), abs(float(np.median(half)))
        gain = least + 2.0 * noise  # two standard errors of a single loss, such as the first
        hidden = gain > self.descent / 2 * abs(began)  # so much noise would hide what is learnt
        share = noise / size if size > noise else 1.0
        above = low - share * abs(low) > began + least  # noise in proportion to the loss
        if not (above or (low > began - gain and not hidden)):
            return []
        drop, ahead = fall_of(rest, 0, 0.0)
        falls = drop > RECOVERING * max(abs(began), shape.end - began) and AHEAD * ahead >= shape.end - began + least
        if falls and low < began + least:
            return []
        sure = not falls and len(rest) >= LASTING * self.patience
        since = f"it {'falls still' if falls else 'gains nothing'}, and the weights are other ones"
        return [self._leap(shape, before, rest, began - least, since, sure=sure)]

    def _leap(
        self, shape: CurveShape, before: Losses, rest: Losses, limit: float, since: str = "", *, sure: bool = True
    ) -> Finding:
        return self.finding(
            f"the loss leapt from {np.max(before):.4g} at step {len(before) - 1} to "
            f"{np.max(rest[: width_of(shape.steps)]):.4g}, and ends at {shape.end:.4g}",
            severity="error" if sure else "warning",
            step=len(before), observed=shape.end, limit=limit, total=shape.steps,
            evidence=f"the lowest loss since is {np.min(rest):.4g}" + (f"; {since}" if since else ""),
            likely="a rate that is far too high, or a gradient that was scaled and never unscaled",
            hint="unscale the gradient before the step; check_learning_rate says which rate holds",
        )

    def _coming_back(self, drop: float, ahead: float, lost: float) -> bool:
        """It falls by a part of what is lost, and does not come to rest before that is made up for."""
        return drop > RECOVERING * lost and AHEAD * ahead >= lost

    def _above_start(self, shape: CurveShape) -> list[Finding]:
        risen = shape.end - shape.first
        if not risen > self._allowed(shape) or self._coming_back(shape.drop, shape.ahead, risen):
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
        beyond = lost - self.descent * (shape.first - shape.floor)
        learnt = shape.first - shape.floor > self.level * abs(shape.first) + 3.0 * shape.noise
        if not (learnt and lost > allowed) or lasted < self.patience:
            return []
        if shape.drop > RECOVERING * lost and AHEAD * shape.ahead >= beyond:
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


def _caused(run: TrainingRun, steps: int, risen: float) -> bool:
    """Whether the step before can have raised the loss by so much, or only another batch has.

    By the mean value theorem a loss rises along a step by at most its length times the largest gradient on the way, which is
    taken as the larger one of both ends. The length is that of the first step that was measured, times the ratio of rates,
    and of gradients where that is larger (updates of adaptive optimizers are not proportional to it).
    """
    trace = run.trace
    with np.errstate(over="ignore"):
        lengths = np.sqrt(np.nansum(trace.update**2, axis=1))
    at = next((i for i, u in enumerate(lengths) if u > 0 and trace.steps[i].lr and trace.steps[i].lr[0] > 0), None)
    gone, after = trace.steps[steps - 1], trace.steps[steps]
    if at is None or not gone.lr:
        return False
    first = trace.steps[at]
    norms = np.array([first.grad_norm, gone.grad_norm, after.grad_norm])
    if np.isnan(norms).any() or not norms[0] > 0:
        return False
    length = lengths[at] * gone.lr[0] / first.lr[0] * max(1.0, norms[1] / norms[0])
    return bool(length * max(norms[1], norms[2]) >= risen)


def _thrown(run: TrainingRun) -> bool:
    """The weights that the loop began with are gone."""
    far = run.trace.movement
    return far is not None and bool(np.isfinite(far).any()) and float(np.nanmedian(far)) > THROWN
