"""Whether a short run at some learning rate diverged: judged against the same batches at the start and other rates' runs.

No threshold compares a loss with another batch's loss. A *gain* is the loss that a batch had before training minus the loss
that it has at some step of the run, so noise between batches cancels and negative losses are like any other. Gains are
measured in units of the *scale*: the larger of the best gain of any run and of what the model's weights are worth (loss with
all weights at zero, against the loss at the start). That unit exists for fresh, trained and converged models alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RateLimits", "RateRun", "best_below", "scale_of", "verdict"]

PLUNGE = 10.0
"""A loss below zero by this many times its size before training: whether it stays finite is worth a longer run."""
BOUNDLESS, PACE = 30.0, 1.7
"""The same by so many times that size and what the weights are worth, when each of three doublings of the steps gains so much
more: 2 is as fast as before, 1.4 is what a square root gains, 1.1 a logarithm."""


@dataclass(frozen=True, kw_only=True)
class RateRun:
    """A short run: its factor on the user's rates, and per step (T,) the loss and the same batch's loss before training.

    ``after`` is the same batch's loss right after the step, where it was looked at.

    ``lr`` is the first moving group's rate. ``stopped`` says why it ended early (not finite). ``movement`` is the median
    over blocks of ||w_T - w_0|| / ||w_0||, ``farthest`` the largest, ``update_ratio`` the median of one step over all steps.
    """

    factor: float
    lr: float
    seed: int
    losses: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...] = ()
    stopped: str = ""
    update_ratio: float = math.nan
    movement: float = math.nan
    farthest: float = math.nan
    gradient_first: float = math.nan
    gradient_last: float = math.nan
    batch: int = 0
    long: bool = False
    """Long enough that half of a lower rate's gain is to be expected without a blow-up, too."""

    @property
    def gains(self) -> NDArray[np.float64]:
        """Loss before training minus loss now, same batch, per step (T,)."""
        gains: NDArray[np.float64] = np.array(self.before) - np.array(self.losses)
        return gains

    @property
    def tail(self) -> slice:
        """The last quarter of the run, at least 4 steps."""
        return slice(max(0, min(len(self.losses) - 4, len(self.losses) * 3 // 4)), None)

    @property
    def gain(self) -> float:
        """The median gain over the tail."""
        return float(np.median(self.gains[self.tail])) if self.losses else 0.0

    def gain_after(self, steps: int) -> float:
        """The median gain over the last quarter of the first ``steps`` steps: what a run of that length would have shown."""
        steps = min(steps, len(self.losses))
        part = self.gains[max(0, min(steps - 4, steps * 3 // 4)) : steps]
        return float(np.median(part)) if len(part) else 0.0

    @property
    def error(self) -> float:
        """Two standard errors of ``gain``, from the tail's median deviation."""
        tail = self.gains[self.tail]
        if len(tail) < 2:
            return 0.0
        spread = 1.4826 * float(np.median(np.abs(tail - np.median(tail))))
        return float(2.0 * 1.2533 * spread / len(tail) ** 0.5)

    @property
    def worst_case(self) -> float:
        """The upper quartile of the tail's gains: below zero where at least three quarters of the steps are worse off."""
        return float(np.quantile(self.gains[self.tail], 0.75)) if self.losses else 0.0

    @property
    def overshoot(self) -> float:
        """The median over steps of what a step adds to its own batch's loss; NaN where that was not looked at."""
        if not self.after:
            return math.nan
        raised = np.array(self.after) - np.array(self.losses[: len(self.after)])
        return float(np.median(raised))

    @property
    def mean_gain(self) -> float:
        """The mean gain over the tail: rare large losses count, which the median does not see."""
        return float(np.mean(self.gains[self.tail])) if self.losses else 0.0

    @property
    def lost_fifth(self) -> float:
        """A fifth of the tail's steps gain less than this: far below zero where a few batches' losses explode."""
        return float(np.quantile(self.gains[self.tail], 0.2)) if self.losses else 0.0

    @property
    def level(self) -> float:
        """The mean magnitude of the batches' losses before training."""
        return float(np.mean(np.abs(self.before))) if self.before else 0.0

    @property
    def best(self) -> float:
        """The largest gain of any step."""
        return float(np.max(self.gains, initial=0.0))

    @property
    def plunges(self) -> bool:
        """Some step's loss is negative, and many times as large as before training: perhaps it has no lower bound."""
        return -min(self.losses, default=0.0) > PLUNGE * self.level > 0

    def boundless(self, worth: float) -> bool:
        """Whether the loss falls far below zero, and with each doubling of the steps hardly slower than before.

        A likelihood or a distance that becomes negative falls ever more slowly; what has no lower bound is followed at the pace
        at which the weights grow.
        """
        size = max(self.level, abs(worth) if math.isfinite(worth) else 0.0)
        if not -min(self.losses, default=0.0) > BOUNDLESS * size > 0:
            return False
        ends = [len(self.gains) // 2**k for k in (3, 2, 1, 0)]
        gained = [float(np.median(self.gains[max(0, end - max(4, end // 10)) : end])) for end in ends]
        return all(later > PACE * max(earlier, 0.0) for earlier, later in itertools.pairwise(gained))

    @property
    def late_rise(self) -> float:
        """How far single steps of the second half went above the same batch's loss before training, at the worst."""
        return max(0.0, -float(np.min(self.gains[len(self.losses) // 2 :], initial=0.0)))

    @property
    def rise(self) -> float:
        """How far the loss went above the same batch's loss before training, at its worst: the median of 3 neighbours."""
        gains = self.gains
        if len(gains) < 3:
            return max(0.0, -float(np.min(gains, initial=0.0)))
        middle = np.median(np.stack([gains[:-2], gains[1:-1], gains[2:]]), axis=0)
        return max(0.0, -float(np.min(middle)))


@dataclass(frozen=True, kw_only=True)
class RateLimits:
    """What counts as diverged, in units of the scale.

    ``worse``: the end lies this far above the start. ``rise``: a blow-up. ``recovered``: the part of a lower rate's gain
    that a run must reach after a blow-up, and a long one in any case; ``reached``: a short one without a blow-up. A lower
    rate's gain is that after as many steps. ``overshoot``: what the median step adds to the loss of the batch that it was
    made for.
    """

    worse: float = 0.05
    rise: float = 0.5
    recovered: float = 0.5
    reached: float = 0.1
    overshoot: float = 0.1


NOISE = 0.2
"""At most this part of what a lower rate gains is put down to noise."""
FLOOR = 0.05
"""The scale is at least this part of the loss before training, so that it is never nothing."""


def scale_of(runs: Sequence[RateRun], worth: float) -> float:
    """The unit of gains: the best gain of any run, or what the weights are worth; NaN of the latter is left out."""
    gains = [run.gain for run in runs if not run.stopped]
    levels = [FLOOR * run.level for run in runs]
    return max([*gains, *levels, worth if math.isfinite(worth) else 0.0, 0.0])


def best_below(run: RateRun, runs: Sequence[RateRun]) -> RateRun | None:
    """The run with the largest gain after as many steps among those at lower rates; None where there is none.

    A shorter one's end is that of other batches: it counts less its error.
    """
    steps = len(run.losses)
    lower = [other for other in runs if other.factor < run.factor * (1 - 1e-9) and not other.stopped]
    return max(
        lower, key=lambda other: other.gain_after(steps) - (other.error if len(other.losses) < steps else 0.0), default=None
    )


def verdict(run: RateRun, runs: Sequence[RateRun], worth: float, limits: RateLimits) -> str:
    """Why a run counts as diverged, as half a sentence; empty where it holds."""
    if run.stopped:
        return run.stopped
    scale = scale_of(runs, worth)
    if scale <= 0:
        return ""
    return _lost(run, runs, scale, limits) or _batches_lost(run, runs, scale)


def _batches_lost(run: RateRun, runs: Sequence[RateRun], scale: float) -> str:
    """Most batches are fine, and a fifth of the last steps have lost more than there is to gain, in the mean, too.

    Losses with a margin are like that, and confident classifiers. Where no lower rate does without, it is the data's noise.
    """
    if max(run.lost_fifth, run.mean_gain) >= -scale:
        return ""
    lower = [other for other in runs if other.factor < run.factor * (1 - 1e-9) and not other.stopped]
    if not any(other.lost_fifth > -0.5 * scale for other in lower):
        return ""
    return f"a fifth of the steps end {-run.lost_fifth:.3g} or more above where their batches began"


def _lost(run: RateRun, runs: Sequence[RateRun], scale: float, limits: RateLimits) -> str:
    """The same of most of the steps."""
    gain = run.gain
    if run.worst_case < -limits.worse * scale:
        return f"the same batches' loss ends {-gain:.3g} above where it began"
    if run.overshoot > limits.overshoot * scale:
        return f"most steps raise the loss of the batch that they were made for, by {run.overshoot:.3g}"
    thrown = run.rise > limits.rise * scale  # what has blown up gets no benefit of the doubt
    if thrown and gain + run.error < -limits.worse * scale:
        return f"the loss rose by {run.rise:.3g}, and ends {-gain:.3g} above where it began"
    lower = best_below(run, runs)
    if lower is None:
        return ""
    known = lower.gain_after(len(run.losses))
    if known - lower.error < limits.worse * scale:
        return ""
    error = min(run.error, NOISE * known)  # a loss that jumps by more than there is to gain is no excuse
    where = f"where lr {lower.lr:.3g} gains {known:.3g}"
    if thrown and gain < limits.recovered * known:
        return f"the loss rose by {run.rise:.3g} and came back to a gain of {gain:.3g}, {where}"
    if gain + error < (limits.recovered if run.long else limits.reached) * known:
        return f"it gains {max(gain, 0.0):.3g}, {where}"
    return ""
