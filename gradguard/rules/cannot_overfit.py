"""GG405."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.curvature import Curvature
from gradguard.measurements.overfit import OneBatch, Overfit
from gradguard.rules.base import Rule

__all__ = ["CannotOverfit"]

CONSTANT = 1e-3
"""A loss whose changes are below this part of what one step would make of it has a gradient that is not its own."""

SURROGATE = (
    "the loss is the same whatever the weights are, although its gradient is not 0: a surrogate whose value says nothing "
    "(a policy gradient: declare objective='reinforcement')"
)


@dataclass(frozen=True, kw_only=True)
class CannotOverfit(Rule):
    """One batch cannot be learnt, at any rate that was tried.

    What it does:
        Where the short runs have learnt nothing worth mentioning, trains copies on one batch alone, at the rate as set, at
        the best rate seen, at larger ones that hold, at a tenth and a third, and asks whether the best is better than the best
        constant guess for that batch (cross-entropy against the labels' entropy, squared error against their variance);
        where that is not known, whether the loss falls at all and the output differs between samples. A run that is still
        falling at its end proves nothing, and passes.

    Why is this bad:
        A model that cannot learn one batch by heart will not learn the data: its loss, its head, its labels or its
        gradients are broken.

    What to do:
        Look at the other findings: a cut graph, dead or saturated units, a head that cannot reach the labels.

    When it is healthy:
        A model that is already fitted; a model with fewer parameters than the batch has samples (a warning). A loss that
        is the same whatever the weights are while its gradient is not 0 (ratios of a policy to itself) says nothing, and is
        not judged.

    Options:
        prior: the part of the best constant guess's loss that must be beaten.
        progress: the part of the loss that must be gained, where the guess is not known.
        spread: where it is not known, an output that differs less than this over the samples is a constant guess too.

    References:
        Karpathy 2019, A Recipe for Training Neural Networks: overfit a single batch.
    """

    code: ClassVar[str] = "GG405"
    slug: ClassVar[str] = "cannot-overfit"
    needs: ClassVar[tuple[str, ...]] = ("overfit",)
    optional: ClassVar[tuple[str, ...]] = ("rate_observation", "curvature")

    prior: float = 0.95
    progress: float = 0.02
    spread: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("prior", "progress", "spread"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{self.code} takes {name} between 0 and 1, got {getattr(self, name)!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """An error where no run beat the guess."""
        tried: Overfit = the(evidence, Overfit)
        if not tried.runs:
            return Outcome(status="passed", reason=tried.learnt)
        if tried.objective != "supervised":
            return Outcome(status="skipped", reason=f"not judged for objective {tried.objective!r}")
        if tried.trainable == 0:
            return self.outcome([self._frozen()])
        whole = [run for run in tried.runs if not run.stopped]
        if self._constant(tried, whole):
            return Outcome(status="skipped", reason=SURROGATE)
        if self._fitted(tried):
            return Outcome(status="passed", reason="already fitted")
        if not whole:
            return Outcome(status="skipped", reason=f"no run on one batch stays finite: {tried.runs[0].stopped}")
        if any(run.midway - run.after > self.progress * abs(run.after) and run.after < run.before for run in whole):
            return Outcome(status="passed", reason=f"still falling after {whole[0].steps} steps")
        scores = [self._score(run) for run in whole]
        score, run = min(zip(scores, whole, strict=True), key=lambda pair: pair[0])
        if score < 1.0:
            return Outcome(status="passed", margin=score)
        known = math.isfinite(run.prior) and math.isfinite(run.data_loss)
        against = f"the best constant guess has {run.prior:.4g}" if known else f"it began at {run.before:.4g}"
        if not known and run.spread < self.spread:
            against += ", and the output is the same for every sample"
        shown = run.data_loss if known else run.after
        broken = "a head, loss or labels that contradict each other, or a gradient that does not arrive"
        small = tried.trainable < 2 * tried.samples
        finding = self.finding(
            f"one batch cannot be learnt: after {run.steps} steps on it the loss is {shown:.4g}; {against}",
            severity="warning" if small else "error", observed=shown,
            limit=self.prior * run.prior if known else (1 - self.progress) * run.before, count=len(tried.runs),
            evidence="; ".join(
                ["rates tried: " + ", ".join(f"{r.lr:.3g} ({r.after:.4g})" for r in tried.runs), *self._where(evidence)]
            ),
            likely="fewer parameters than the batch needs" if small else broken,
            hint="look at the other findings first",
        )
        return self.outcome([finding], margin=score)

    def _frozen(self) -> Finding:
        return self.finding(
            "nothing can be learnt: no parameter requires a gradient", observed=0.0,
            likely="all of the model is frozen, and the part that should learn with it",
            hint="requires_grad_(True) on that part",
        )

    def _where(self, evidence: Evidence) -> list[str]:
        """What "stuck" means here: a slope that leads down (negative curvature), or the bottom of something."""
        curvature: Curvature | None = the(evidence, Curvature)
        if curvature is None or not curvature.groups:
            return []
        group = curvature.groups[0]
        saddle = group.lambda_min < -0.01 * abs(group.lambda_max) - group.error_bar
        where = "a saddle: there is a way down" if saddle else "no direction curves down"
        return [f"curvature at the start from {group.lambda_min:.3g} to {group.lambda_max:.3g}, {where}"]

    @staticmethod
    def _constant(tried: Overfit, runs: Sequence[OneBatch]) -> bool:
        """Whole runs, and the weights at 0, changed the loss by next to nothing of what one step's gradient says."""
        changes = [abs(tried.null - tried.before), *(run.moved for run in runs)]
        reach = max((run.reach for run in runs), default=math.nan)
        return reach > 0 and all(change < CONSTANT * reach for change in changes)

    def _score(self, run: OneBatch) -> float:
        """1 or more where the run did not beat the guess."""
        if math.isfinite(run.prior) and math.isfinite(run.data_loss) and run.prior > 0:
            return run.data_loss / (self.prior * run.prior)
        if not math.isfinite(run.before) or (run.spread < self.spread and run.after > 0.05 * abs(run.before)):
            return math.inf
        gained = run.before - run.after
        return self.progress * abs(run.before) / gained if gained > 0 else math.inf

    def _fitted(self, tried: Overfit) -> bool:
        """Better than the guess before any training, or worth half of the loss without weights."""
        if math.isfinite(tried.prior) and math.isfinite(tried.start):
            return tried.start < self.prior * tried.prior
        return abs(tried.null - tried.before) > 0.5 * abs(tried.null) and tried.before < tried.null
