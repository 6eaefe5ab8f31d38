"""A longer run, asked for by a rule that sees a symptom and must know whether training works all the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.observing_base import Look, Observable
from gradguard.adapters.training_base import Trace, Trainable
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import COMPARED, TrainingRun

__all__ = ["LongRun", "measure"]

STEPS = 300
SECONDS = 30.0
"""The longer run has ``STEPS`` steps, or as many as these seconds are expected to hold: with too few, nothing is concluded."""
TOLD, ARRIVED = 0.01, 0.05
"""Predictions say nothing of their labels where those of other samples fit them as well, to the first part of what guessing
gives; and have come to the guess where they are above it by less than the second."""
BOLDER = 10.0
FURTHER, ENOUGH = 4, 200
"""Where it decides nothing, one of so many times the steps is made, if half of the seconds are expected to hold it; so is
the one at the larger rate."""


@dataclass(frozen=True, kw_only=True)
class LongRun(Measurement):
    """The run, and a look at its end; ``middle`` half way, where a part of the loss is not the predictions' own.

    ``untold``: the predictions have come to what guessing gives and say nothing of their own labels, and neither do those of
    the same training at ``BOLDER`` times the rate: it is not for want of steps.
    """

    name: ClassVar[str] = "long_run"
    trace: Trace
    look: Look | None
    middle: Look | None = None
    untold: bool = False


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Train a fresh copy for longer than the training run, within the budget."""
    run = the(evidence, TrainingRun)
    if not isinstance(problem, Trainable) or run is None or run.source != "copy":
        return Unavailable(wanted="long_run", reason="nothing to train further")
    each = run.seconds / max(1, len(run.trace.steps)) if run.seconds else SECONDS / STEPS
    allowed = int(SECONDS / max(each, 1e-6))
    found = _of(problem, settings, evidence, run, max(settings.steps, min(STEPS, allowed)))
    if allowed // 2 >= FURTHER * STEPS > len(found.trace.steps) >= ENOUGH and _state(evidence, found) == "unclear":
        found = _of(problem, settings, evidence, run, FURTHER * STEPS)
    silent = allowed // 2 >= len(found.trace.steps) >= ENOUGH and _silent(found.look)
    if silent and _state(evidence, found) in ("unclear", "near"):
        found = replace(found, untold=_silent_when_bolder(problem, settings, found))
    return found


def _silent(look: Look | None) -> bool:
    """Predictions that are about as good as the guess, whatever their labels are."""
    outputs = look.outputs if look is not None else None
    return outputs is not None and outputs.told < TOLD * outputs.prior and outputs.data_loss < (1 + ARRIVED) * outputs.prior


def _silent_when_bolder(problem: Trainable, settings: Settings, found: LongRun) -> bool:
    """The same for the same training at a larger rate, or that is above what training can take."""
    trace = problem.run(len(found.trace.steps), seed=settings.seed, rate_scale=BOLDER, keep="bolder")
    if trace.stopped or not isinstance(problem, Observable):
        return True
    outputs = problem.look("bolder", seed=settings.seed).outputs
    return outputs is not None and not outputs.told > TOLD * outputs.prior


def _state(evidence: Evidence, found: LongRun) -> str:
    """What training does by this run: ``works``, ``fails``, ``unclear`` (it moves), or ``near`` (it fails, and may move)."""
    from gradguard.measurements.progress import progress  # which reads this run: only here the other way round

    seen = progress({**evidence, LongRun.name: found})
    return "near" if seen.verdict == "fails" and not seen.plateau else seen.verdict


def _of(problem: Trainable, settings: Settings, evidence: Evidence, run: TrainingRun, steps: int) -> LongRun:
    """A run of so many steps, or the one that there is, where it is as long."""
    passes = the(evidence, Passes)
    if steps <= len(run.trace.steps) and passes is not None and passes.end is not None:
        trace, look = run.trace, passes.end
    else:
        trace = problem.run(steps, seed=settings.seed, compare=min(COMPARED, problem.batch_count), keep="long")
        look = problem.look("long", seed=settings.seed) if isinstance(problem, Observable) else None
    middle = None
    if isinstance(problem, Observable) and look is not None and penalised(look):
        problem.run(steps // 2, seed=settings.seed, keep="half")
        middle = problem.look("half", seed=settings.seed)
    return LongRun(trace=trace, look=look, middle=middle)


def penalised(look: Look) -> bool:
    """One known loss of the predictions is a part of the total only, and is not far below what guessing gives."""
    outputs = look.outputs
    known = [facts for facts in look.losses if facts.kind != "difference"]
    if outputs is None or len(known) != 1 or not outputs.data_loss > 0.8 * outputs.prior:
        return False
    return abs(look.loss - outputs.data_loss) > 0.05 * abs(outputs.data_loss)
