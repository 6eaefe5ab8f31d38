"""GG401."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.curvature import Curvature
from gradguard.measurements.overshoot import Overshoot
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_predictions import Predictions
from gradguard.measurements.rate_verdict import RateLimits, RateRun, verdict
from gradguard.rules.base import Rule

__all__ = ["DivergingLearningRate"]

ONLY_FINITE = ("adversarial", "reinforcement")
"""Objectives whose loss is not meant to fall: only what is not finite counts."""

LIKELIHOODS = ("cross_entropy", "bce")
LOST = 1.5
"""Predictions of a likelihood that are this many times as bad as before training, and as a guess, are being unlearnt."""


@dataclass(frozen=True, kw_only=True)
class DivergingLearningRate(Rule):
    """Training diverges at this learning rate.

    What it does:
        Trains copies for a short while from the state that it was given, at the rate as set, a tenth and ten times of it,
        and between, on the same batches. Diverged is: not finite; the same batches' loss ends above where it began; a
        blow-up after which a lower rate has gained at least twice as much; or hardly any gain where a lower rate has ten
        times as much. What is finite is confirmed by a run six times as long, against a lower rate's run of that length, and
        by one more with the batches in another order; where the two disagree with each other or with the runs at other
        rates, most of up to five orders decide. The finding names the rate that holds and the interval of the limit.
        Curvature (the largest eigenvalue of the preconditioned Hessian) explains it. A loss that falls while the likelihood
        of the labels gets far worse than guessing them (the sign is wrong) is an error, too, where a longer run confirms it;
        so is one that falls far below zero and no more slowly than at first, and is lower still further along the way that the
        weights went: it has no lower bound.

    Why is this bad:
        The run is lost, or it goes on with dead units and a loss no better than guessing.

    What to do:
        Take the rate that holds, warm up, clip the gradient, or average the loss over the batch where it is a sum.

    When it is healthy:
        A loss that rises and then falls below where lower rates are (catapult), sharpness at 2 / lr (edge of stability),
        warm-up, restarts, noise of small batches: none of these is a finding. Of a loss that is declared not to fall
        (``objective="adversarial"`` or ``"reinforcement"``) only what is not finite is one. A rate above the first-step
        limit alone is an info.

    Options:
        worse: the end lies this part of the scale above the start.
        rise: a rise of this part of the scale is a blow-up.
        recovered: the part of a lower rate's gain that must be reached after a blow-up, and by the longer run.
        reached: the part of a lower rate's gain that must be reached by a short run without one.
        overshoot: what the median step adds to the loss of its own batch, as a part of the scale.

    References:
        Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability; Lewkowycz et al.
        2020, The Large Learning Rate Phase of Deep Learning: the Catapult Mechanism.
    """

    code: ClassVar[str] = "GG401"
    slug: ClassVar[str] = "diverging-learning-rate"
    needs: ClassVar[tuple[str, ...]] = ("rate_observation",)
    optional: ClassVar[tuple[str, ...]] = ("curvature", "overshoot", "rate_table")

    worse: float = 0.05
    rise: float = 0.5
    recovered: float = 0.5
    reached: float = 0.1
    overshoot: float = 0.1

    def __post_init__(self) -> None:
        for name in ("worse", "rise", "recovered", "reached", "overshoot"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{self.code} takes {name} > 0, got {getattr(self, name)!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """An error where the run at the user's rate diverged, and again when it was made longer."""
        observed: RateObservation = the(evidence, RateObservation)
        run = observed.own
        if run is None:
            return Outcome(status="skipped", reason="every learning rate is 0")
        if observed.broken:
            return Outcome(status="skipped", reason=f"{observed.broken}: that is not the rate's fault")
        limits = RateLimits(
            worse=self.worse, rise=self.rise, recovered=self.recovered, reached=self.reached, overshoot=self.overshoot
        )
        if ascending(run, observed.predictions) and not verdict(run, observed.runs, observed.worth, limits):
            unlearnt = self._unlearnt(observed, evidence)
            if unlearnt is not None:
                return unlearnt
        reason = suspect = observed.doubt(limits)
        if suspect and not run.stopped:
            if observed.objective in ONLY_FINITE:
                return Outcome(status="passed", reason=f"{suspect}; not judged for objective {observed.objective!r}")
            longer: LongerRun | None = the(evidence, LongerRun)
            if longer is None:
                if LongerRun.name in evidence:
                    return Outcome(status="inconclusive", reason=evidence[LongerRun.name].reason)
                return Outcome(status="inconclusive", reason=suspect, requests=(Request(measurement=LongerRun.name),))
            runs = (*observed.runs, *([longer.reference] if longer.reference is not None else []))
            reason = longer.most(runs, observed.worth, limits)
            falling = [one for one in (longer.run, *longer.again) if one.boundless(observed.worth)]
            if len(falling) > len(longer.again) / 2 and not (observed.schedule or longer.run.stopped or longer.turns):
                return Outcome(status="failed", findings=(self._boundless(observed, falling[0]),), margin=math.inf)
            only_deep = run.plunges and not verdict(run, observed.runs, observed.worth, limits) and observed.limit >= 1.0
            if only_deep and not longer.run.stopped:  # the question was whether it has an end, not which rate gains more
                reason = ""
            if not reason:
                return Outcome(status="passed", reason=f"recovers within {len(longer.run.losses)} steps: {suspect}", margin=1.0)
        margin = math.inf if observed.limit == 0 else 1.0 / observed.limit
        if reason:
            found = self._unbounded(observed, evidence, reason) or self._diverged(observed, evidence, reason, limits)
            return Outcome(status="failed", findings=(found,), margin=margin)
        return self.outcome(self._at_the_edge(observed, evidence), margin=margin)

    def _unlearnt(self, observed: RateObservation, evidence: Evidence) -> Outcome | None:
        """Predictions that got worse while the loss fell, confirmed by a longer run: its last step may be an unlucky one."""
        if LongerRun.name not in evidence:
            reason = "the loss falls while the predictions get worse"
            return Outcome(status="inconclusive", reason=reason, requests=(Request(measurement=LongerRun.name),))
        longer: LongerRun | None = the(evidence, LongerRun)
        seen = observed.predictions if longer is None or not longer.predictions.kind else longer.predictions
        if longer is None or longer.run.stopped or ascending(longer.run, seen):
            return Outcome(status="failed", findings=(self._ascent(observed, seen),), margin=math.inf)
        return None

    def _diverged(self, observed: RateObservation, evidence: Evidence, reason: str, limits: RateLimits) -> Finding:
        where = interval(observed)
        message = f"{observed.optimizer} at lr {named(observed)} diverges: {reason}; "
        held = held_below(observed, limits)
        lowest = min(run.factor for run in observed.runs)
        allowed = first_step_factor(evidence)
        likely = "the learning rate is too high for this model, its initialisation or the scale of its data"
        if held is not None:
            safe = named(observed, held.factor, digits=2)
            message += f"lr {safe} holds"
            hint = f"lr={safe}, a warm-up to it, or clipping; {where}"
        elif 0 < allowed < lowest:
            down, edge = lowest * observed.unit, allowed * observed.unit
            message += f"so it does down to {down:.2g}, and first steps overshoot above {edge:.2g}"
            hint = "the scale of the loss and of the data, or a rate that is far lower still"
        else:
            message += f"no rate down to {lowest * observed.unit:.2g} helps"
            hint = "look at the other findings first; a lower rate does not help"
            likely = "not the rate: the sign of the loss or gradient (ascent), a loss that is not finite, or unscaled data"
            if observed.schedule and observed.peak[0] > 1.0:
                likely = f"the schedule ({observed.schedule}), whose factor rises to {observed.peak[0]:.3g}; or {likely}"
        return self.finding(
            message, observed=observed.unit, limit=observed.limit * observed.unit, count=len(observed.runs),
            evidence="; ".join([observed.lengths, *explain(evidence), where]),
            likely=likely, hint=hint,
        )

    def _unbounded(self, observed: RateObservation, evidence: Evidence, reason: str) -> Finding | None:
        """A loss that fell far below zero before it was lost; then a lower rate only takes longer."""
        longer: LongerRun | None = the(evidence, LongerRun)
        runs = (observed.own, *((longer.run, *longer.again) if longer is not None else ()))
        fell = min((min(run.losses) for run in runs if run is not None and run.plunges), default=None)
        if fell is None:
            return None
        return self.finding(
            f"{observed.optimizer} at lr {observed.unit:.4g} diverges: {reason}; before that the loss fell to {fell:.3g}, many "
            "times its size, as one without a lower bound does",
            observed=fell, pattern="ascent", count=len(observed.runs), evidence=observed.lengths,
            likely="the loss or the gradient has the wrong sign, or a term of the loss has no lower bound",
            hint="look at the sign of the loss; a lower rate only takes longer",
        )

    def _boundless(self, observed: RateObservation, run: RateRun) -> Finding:
        return self.finding(
            f"{observed.optimizer} at lr {observed.unit:.4g}: the loss falls from {run.before[0]:.3g} to {min(run.losses):.3g} "
            f"in {len(run.losses)} steps, and no more slowly than at first, as one without a lower bound does",
            observed=min(run.losses), pattern="ascent", count=len(observed.runs), evidence=observed.lengths,
            likely="the loss or a term of it has the wrong sign, or has no lower bound",
            hint="look at the sign of each term; a lower rate only takes longer",
        )

    def _ascent(self, observed: RateObservation, seen: Predictions) -> Finding:
        return self.finding(
            f"{observed.optimizer} at lr {observed.unit:.4g} lowers the loss while the predictions get worse: "
            f"{seen.kind.replace('_', '-')} {seen.before:.3g} -> {seen.after:.3g}, guessing gives {seen.prior:.3g}",
            observed=seen.after, limit=LOST * seen.prior, pattern="ascent", evidence=observed.lengths,
            likely="the loss with the wrong sign, or a term that outweighs it", hint="minimise the loss itself; no rate helps",
        )

    def _at_the_edge(self, observed: RateObservation, evidence: Evidence) -> list[Finding]:
        findings = []
        ratio = first_step_ratio(evidence)
        if ratio > 1.0:
            findings.append(
                self.finding(
                    f"lr {named(observed)} is {ratio:.2g} times the first-step limit, and training holds",
                    severity="info", observed=ratio, limit=1.0, evidence="; ".join(explain(evidence)),
                    hint="nothing: the edge of stability; a warm-up would spare the first overshoot",
                )
            )
        factor, step = observed.peak
        if step >= observed.steps and factor > 1.0:
            findings.append(
                self.finding(
                    f"the schedule's largest rate, {factor * observed.unit:.4g} at step {step}, was not reached in "
                    f"{observed.steps} steps",
                    severity="info", observed=factor * observed.unit, hint=f"steps={step + observed.steps // 2} observes it",
                )
            )
        return findings


def ascending(run: RateRun, seen: Predictions) -> bool:
    """Whether a run's loss fell while its predictions got far worse than they were, and than a guess."""
    lost = seen.kind in LIKELIHOODS and seen.after > LOST * max(seen.before, seen.prior)
    return lost and run.mean_gain > 0.5 * (seen.after - seen.before)


def held_below(observed: RateObservation, limits: RateLimits) -> RateRun | None:
    """The run to name as one that holds: the one that gains the most at half the limit or below it, else the highest below it.

    Orders of the batches and initialisations spread the limit by a factor of two, so that what held just below it may not hold
    again. None where no lower rate is better than nothing.
    """
    lower = [run for run in observed.runs if run.factor <= observed.low and run.factor < 1.0 and not run.stopped]
    if not any(run.worst_case >= 0 for run in lower):
        return None
    lasting = [
        run for run in lower
        if run.factor <= observed.limit / 2.0 and run.gain > 0 and not verdict(run, observed.runs, observed.worth, limits)
    ]
    return max(lasting, key=lambda run: run.gain, default=max(lower, key=lambda run: run.factor))


def named(observed: RateObservation, factor: float = 1.0, digits: int = 4) -> str:
    """The rates of all groups at a factor, and at the schedule's peak where the runs reach it."""
    rates = sorted({rate * factor for rate in observed.rates if rate > 0})
    shown = [f"{rate:.{digits}g}" for rate in rates]
    text = " / ".join(shown) if len(shown) <= 3 else f"{shown[0]} to {shown[-1]}"
    peak, step = observed.peak
    if peak != 1.0 and step < observed.steps:
        text += f" ({peak * rates[-1]:.{digits}g} at the schedule's peak)"
    return text


def interval(observed: RateObservation) -> str:
    """The interval of the training limit as a text."""
    low, high = observed.low * observed.unit, observed.high * observed.unit
    if observed.limit == math.inf:
        return f"every rate up to {max(run.lr for run in observed.runs):.2g} holds"
    if low == 0:
        return f"the training limit is below {high:.2g}"
    if high == math.inf:
        near = f"{observed.limit * observed.unit:.2g}"
        return f"the training limit is near {near}: {low:.2g} holds, and no rate above {near} was lost"
    return f"the training limit is between {low:.2g} and {high:.2g}"


def first_step_factor(evidence: Evidence) -> float:
    """The first-step limit as a factor on the rates; NaN where it is not known."""
    overshoot: Overshoot | None = the(evidence, Overshoot)
    curvature: Curvature | None = the(evidence, Curvature)
    return overshoot.limit if overshoot is not None else curvature.factor if curvature is not None else math.nan


def first_step_ratio(evidence: Evidence) -> float:
    """The rate at the schedule's peak, in units of the first-step limit; 0 where that is not known."""
    overshoot: Overshoot | None = the(evidence, Overshoot)
    curvature: Curvature | None = the(evidence, Curvature)
    return overshoot.ratio if overshoot is not None else curvature.ratio if curvature is not None else 0.0


def explain(evidence: Evidence) -> list[str]:
    """What curvature says, and what the first steps said to that, as texts."""
    curvature: Curvature | None = the(evidence, Curvature)
    if curvature is None or not curvature.groups:
        return []
    overshoot: Overshoot | None = the(evidence, Overshoot)
    first = next((g for g in curvature.groups if g.lr > 0), curvature.groups[0])
    limit, why = first.limit, ""
    if overshoot is not None and overshoot.corrected:
        limit = overshoot.limit * first.lr
        grows = overshoot.limit < overshoot.predicted
        why = f", for curvature {'grows' if grows else 'falls'} on the way: at the start it allows {first.limit:.3g}"
    said = f"first steps overshoot above lr {limit:.3g} (lr is {first_step_ratio(evidence):.3g} times that){why}"
    if not limit < math.inf:
        said = "first steps do not overshoot at any rate that was tried"
    texts = [f"lambda_1 = {first.lambda_max:.3g} +- {first.error_bar:.1g}: {said}"]
    if len(curvature.spread) > 1:
        low, high = min(curvature.spread), max(curvature.spread)
        texts.append(f"lambda_1 from {low:.3g} to {high:.3g} over {len(curvature.spread)} batches")
    return texts


