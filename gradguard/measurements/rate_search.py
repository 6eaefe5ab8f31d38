"""The search for the largest rate that holds: short runs by decades, then longer ones by halves of the logarithm."""

from __future__ import annotations

import math
from dataclasses import replace

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import RateProblem
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
LONGER = 6
"""Runs near the limit, and those that confirm a verdict, are this many times as long as the first ones."""


def horizon(problem: RateProblem, settings: Settings) -> tuple[int, int]:
    """The lengths of the first runs and of the longer ones, in steps; the first reach a near peak of the schedule."""
    longer = LONGER * settings.steps
    peak = problem.plan.peak[1]
    return settings.steps if peak < settings.steps // 2 else min(peak + settings.steps // 2, longer), longer


class RateSearch:
    """The runs so far by factor and length, and the bracket: ``low`` holds, ``high`` diverged."""

    def __init__(self, problem: RateProblem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        losses = losses_before(problem, settings)
        self.before = dict(enumerate(losses))
        self.worth = worth_of(problem, settings, self.before)
        self.steps, self.longer = horizon(problem, settings)
        self.short: dict[float, RateRun] = {}
        self.long: dict[float, RateRun] = {}
        self.low, self.high = 0.0, math.inf
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        self.broken = f"the loss of batch {bad[0]} is not finite before training" if bad else ""

    @property
    def runs(self) -> tuple[RateRun, ...]:
        """All runs, the short ones first."""
        return (*self.short.values(), *self.long.values())

    def explore(self) -> None:
        """At most ``RUNS`` runs; one where the user's rate cannot take a step."""
        first = self._short(1.0, keep="rate")
        if first.stopped and len(first.losses) <= 1 and not first.after:
            self.broken = self.broken or first.stopped
        if self.broken:
            return
        self._short(0.1)
        self._down_to_learning()
        self._decades()
        self._bracket()
        if self.problem.plan.refine and self.low > 0 and self.high < math.inf:
            self._refine()

    def _down_to_learning(self) -> None:
        """Where rates move the weights and learn nothing, perhaps all are too high: further down, until one learns."""
        factor = 0.1
        while factor > 2 * DEPTH and self.short[factor].movement > LITTLE and not any(map(self._learns, self.short.values())):
            factor /= 10.0
            self._short(factor)

    def _learns(self, run: RateRun, share: float = LEARNT) -> bool:
        return not run.stopped and run.gain - run.error > share * run.level

    def _decades(self) -> None:
        factor = 1.0
        if self._holds(self.short[1.0]) and self._holds(self.short[0.1]):
            while self._farther(factor) and self._holds(self.short[factor]):
                factor *= 100.0 if self.short[factor].movement < STILL else 10.0
                self._short(factor)
            return
        factor = min(self.short)
        while factor > 2 * DEPTH and not (self._holds(self.short[factor]) and self._holds(self.short[10 * factor])):
            # one decade further down than the first that holds: only beside it is seen how little that one gains
            factor /= 10.0
            self._short(factor)

    def _farther(self, factor: float) -> bool:
        return len(self.short) < RUNS - FOR_LONGER and factor < FARTHEST

    def _refine(self) -> None:
        """Longer runs at the low end of the decade (further down where that does not last), at its high end, then between."""
        factor = self.low
        self._long(factor)
        if factor in self.long and not self._learns(self.long[factor], HALF):
            # only a longer run at a lower rate shows what there is to gain, where training starts on a plateau
            self._long(factor / 10.0)
        while factor > 2 * DEPTH and factor in self.long and not self._holds(self.long[factor]):
            factor /= 10.0
            self._long(factor)
        self._bracket()
        if self.low in self.long and self.high < math.inf:
            self._long(self.high)
            self._bracket()
        while self.low > 0 and self._more():
            if self.high == math.inf:  # what a short run took for divergence came back in a longer one
                factor = 10.0 * self.low
            elif self.high / self.low > 2.0:
                factor = math.sqrt(self.low * self.high)
            else:  # an end that was seen in a short run only
                factor = self.low if self.low not in self.long else self.high
            if factor in self.long or factor > FARTHEST:
                break
            self._long(factor)
            self._bracket()

    def _more(self) -> bool:
        return len(self.short) + len(self.long) < RUNS

    def _short(self, factor: float, keep: str = "") -> RateRun:
        if factor not in self.short and self._more():
            self.short[factor] = self._run(factor, self.steps, keep)
        return self.short[factor]

    def _long(self, factor: float) -> None:
        if factor not in self.long and self._more():
            self.long[factor] = self._run(factor, self.longer, "")

    def _run(self, factor: float, steps: int, keep: str) -> RateRun:
        until = None
        if self.problem.objective == "supervised" and steps > self.steps:
            until = thrown_away(self.before, scale_of(self.runs, self.worth), self.steps)
        order = int(steps > self.steps)  # as a loader would shuffle them: in one order, again and again, more holds
        run = observed(self.problem, factor, steps, self.settings.seed, order, self.before, until=until, keep=keep)
        return replace(run, long=steps > self.steps)

    def _holds(self, run: RateRun) -> bool:
        return not verdict(run, self.runs, self.worth, RateLimits())

    def _bracket(self) -> None:
        """The largest rate below the smallest that diverged, and that; of two runs at a rate the longer one counts."""
        tried = {**self.short, **self.long}
        failed = [factor for factor, run in tried.items() if not self._holds(run)]
        self.high = min(failed, default=math.inf)
        below = [factor for factor in tried if factor < self.high]
        self.low = max(below, default=0.0)
