"""GG403."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.loop_plan import LoopPlan
from gradguard.measurements.overfit import Overfit
from gradguard.measurements.progress import CLOSING, NEAR
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_predictions import Predictions
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule
from gradguard.rules.stalled_loop import standstill

__all__ = ["StalledTraining"]

BETTER = {"cross_entropy": 0.95, "bce": 0.95, "mse": 0.9, "absolute": 0.95}
"""Predictions above this share of the best constant guess's loss are no better than that guess."""
GUESS, CLEARLY = 0.95, 0.75
"""The same for one batch, and what is clearly better."""
BINDS = 1e-2
"""A norm below this part of the gradient's own is what sets the size of every step."""
ROUNDING = 1e-7
"""A relative change of the weights that is lost in float32."""
FAR_BELOW = 99.0
""""Far below" is by a factor of a hundred: within ten, it is a matter of taste."""
TOO_LOW = "the learning rate is far below what this model could take"


@dataclass(frozen=True, kw_only=True)
class StalledTraining(Rule):
    """The learning rate is zero, or far below what this model could take: nothing moves.

    What it does:
        Compares the gain of the run at the rate as set with those of runs at 10, 100 and more times of it, from the same
        state on the same batches. Where a larger rate holds and gains much more, the run is made six times as long. It
        fails where it then still has not reached a fiftieth of the larger rate's gain; or is still no better than
        guessing the labels' distribution, where a hundred times the rate comes below three quarters of that and ten times
        does not, unless it is still above the guess and comes nearer (rare positives begin far above it). Where no short
        run learns, the same is asked of one batch alone.
        An optimizer that normalises its gradient (Adam and the like; it is tried, not known by name) makes steps of the
        rate's size whatever the gradient: there it fails only where a step changes the weights by less than ``update``,
        for otherwise it is not the rate that holds training up, but how far there is to go.
        In a watched loop no other rate can be tried. There it fails where the rate is 0, or a millionth of what it was, on
        most steps; where after 100 steps every weight is where it was up to rounding, although gradients came; and where
        after 200 steps the predictions are no better than guessing, the second half brought no progress, and the weights
        moved by less than 0.2 %, from where they were at the start, or since the rate fell to a hundredth. A rate that is
        still rising is a warm-up.
        A schedule that holds the rate at 0, or ends before every batch was seen once while its largest rate would go on to
        learn far more, is named as the cause; so is a norm that gradients are clipped to far below their own.

    Why is this bad:
        Such a run looks like a model that cannot learn; the architecture gets the blame.

    What to do:
        Take the larger rate that the finding names. A rate of 0 comes from a scheduler that has run out, or from a typing
        error.

    When it is healthy:
        A converged model, where no rate gains anything: silent. A model at the start of a long training (a transformer at
        5e-5 with Adam): an info that names the larger rate. A frozen group with rate 0 beside others that move: a
        warning.

    Options:
        stalled: the part of a larger rate's gain below which the run stalls.
        confirmed: the same, for the longer run.
        worthwhile: the part of the loss at the start, or of what the weights are worth, that the larger rate must gain.
        moved: the relative change of the weights that the larger rate must make: less is convergence.
        update: the relative change of the weights in one step that is not too little, for a normalising optimizer.

    References:
        ZClip and fastai's finder look at one rate's curve only; the comparison from the same state is gradguard's own.
    """

    code: ClassVar[str] = "GG403"
    slug: ClassVar[str] = "stalled-training"
    needs: ClassVar[tuple[str, ...]] = ("rate_observation",)
    optional: ClassVar[tuple[str, ...]] = ("overfit", "loop_plan")

    stalled: float = 0.01
    confirmed: float = 0.02
    worthwhile: float = 0.1
    moved: float = 1e-3
    update: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("stalled", "confirmed", "worthwhile", "moved", "update"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{self.code} takes {name} between 0 and 1, got {getattr(self, name)!r}")

    def check(self, evidence: Evidence) -> Outcome:
        """As for other rules; a watched loop is judged by what it did."""
        run = evidence.get("training_run")
        if not isinstance(run, TrainingRun) or run.source != "watch":
            return super().check(evidence)
        stands = standstill(evidence)
        if stands is None:
            return self.outcome([])
        finding = self.finding(
            stands.message, evidence=stands.evidence, likely=stands.likely, hint=stands.hint, step=run.asked,
        )
        return self.outcome([finding])

    def judge(self, evidence: Evidence) -> Outcome:
        """An error where nothing moves at this rate and much at a larger one."""
        observed: RateObservation = the(evidence, RateObservation)
        plan: LoopPlan | None = the(evidence, LoopPlan)
        run = observed.own
        if run is None:
            return self.outcome([self._zero(observed)])
        findings = self._zero_groups(observed)
        if observed.broken:
            return Outcome(status="skipped", reason=observed.broken)
        if (held := self._held_at_zero(observed, plan)) is not None:
            return self.outcome([held])
        if observed.objective != "supervised" or verdict(run, observed.runs, observed.worth, RateLimits()):
            return self.outcome(findings)
        better = self._guessing(observed, observed.predictions)
        larger = better or max(self._good(observed), key=lambda other: other.gain, default=None)
        moves = observed.normalised and run.update_ratio > self.update
        if larger is None and (lost := self._nowhere(observed)) is not None:
            return self.outcome([*findings, lost])
        if larger is None:
            return self.outcome([*findings, *([] if moves else self._one_batch(observed, evidence))])
        reference = self._gain(larger, run)
        if reference <= 0 and moves:
            return self.outcome(findings)
        ratio = max(run.gain + run.error, 0.0) / reference if reference > 0 else 0.0
        if ratio >= 10 * self.stalled and better is None:
            return self.outcome(findings, margin=self.stalled / ratio)
        own, failed = run, False
        if not moves and (ratio < self.stalled or better is not None):
            longer: LongerRun | None = the(evidence, LongerRun)
            if longer is None and LongerRun.name not in evidence:
                reason = f"gains {ratio:.1%} of what {larger.factor:.3g} times the rate gains"
                return Outcome(status="inconclusive", reason=reason, requests=(Request(measurement=LongerRun.name),))
            if longer is not None:
                own = longer.run
                better = self._guessing(observed, longer.predictions) if not nearing(own, longer.predictions) else None
                after = max(own.gain + own.error, 0.0) / larger.gain_after(len(own.losses))
                failed = better is not None or (ratio < self.stalled and after < self.confirmed)
                larger = better or larger
        stuck = [] if failed or moves else self._one_batch(observed, evidence)
        if stuck:
            return self.outcome([*findings, *stuck])
        steps = min(len(own.losses), len(larger.losses))
        likely, hint = self._cause(observed, own, larger, plan)
        findings.append(
            self.finding(
                f"at lr {observed.unit:.4g} the loss falls by {max(own.gain, 0.0):.2g} in {len(own.losses)} steps; "
                f"{larger.factor:.3g} times that rate holds and gains {self._gain(larger, own):.2g} in {steps}",
                severity="error" if failed else "info", observed=observed.unit, limit=larger.lr,
                evidence=f"median update / weight {own.update_ratio:.1g} per step, against {larger.update_ratio:.1g}",
                likely=likely, hint=hint,
            )
        )
        return self.outcome(findings, margin=self.stalled / max(ratio, 1e-12))

    def _nowhere(self, observed: RateObservation) -> Finding | None:
        """Where the rate is so low that the largest one tried moves no weight, although there is much to learn."""
        seen, run = observed.predictions, observed.own
        guesses = seen.kind in BETTER and seen.prior > 0 and seen.after > BETTER[seen.kind] * seen.prior
        moved = any(one.movement > ROUNDING or one.farthest > ROUNDING for one in observed.runs)
        if run is None or not guesses or not run.gradient_first > 0 or moved:
            return None
        highest = max(one.factor for one in observed.runs)
        return self.finding(
            f"at lr {observed.unit:.4g} no weight moves, nor at {highest:.3g} times that rate", observed=observed.unit,
            evidence=f"a gradient of norm {run.gradient_first:.2g}", likely=TOO_LOW, hint="a rate of the usual size",
        )

    def _held_at_zero(self, observed: RateObservation, plan: LoopPlan | None) -> Finding | None:
        """Where not the rate but its schedule is what keeps training from going on."""
        if observed.peak[0] == 0:
            return self.finding(
                f"the schedule ({observed.schedule}) holds the learning rate at 0 at every step that was looked at",
                observed=0.0, likely="a factor that is rounded down to 0, or a scheduler that has run to its end",
                hint="print the factors of the first steps",
            )
        run = observed.own
        if observed.idle >= observed.steps:
            return self.finding(
                f"the schedule ({observed.schedule}) holds the learning rate at 0 for the first {observed.idle} steps",
                observed=0.0, likely="a factor that is rounded down to 0, or one for epochs that is stepped with every batch",
                hint="print the factors of the first steps",
            )
        flat = plan.flat if plan is not None and observed.objective == "supervised" else None
        if plan is None or run is None or flat is None or flat.stopped:
            return None
        if verdict(run, observed.runs, observed.worth, RateLimits()) or not self._worthwhile(flat, observed):
            return None
        ratio = max(run.gain + run.error, 0.0) / flat.gain
        if ratio >= RateLimits().reached:
            return None
        return self.finding(
            f"the schedule ({plan.source}) holds the learning rate at nothing from step {plan.end} on: the loss falls by "
            f"{max(run.gain, 0.0):.2g}; lr {flat.lr:.4g} without it gains {flat.gain:.2g} in {len(flat.losses)} steps",
            severity="error" if ratio < self.confirmed else "warning", observed=flat.lr, limit=flat.lr,
            likely="a scheduler made for far fewer steps, or one for epochs that is stepped with every batch",
            hint="give the schedule the number of optimizer steps; to this check, as a function of the step",
        )

    def _cause(self, observed: RateObservation, run: RateRun, larger: RateRun, plan: LoopPlan | None) -> tuple[str, str]:
        """What is likely, and what to do: a norm that gradients are clipped to, a warm-up, or the rate."""
        if plan is not None and plan.clip is not None and plan.clip < BINDS * run.gradient_first:
            norm = f"a gradient of norm {run.gradient_first:.2g} is clipped to {plan.clip:.2g}"
            return f"{norm}, which sets the size of each step", "clip to a norm near the gradient's own"
        if observed.peak[1] >= len(run.losses):
            rises = f"the schedule ({observed.schedule}) still rises at step {observed.peak[1]}"
            return f"a warm-up that is far too long: {rises}", "a shorter warm-up, or a larger rate"
        return TOO_LOW, f"lr={larger.lr:.2g}, or what lies between"

    def _gain(self, larger: RateRun, run: RateRun) -> float:
        """What a larger rate's run gains within as many steps as another run has."""
        return larger.gain_after(len(run.losses)) if len(run.losses) < len(larger.losses) else larger.gain

    def _one_batch(self, observed: RateObservation, evidence: Evidence) -> list[Finding]:
        """Where no rate learns much of all batches: one batch by heart, at this rate and at a far larger one."""
        tried: Overfit | None = the(evidence, Overfit)
        runs = tried.runs if tried is not None else ()
        own = next((run for run in runs if run.factor == 1.0 and not run.stopped), None)
        far = [run for run in runs if run.factor >= FAR_BELOW and not run.stopped]
        if own is None or not far:
            return []
        larger = min(far, key=lambda run: run.after)
        if math.isfinite(own.prior) and math.isfinite(larger.data_loss):
            way = own.before - own.prior  # what biases learn, at a rate that is not too low: the next thing may take longer
            arrived = way > self.confirmed * own.before and own.before - own.after > 0.5 * way
            stuck = own.data_loss > GUESS * own.prior and larger.data_loss < CLEARLY * larger.prior and not arrived
        else:
            gained = larger.before - larger.after
            stuck = gained > 0.5 * abs(larger.before) and own.before - own.after < self.confirmed * gained
        if not stuck:
            return []
        return [
            self.finding(
                f"at lr {observed.unit:.4g} one batch is not learnt in {own.steps} steps: loss {own.before:.4g} -> "
                f"{own.after:.4g}; {larger.factor:.3g} times that rate reaches {larger.after:.4g}",
                observed=observed.unit, limit=larger.lr, likely=TOO_LOW, hint=f"lr={larger.lr:.2g}, or what lies between",
            )
        ]

    def _guessing(self, observed: RateObservation, seen: Predictions) -> RateRun | None:
        """Where predictions are no better than guessing the labels: the lowest rate that is, if it is a hundredfold one."""
        share = BETTER.get(seen.kind)
        if share is None or not seen.prior > 0 or not seen.after > share * seen.prior:
            return None
        short = [run for run in self._good(observed) if len(run.losses) <= observed.steps]
        far = [run for run in short if seen.before - run.gain < CLEARLY * seen.prior]
        lowest = min(far, key=lambda run: run.factor, default=None)
        return lowest if lowest is not None and lowest.factor >= FAR_BELOW else None

    def _good(self, observed: RateObservation) -> list[RateRun]:
        """Runs at larger rates that hold and gain something worth having, by moving the weights."""
        run, limits = observed.own, RateLimits()
        if run is None:
            return []
        return [
            other for other in observed.runs
            if other.factor > run.factor and not verdict(other, observed.runs, observed.worth, limits)
            and (len(other.losses) <= len(run.losses) or other.factor >= FAR_BELOW)  # a longer run gains more for its length
            and self._worthwhile(other, observed)
        ]

    def _worthwhile(self, other: RateRun, observed: RateObservation) -> bool:
        """Whether a run gains something worth having, by moving the weights."""
        start = observed.own.level if observed.own is not None else 0.0
        start = max(start, observed.worth) if math.isfinite(observed.worth) else start
        return other.gain - other.error > self.worthwhile * start and other.movement > self.moved

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


def nearing(run: RateRun, seen: Predictions) -> bool:
    """Whether predictions are still above the guess, and came nearer in the second half of the run: they are on their way."""
    half, window = len(run.gains) // 2, max(1, len(run.gains) // 10)
    if not seen.after > (1 + NEAR) * seen.prior or half < window:
        return False
    gained = float(run.gains[-window:].mean() - run.gains[half - window : half].mean())
    return gained > CLOSING * (seen.after - seen.prior)
