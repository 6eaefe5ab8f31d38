"""GG404."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome, Request, Severity
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.initial_loss import InitialLoss
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_search import LONGER
from gradguard.measurements.rate_verdict import RateLimits, RateRun, scale_of, verdict
from gradguard.rules.base import Rule
from gradguard.rules.stalled_training import nearing

__all__ = ["UnexpectedInitialLoss"]

GUESS, CLEARLY = 0.95, 0.75
"""Losses above the first share of what guessing the labels' distribution gives are no better than that; below the second,
something is learnt."""
FELL = 0.1
"""A loss that falls by this part in a short run is on its way down: how far it gets is a matter of steps."""


@dataclass(frozen=True, kw_only=True)
class UnexpectedInitialLoss(Rule):
    """The first loss is not finite, far from that of a uniform guess, or a sum over the batch.

    What it does:
        Compares the loss before training with log(classes), the cross-entropy of a uniform guess (log 2 for binary
        cross-entropy), and a batch's loss with those of its halves: a mean is their mean, a sum their sum. Both are
        warnings, and errors where the short run at the user's rate shows a consequence: it blew up; or it is still above
        the guess at its end and has not fallen by a tenth; or it fell to the guess and stays there, in a run six times as
        long, too, where a lower rate learns. A loss or a gradient that is not finite before any step is an
        error: no rate helps. So is a loss of exactly 0 that stays 0 with all weights at 0,
        and has no gradient.

    Why is this bad:
        A loss far above the guess is sure of wrong answers: an initialisation that is too wide, unscaled data, an output
        layer with the wrong scale. A sum makes the gradient, and so the learning rate, larger by the size of the batch.

    What to do:
        Scale the last layer or the data; average the loss, or divide the rate by the batch size.

    When it is healthy:
        A trained model, whose loss is below the guess; a head of zeros under a reward, or an advantage about its mean, whose
        loss is 0 and has a gradient; a wide start that training repairs at once; a sum with a rate that
        was chosen for it.

    Options:
        factor: an error above this many times the loss of a uniform guess, plus 1.
        warn: a warning above this many times.

    References:
        Karpathy 2019, A Recipe for Training Neural Networks: verify the loss at initialisation.
    """

    code: ClassVar[str] = "GG404"
    slug: ClassVar[str] = "unexpected-initial-loss"
    needs: ClassVar[tuple[str, ...]] = ("initial_loss",)
    optional: ClassVar[tuple[str, ...]] = ("rate_observation",)

    factor: float = 4.0
    warn: float = 2.0

    def __post_init__(self) -> None:
        if not 1.0 < self.warn <= self.factor:
            raise UsageError(f"{self.code} takes 1 < warn <= factor, got warn={self.warn!r}, factor={self.factor!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """Both comparisons; consequences from the short run where there is one."""
        first: InitialLoss = the(evidence, InitialLoss)
        observed: RateObservation | None = the(evidence, RateObservation)
        broken = observed.broken if observed is not None else ""
        if broken or not math.isfinite(first.loss):
            return self.outcome([self._broken(broken or f"the mean loss of the first batches is {first.loss}")])
        if first.loss == 0.0 and first.null == 0.0 and not first.gradient > 0:
            return self.outcome([self._nothing()])
        lower = self._only_guesses(first, observed, None)
        longer: LongerRun | None = the(evidence, LongerRun)
        if lower is not None and longer is None and LongerRun.name not in evidence:
            reason = f"the loss ends at that of a guess, where lr {lower.lr:.3g} learns"
            return Outcome(status="inconclusive", reason=reason, requests=(Request(measurement=LongerRun.name),))
        if lower is not None:
            lower = self._only_guesses(first, observed, longer) if longer is not None else None
        findings = [*self._sum(first, observed), *self._far(first, observed, lower)]
        known = math.isfinite(first.uniform) and math.isfinite(first.data_loss)
        margin = first.data_loss / (self.factor * first.uniform + 1.0) if known else None
        if not known and first.split is None:
            reasons = [first.reason, "the batch cannot be halved"]
            return Outcome(status="skipped", reason=", and ".join(reason for reason in reasons if reason))
        return self.outcome(findings, margin=margin, reason="" if known else first.reason)

    def _nothing(self) -> Finding:
        return self.finding(
            "the loss is exactly 0, and stays 0 with all weights at 0: it does not depend on the model",
            observed=0.0, pattern="zero",
            likely="a mask, weights or labels that are all 0, or predictions that were overwritten",
            hint="look at what the loss multiplies; a fitted model's loss would change with its weights",
        )

    def _broken(self, what: str) -> Finding:
        return self.finding(
            f"nothing can be trained: {what}",
            pattern="not finite",
            likely="a value that is not finite in this data or in a parameter; log(0), 0/0, or overflow",
            hint="check_training names the first module whose output is not finite",
        )

    def _sum(self, first: InitialLoss, observed: RateObservation | None) -> list[Finding]:
        split = first.split
        if split is None or split.samples < 8 or not math.isfinite(split.whole):
            return []
        halves = sum(split.halves)
        expected = halves * split.samples / (2 * (split.samples // 2))
        apart = abs(split.halves[0] - split.halves[1])
        mean_like = abs(split.whole - halves / 2) <= 0.25 * abs(halves) + apart / 2
        if mean_like or abs(split.whole - expected) > 0.02 * abs(expected):
            return []
        severity: Severity = "error" if _blew_up(observed) else "warning"
        return [
            self.finding(
                f"the loss is a sum over the batch: {split.whole:.4g} for {split.samples} samples, {split.halves[0]:.4g} and "
                f"{split.halves[1]:.4g} for its halves",
                severity=severity, observed=split.whole, limit=split.whole / split.samples, total=split.samples, pattern="sum",
                evidence=f"its gradient is {split.samples} times that of the mean"
                + ("; at this rate the loss rises first" if severity == "error" else ""),
                likely="reduction='sum', or a missing division by the batch size",
                hint=f"average the loss, or divide the rate by {split.samples}",
            )
        ]

    def _only_guesses(
        self, first: InitialLoss, observed: RateObservation | None, longer: LongerRun | None
    ) -> RateRun | None:
        """Where the run at the user's rate fell from far above the guess to the guess: the lower rate that learns more."""
        run = observed.own if observed is not None else None
        if observed is None or run is None or not self._wide(first):
            return None
        seen, run = (longer.predictions, longer.run) if longer is not None else (observed.predictions, run)
        learns = not seen.after > GUESS * seen.prior or _end(first, run) < CLEARLY * seen.prior  # rare large losses aside
        if not seen.prior > 0 or run.stopped or learns or (longer is not None and nearing(run, seen)):
            return None
        lower = [one for one in observed.runs if one.factor < 1.0 and not one.stopped and one.losses]
        learnt = [one for one in lower if _end(first, one) < CLEARLY * seen.prior]
        return max(learnt, key=lambda one: one.factor, default=None)

    def _wide(self, first: InitialLoss) -> bool:
        return first.data_loss > self.factor * first.uniform + 1.0

    def _far(self, first: InitialLoss, observed: RateObservation | None, lower: RateRun | None) -> list[Finding]:
        if not first.data_loss > self.warn * first.uniform:
            return []
        run = observed.own if observed is not None else None
        after = _end(first, run) if run is not None else math.nan
        far = after > self.warn * first.uniform and not after < (1 - FELL) * first.data_loss
        stays = run is not None and bool(run.stopped or far)
        guess = f"log({first.classes})" if first.kind in ("cross_entropy", "nll") else "log(2)"
        ends = f"after {len(run.losses)} steps: {after + first.loss - first.data_loss:.4g}" if run is not None else ""
        hint = "scale the output layer's initialisation down; standardise the inputs"
        if lower is not None:
            ends = f"{ends}, which is a guess, and no better after {LONGER} times as many; lr {lower.lr:.3g} learns more"
            hint = f"{hint}; or lr={lower.lr:.2g}"
        return [
            self.finding(
                f"the loss before training is {first.data_loss:.4g}, {first.data_loss / first.uniform:.3g} times that of a "
                f"uniform guess, {guess} = {first.uniform:.4g}",
                severity="error" if self._wide(first) and (stays or lower is not None) else "warning",
                observed=first.data_loss, limit=self.factor * first.uniform + 1.0, evidence=ends,
                likely="weights or data on too large a scale, or labels that do not belong to these inputs", hint=hint,
            )
        ]


def _end(first: InitialLoss, run: RateRun) -> float:
    """The median loss over the end of a run, without what regularisers added before training."""
    end = float(np.median(run.losses[run.tail])) if run.losses else math.nan
    return end - first.loss + first.data_loss


def _blew_up(observed: RateObservation | None) -> bool:
    """Whether the run at the user's rate rose above its start by much, or diverged."""
    run: RateRun | None = observed.own if observed is not None else None
    if observed is None or run is None:
        return False
    limits = RateLimits()
    scale = scale_of(observed.runs, observed.worth)
    return bool(run.stopped or run.rise > limits.rise * scale or verdict(run, observed.runs, observed.worth, limits))
