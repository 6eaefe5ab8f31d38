"""GG403."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.rate_observation import LongerRun, RateObservation
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict
from gradguard.rules.base import Rule

__all__ = ["StalledTraining"]


@dataclass(frozen=True, kw_only=True)
class StalledTraining(Rule):
    """The learning rate is zero, or far below what this model could take: nothing moves.

    What it does:
        Compares the gain of the run at the rate as set with those of runs at 10, 100 and more times of it, from the same
        state on the same batches. Where a larger rate holds and gains a hundred times as much, the run is made four times
        as long, and fails if it then still has not reached a fiftieth of the larger rate's gain.

    Why is this bad:
        Such a run looks like a model that cannot learn; the architecture gets the blame.

    What to do:
        Take the larger rate that the finding names. A rate of 0 comes from a scheduler that has run out, or from a typing
        error.

    When it is healthy:
        A converged model, where no rate gains anything: silent. A frozen group with rate 0 beside others that move: a
        warning.

    Options:
        stalled: the part of a larger rate's gain below which the run stalls.
        confirmed: the same, for the longer run.
        worthwhile: the part of the loss at the start, or of what the weights are worth, that the larger rate must gain.
        moved: the relative change of the weights that the larger rate must make: less is convergence.

    References:
        ZClip and fastai's finder look at one rate's curve only; the comparison from the same state is gradguard's own.
    """

    code: ClassVar[str] = "GG403"
    slug: ClassVar[str] = "stalled-training"
    needs: ClassVar[tuple[str, ...]] = ("rate_observation",)

    stalled: float = 0.01
    confirmed: float = 0.02
    worthwhile: float = 0.1
    moved: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("stalled", "confirmed", "worthwhile", "moved"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{self.code} takes {name} between 0 and 1, got {getattr(self, name)!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """An error where nothing moves at this rate and much at a larger one."""
        observed: RateObservation = the(evidence, RateObservation)
        run = observed.own
        if run is None:
            return self.outcome([self._zero(observed)])
        findings = self._zero_groups(observed)
        if observed.broken:
            return Outcome(status="skipped", reason=observed.broken)
        larger = self._larger(observed, run)
        if larger is None or observed.objective != "supervised":
            return self.outcome(findings)
        ratio = max(run.gain + run.error, 0.0) / larger.gain
        if ratio >= 10 * self.stalled:
            return self.outcome(findings, margin=self.stalled / ratio)
        longer: LongerRun | None = the(evidence, LongerRun)
        if ratio < self.stalled and longer is None and LongerRun.name not in evidence:
            reason = f"gains {ratio:.1%} of what {larger.factor:.3g} times the rate gains"
            return Outcome(status="inconclusive", reason=reason, requests=(Request(measurement=LongerRun.name),))
        after = max(longer.run.gain + longer.run.error, 0.0) / larger.gain if longer is not None else ratio
        failed = ratio < self.stalled and after < self.confirmed
        shown = run.gain if longer is None else longer.run.gain
        steps = len(run.losses) if longer is None else len(longer.run.losses)
        findings.append(
            self.finding(
                f"at lr {observed.unit:.4g} the loss falls by {max(shown, 0.0):.2g} in {steps} steps; "
                f"{larger.factor:.3g} times that rate holds and gains {larger.gain:.2g} in {len(larger.losses)}",
                severity="error" if failed else "info", observed=observed.unit, limit=larger.lr,
                evidence=f"median update / weight {run.update_ratio:.1g} per step, against {larger.update_ratio:.1g}",
                likely="the learning rate is far below what this model could take",
                hint=f"lr={larger.lr:.2g}, or what lies between",
            )
        )
        return self.outcome(findings, margin=self.stalled / max(ratio, 1e-12))

    def _larger(self, observed: RateObservation, run: RateRun) -> RateRun | None:
        """The best of the runs at larger rates that hold and that gain something worth having by moving the weights."""
        limits = RateLimits()
        if verdict(run, observed.runs, observed.worth, limits):
            return None
        start = float(np.mean(np.abs(run.before))) if run.before else 0.0
        start = max(start, observed.worth) if math.isfinite(observed.worth) else start
        good = [
            other for other in observed.runs
            if other.factor > run.factor and not verdict(other, observed.runs, observed.worth, limits)
            and other.gain - other.error > self.worthwhile * start and other.movement > self.moved
        ]
        return max(good, key=lambda other: other.gain, default=None)

    def _zero(self, observed: RateObservation) -> Finding:
        return self.finding(
            f"the learning rate of {observed.optimizer} is 0 in every group: nothing moves", observed=0.0,
            likely="a scheduler that has run to its end, or was stepped too often", hint="set a rate above 0",
        )

    def _zero_groups(self, observed: RateObservation) -> list[Finding]:
        still = [i for i, rate in enumerate(observed.rates) if rate == 0]
        if not still:
            return []
        groups = ", ".join(map(str, still))
        return [
            self.finding(
                f"the learning rate of parameter group {groups} is 0, of the others not", severity="warning", observed=0.0,
                count=len(still), total=len(observed.rates), hint="freeze with requires_grad=False to say that it is meant",
            )
        ]
