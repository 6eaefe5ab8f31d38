"""Where a plain loop's training breaks down: the limit that gradguard's is compared with, of 5 seeds and of up to 25.

No code is shared with gradguard. Rates are tried by decades and then bisected to a factor of 1.33. A rate fails where most
seeds have not covered a share of the way from the loss at the start to the best end of any lower rate, or are in the mean of
their last 30 steps no better than at the start (a median does not see the batches that explode). A seed is that of the
initialisation and of the order of batches; or, for a model that is given, of the order alone: a run is then started again from
the model's own state. Five seeds decide by 3 to 2 where half of all fail; then the limit is a coin's toss. So there is a
second limit, for which seeds are added where the five disagree, until one side leads by 5 or 25 are done. A lead of 5 is
Wald's (1945) sequential test of 35 % against 65 % that fail, with 4 % of error: ln(0.65 / 0.35) * 5 = ln(22).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from benchmarks.learning_rate.drawn import EVERY
from benchmarks.learning_rate.nets import Net

__all__ = ["LEAD", "MANY", "SEEDS", "START", "STEPS", "Yardstick", "end_of_run"]

STEPS, SEEDS, MANY = 300, 5, 25
LEAD = SEEDS
"""So far ahead is the side that wins; five seeds that agree are enough."""
START = {"SGD": 1e-1, "momentum": 1e-2, "Nesterov": 1e-2, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-3, "Adagrad": 1e-2}
PACE, FAR = 10 ** (1 / 8), 8
"""How far apart rates are at the end of the bisection, and how many of them the seeds' disagreement is followed along."""


def end_of_run(net: Net, optimizer: str, lr: float, seed: int, order: int | None = None) -> tuple[float, float]:
    """The mean loss at the start of a plain loop, and at its end: lower by the median of the last 30 steps' gains; infinite
    where their mean is below 0.

    ``seed`` is that of the initialisation and, without an ``order`` of its own, of the batches.

    A gain is what the step's own batch has lost since the start, so that batches of another scale do not count as learning.
    """
    torch.manual_seed(seed)
    model = net.build()
    stepper = EVERY[optimizer](model.parameters(), lr)
    batches = net.batches(64)
    with torch.no_grad():
        first = [float(net.loss(model, b)) for b in batches]
    start = float(np.mean(first))
    g = np.random.default_rng(seed if order is None else order)
    steps = [index for _ in range(0, STEPS, len(batches)) for index in g.permutation(len(batches))][:STEPS]
    gains = []
    for index in steps:
        stepper.zero_grad()
        loss = net.loss(model, batches[int(index)])
        if not torch.isfinite(loss):
            return start, math.inf
        loss.backward()
        stepper.step()
        gains.append(first[int(index)] - float(loss.detach()))
    return start, start - float(np.median(gains[-30:])) if np.mean(gains[-30:]) >= 0 else math.inf


class Yardstick:
    """Ends by rate and seed, judged together; seeds are run as far as they can still change a majority.

    ``given`` is the seed of the initialisation that all runs start from; None: each has its own.
    """

    def __init__(self, net: Net, optimizer: str, given: int | None = None) -> None:
        self.net, self.optimizer, self.given = net, optimizer, given
        self.ends: dict[int, dict[int, tuple[float, float]]] = {}
        """By rate, in sixteenths of a decade, and seed."""
        self.tried: set[float] = set()

    def end(self, lr: float, seed: int) -> tuple[float, float]:
        """One run, once."""
        ends = self.ends.setdefault(round(16 * math.log10(lr)), {})
        if seed not in ends:
            started = (seed,) if self.given is None else (self.given, seed + 1)
            ends[seed] = end_of_run(self.net, self.optimizer, lr, *started)
        return ends[seed]

    def _failed(self, lr: float, seed: int, lower: list[float], share: float) -> bool:
        """Whether one seed ends worse than this share of the way to its best end at any lower rate."""
        start, end = self.end(lr, seed)
        best = min([start, *(self.end(other, seed)[1] for other in lower)])
        return not end < start - share * (start - best)

    def fails(self, lr: float, lower: list[float], share: float, most: int = SEEDS) -> bool:
        """Whether most seeds fail, of so many at most."""
        lead = math.inf if most == SEEDS else LEAD
        bad = good = 0
        for seed in range(most):
            if seed == SEEDS:  # the others need only be compared with rates that were somebody's best
                lower = self._best(lower)
            failed = self._failed(lr, seed, lower, share)
            bad, good = bad + failed, good + (not failed)
            if max(bad, good) > most / 2 or abs(bad - good) >= lead:
                break
        return bad > good

    def _best(self, rates: list[float]) -> list[float]:
        """The rates at which one of the first seeds ends best."""
        return sorted({min(rates, key=lambda lr: self.end(lr, seed)[1]) for seed in range(SEEDS)})

    def learns(self) -> bool:
        """Whether some rate covers a tenth of the loss at the start, in the median over seeds."""
        falls = [float(np.median([1 - end / start for start, end in ends.values()])) for ends in self.ends.values()]
        return max(falls) > 0.1

    def limit(self, share: float, most: int = SEEDS) -> float:
        """Between the largest rate below the first that fails, and that; infinite where none up to 1e4 does."""
        lr = START[self.optimizer] / 10
        tried = [lr / 10, lr]

        def fails(lr: float) -> bool:
            lower = [other for other in tried if other < lr]
            tried.append(lr)
            return self.fails(lr, lower, share, most)

        while not fails(10 * lr):
            lr *= 10
            if lr >= 1e4:
                return math.inf
        low, high = lr, 10 * lr
        while high / low > 1.34:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if fails(middle) else (middle, high)
        self.tried.update(tried)
        return math.sqrt(low * high)

    def split(self, limit: float, share: float) -> tuple[float, float]:
        """The rates around a limit between which five seeds disagree: all hold at the first, all fail at the second.

        At most a decade away; 0 and infinite where they still disagree there.
        """
        low, high = limit / PACE**0.5, limit * PACE**0.5
        down = (low / PACE**k for k in range(FAR))
        up = (high * PACE**k for k in range(FAR))
        holds = next((lr for lr in down if self.failing(lr, share) == 0), 0.0)
        fails = next((lr for lr in up if self.failing(lr, share) == SEEDS), math.inf)
        return holds, fails

    def failing(self, lr: float, share: float) -> int:
        """How many of five seeds fail, compared with every rate of the bisections that is lower."""
        lower = [other for other in self.tried if other < lr * (1 - 1e-6)]
        return sum(self._failed(lr, seed, lower, share) for seed in range(SEEDS))
