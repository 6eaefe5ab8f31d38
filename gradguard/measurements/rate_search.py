"""The search for the largest rate that holds: short runs by decades, then longer ones where the limit is believed to be."""

from __future__ import annotations

import math
from dataclasses import replace

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import RateProblem
from gradguard.measurements.rate_belief import likely_limit
from gradguard.measurements.rate_predictions import Predictions, predictions_of
from gradguard.measurements.rate_runs import losses_before, observed, thrown_away, worth_of
from gradguard.measurements.rate_verdict import RateLimits, RateRun, scale_of, verdict

__all__ = ["LONGER", "RateSearch", "horizon"]

RUNS = 10
"""At most this many runs."""
FOR_LONGER = 2
"""So many of them are left for longer runs."""
FARTHEST, DEPTH = 1e8, 1e-4
"""How far above and below the user's rate is looked."""
STILL, LITTLE = 1e-3, 0.03
"""Weights that a run changes by less than this part have not moved (the next rate is a hundredfold), or too little to be
thrown off their way."""
LEARNT, HALF = 0.1, 0.5
"""A run that gains this part of the loss has learnt something, or much of it."""
WIDE, GUESS = 2.0, 0.95
"""Nothing is learnt by coming down from more than this many times the loss of guessing the labels to this part of it."""
LONGER = 6
"""Runs near the limit, and those that confirm a verdict, are this many times as long as the first ones."""


def horizon(problem: RateProblem, settings: Settings) -> tuple[int, int]:
    """The lengths of the first runs and of the longer ones, in steps; the first reach a near peak of the schedule."""
    longer = LONGER * settings.steps
    peak = problem.plan.peak[1]
    return settings.steps if peak < settings.steps // 2 else min(peak + settings.steps // 2, longer), longer


class RateSearch:
    """The runs so far, and what they say: ``low`` holds, ``high`` diverged, the limit is most likely at ``limit``."""

    def __init__(self, problem: RateProblem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        losses = losses_before(problem, settings)
        self.before = dict(enumerate(losses))
        self.worth = worth_of(problem, settings, self.before)
        self.steps, self.longer = horizon(problem, settings)
        self.predictions = Predictions()
        """Of the run at the user's rate."""
        self.short: dict[float, RateRun] = {}
        self.long: list[RateRun] = []
        self.low, self.high, self.limit = 0.0, math.inf, math.inf
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        self.broken = f"the loss of batch {bad[0]} is not finite before training" if bad else ""

    @property
    def runs(self) -> tuple[RateRun, ...]:
        """All runs, the short ones first."""
        return (*self.short.values(), *self.long)

    def explore(self) -> None:
        """At most ``RUNS`` runs; one where the user's rate cannot take a step."""
        first = self._short(1.0, keep="rate")
        if first.stopped and len(first.losses) <= 1 and not first.after:
            self.broken = self.broken or first.stopped
        if self.broken:
            return
        self.predictions = predictions_of(self.problem, self.settings)
        self._short(0.1)
        self._down_to_a_measure()
        self._decades()
        self._bracket()
        if self.problem.plan.refine and self.low > 0:
            self._refine()

    def _down_to_a_measure(self) -> None:
        """Further down, until some run shows what a rate that is not too high gains."""
        factor = 0.1
        while factor > 2 * DEPTH and self.short[factor].movement > LITTLE and not self._measured(factor):
            factor /= 10.0
            self._short(factor)

    def _measured(self, factor: float) -> bool:
        """Whether the runs down to this factor show what there is to gain, or all of them may be too high.

        They may where none learns; where the lowest was thrown off its way, too; and where it gains no less than the next
        higher one: on a plateau all rates gain the same, what guessing gains. A run that gains half of the loss is measure
        enough, for nothing gains twice as much.
        """
        if any(self._learns(run, HALF) for run in self.short.values()):
            return True
        low, higher = self.short[factor], self.short[10.0 * factor]
        thrown = low.rise > RateLimits().rise * scale_of(self.runs, self.worth)
        level = not higher.stopped and low.gain + low.error >= higher.gain
        return any(map(self._learns, self.short.values())) and not thrown and not level

    def _learns(self, run: RateRun, share: float = LEARNT) -> bool:
        seen = self.predictions
        end = seen.before - run.gain
        guesses = seen.before > WIDE * seen.prior > 0 and end > GUESS * seen.prior
        return not run.stopped and not guesses and run.gain - run.error > share * run.level

    def _decades(self) -> None:
        factor = 1.0
        if self._holds(self.short[1.0]) and self._holds(self.short[0.1]):
            longer = self.problem.plan.refine
            while self._farther(factor) and self._holds(self.short[factor]) and not (longer and self._fading()):
                factor *= 100.0 if self.short[factor].movement < STILL else 10.0
                self._short(factor)
            return
        factor = min(self.short)
        while factor > 2 * DEPTH and not (self._holds(self.short[factor]) and self._holds(self.short[10 * factor])):
            # one decade further down than the first that holds: only beside it is seen how little that one gains
            factor /= 10.0
            self._short(factor)

    def _fading(self) -> bool:
        """The highest rate gains less than half of one two decades below: how far up rates last, longer runs must say."""
        best = max(self.short.values(), key=lambda run: run.gain)
        highest = [self.short[factor] for factor in sorted(self.short)[-2:]]
        return self._learns(best, LEARNT) and best not in highest and highest[-1].gain < HALF * best.gain

    def _farther(self, factor: float) -> bool:
        return len(self.short) < RUNS - FOR_LONGER and factor < FARTHEST

    def _refine(self) -> None:
        """Longer runs where the limit is most likely, each with the batches in another order, as far as runs are left."""
        held, high = self.low, self.high
        if high == math.inf:  # no short run diverges: does the largest rate last?
            lasts = self._long(held)
            while lasts is not None and self._holds(lasts) and self._fading() and held < FARTHEST:
                held *= 10.0
                lasts = self._long(held)
            if lasts is None or self._holds(lasts):
                self._bracket()
                return
            held = max((run for run in self.runs if self._holds(run)), key=lambda run: run.gain).factor
        if not any(self._learns(run, HALF) for run in self.short.values() if run.factor <= held):
            # only a longer run shows what there is to gain where training starts slowly, and a lower rate where on a plateau
            first = self._long(held)
            if first is not None and not self._learns(first, HALF):
                lower = self._long(held / 10.0)
                if lower is not None and not self._learns(lower) and first.gain - first.error <= lower.gain:
                    self._long(held / 10.0**0.5)  # a plateau may be left at rates of less than a decade alone
        ceiling = high if high < math.inf and self.short[high].stopped else math.inf
        while self._more():
            self._long(self._likely(held, ceiling))
        self._bracket(self._likely(held, ceiling))

    def _likely(self, held: float, ceiling: float) -> float:
        return likely_limit(held, [(run.factor, not self._holds(run)) for run in self.long], ceiling)

    def _more(self) -> bool:
        return len(self.runs) < RUNS

    def _short(self, factor: float, keep: str = "") -> RateRun:
        if factor not in self.short and self._more():
            self.short[factor] = self._run(factor, self.steps, 0, keep)
        return self.short[factor]

    def _long(self, factor: float) -> RateRun | None:
        """One more, with the batches shuffled as a loader would: in one order, again and again, more holds."""
        if not self._more():
            return None
        run = self._run(factor, self.longer, len(self.long) + 1)
        self.long.append(replace(run, long=self.longer > self.steps))
        return self.long[-1]

    def _run(self, factor: float, steps: int, order: int, keep: str = "") -> RateRun:
        until = None
        if self.problem.objective == "supervised" and steps > self.steps:
            until = thrown_away(self.before, scale_of(self.runs, self.worth), self.steps)
        return observed(self.problem, factor, steps, self.settings.seed, order, self.before, until=until, keep=keep)

    def _holds(self, run: RateRun) -> bool:
        return not verdict(run, self.runs, self.worth, RateLimits())

    def _bracket(self, limit: float | None = None) -> None:
        """Around a limit: the largest rate tried below it that holds, and the smallest above it that diverged.

        Without one, the smallest rate that diverged is above it, and it is the middle. At each rate the last, longest run
        counts.
        """
        tried = {run.factor: self._holds(run) for run in self.runs}
        failed = [factor for factor, holds in tried.items() if not holds]
        self.high = min((factor for factor in failed if limit is None or factor >= limit), default=math.inf)
        top = self.high if limit is None else limit
        self.low = max((factor for factor, holds in tried.items() if holds and factor <= top), default=0.0)
        if not failed:
            self.limit = math.inf
        else:
            self.limit = math.sqrt(self.low * self.high) if limit is None else limit
