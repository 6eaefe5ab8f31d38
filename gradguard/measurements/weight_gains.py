"""How much each layer's matrix amplifies at the start, and the same training with chosen ones at the usual gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.training_base import ParameterFacts, Trace, Trainable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun

__all__ = ["Gain", "RescaledRun", "WeightGains", "gains_of", "measure", "measure_rescaled"]

ENOUGH = 3
"""With fewer other matrices their median says little: then 1 is the yardstick, which usual initialisations are near."""


@dataclass(frozen=True)
class Gain:
    """A matrix, its gain RMS(W) sqrt(fan_in) before the first step, and the median gain of the others."""

    facts: ParameterFacts
    gain: float
    usual: float
    last: bool = False
    """Nothing comes after it."""

    @property
    def ratio(self) -> float:
        """Gain against what is usual in this model."""
        return self.gain / self.usual


@dataclass(frozen=True, kw_only=True)
class WeightGains(Measurement):
    """Every matrix that the start's pass used and that is not 0, in the order of use; embeddings are looked up, not summed."""

    name: ClassVar[str] = "weight_gains"
    gains: tuple[Gain, ...]


@dataclass(frozen=True, kw_only=True)
class RescaledRun(Measurement):
    """The longest run again, the matrices ``rescaled`` brought to the usual gain before its first step."""

    name: ClassVar[str] = "rescaled_run"
    trace: Trace
    rescaled: tuple[str, ...]


def gains_of(facts: ParameterFacts, norm: float) -> tuple[float, ...]:
    """RMS(W) sqrt(fan_in) of a matrix from its norm; the likeliest fan first.

    A convolution's is that of its window. Of other tensors it is not known which axis is summed over.
    """
    shape = facts.shape
    rest = math.prod(shape[2:])
    fans = [shape[1] * rest, shape[0] * rest]
    if len(shape) > 2 and "Conv" not in facts.owner:
        fans += [shape[1], shape[-1]]
    rms = norm / math.sqrt(max(1, facts.size))
    return tuple(rms * math.sqrt(max(1, fan)) for fan in fans)


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Gains from the norms that the training run recorded before its first step."""
    passes, run = the(evidence, Passes), the(evidence, TrainingRun)
    if passes is None or run is None or not len(run.trace.weight):
        return Unavailable(wanted=WeightGains.name, reason="no step was taken")
    known = {p.name: p for p in run.parameters}
    first = dict(zip(run.trace.blocks, run.trace.weight[0].tolist(), strict=True))
    matrices = [
        known[n]
        for n in passes.start.matrices
        if n in known and first.get(n, 0.0) > 0 and len(known[n].shape) >= 2 and "Embedding" not in known[n].owner
    ]
    gains = {p.name: gains_of(p, first[p.name]) for p in matrices}
    found = []
    for facts in matrices:
        others = [gains[p.name][0] for p in matrices if p.name != facts.name]
        usual = float(np.median(others)) if len(others) >= ENOUGH else 1.0
        gain = min(gains[facts.name], key=lambda g: abs(math.log(g / usual)))
        found.append(Gain(facts, gain, usual, last=facts.name == passes.start.matrices[-1]))
    return WeightGains(gains=tuple(found))


def measure_rescaled(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The same steps on the same batches, with the matrices ``about`` divided by their ratio."""
    run, weights = the(evidence, TrainingRun), the(evidence, WeightGains)
    if not isinstance(problem, Trainable) or run is None or weights is None or run.source != "copy":
        return Unavailable(wanted=RescaledRun.name, reason="there is no copy to train again")
    scales = {g.facts.name: 1.0 / g.ratio for g in weights.gains if g.facts.name in about}
    longest = the(evidence, LongRun) or run
    trace = problem.run(len(longest.trace.steps), seed=settings.seed, compare=len(run.trace.loss_end), weight_scales=scales)
    return RescaledRun(trace=trace, rescaled=tuple(scales))
