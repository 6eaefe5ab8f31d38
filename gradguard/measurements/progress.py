"""Does training work? The consequence without which a symptom is not an error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gradguard.adapters.observing_base import OutputFacts
from gradguard.finding import Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun

__all__ = [
    "CLOSING",
    "ENOUGH",
    "LEAST_PROGRESS",
    "LONGER",
    "NEAR",
    "ONLY_CONSTANT",
    "PRIOR_SHARE",
    "Progress",
    "ignores_its_inputs",
    "progress",
]

LONGER = Request(measurement="long_run")

PRIOR_SHARE = {"cross_entropy": 0.95, "bce": 0.95, "mse": 0.9, "absolute": 0.95}
"""A loss above this share of the prior's is no better than guessing the labels' distribution."""

BEATEN = 0.99
"""No constant gets below the prior of the labels that it is judged by. Predictions below this share of it have learnt
something, and where the signal is weak there is no more."""
SAYS = 0.02
"""Predictions that would be worse by this part of the prior with other samples' labels say something of their own."""
STILL = 0.005
"""Progress of the predictions in half of a run, relative to the prior, below which they stand still."""
UNLEARNT = 1.5
"""Predictions that are this many times as bad as at first, and as a guess, are being unlearnt."""
NEAR, CLOSING = 0.01, 0.05
"""Predictions that are above the prior by more than the first part of it, and come nearer by the second part of that
distance in half of a run, are on their way."""
LEAST_PROGRESS = 0.02
GOOD_PROGRESS = 0.1
SAME = 1e-4
"""Outputs whose standard deviation over samples is below this share of their mean magnitude are the same."""
PARTING, ROUNDING = 1.2, 1e-6
"""A spread that has grown by the first, beyond rounding in single precision: the outputs are on their way apart."""
FEWEST = 5
"""Recorded losses in a window, for a mean and its error."""
FOUND = 0.01
"""A constant is the best one where it is above the prior by no more than this part."""
ONLY_CONSTANT = "the model has no more weights than a constant guess, and has found it"
SAMPLES = 64
"""Samples that are all the same, from this many on."""
ENOUGH = 200
"""Steps after which no progress is a verdict rather than impatience."""


@dataclass(frozen=True)
class Progress:
    """``works``, ``fails`` or ``unclear``, in words, with the relative fall of the same batches' loss."""

    verdict: Literal["works", "fails", "unclear"]
    text: str
    fall: float = math.nan
    plateau: bool = False
    """The second half of the run brought no progress."""
    visible: bool = False
    """Of a watched run: the recorded losses of the second half fell by more than their noise."""
    nearing: bool = False
    """The predictions are still above the prior, and the loss has fallen since the start: what is slow may get there."""
    prior: float = math.nan
    data_loss: float = math.nan
    steps: int = 0
    longest: bool = False
    """No longer run can be asked for."""
    same_inputs: bool = False
    """Every sample that the model is given is the same: nothing but the labels' distribution can be learnt."""
    worse: bool = False
    """The predictions got worse while the loss fell: what is minimised is not the loss of the predictions."""
    only_constant: bool = False
    """The model has no more weights than one output has numbers, all samples get the same, and it is the best guess: an
    intercept alone, the frequencies of classes. A layer whose input was lost has more."""

    @property
    def strong(self) -> bool:
        """The loss fell by half, of what guessing gives where that is known: nothing stands in the way."""
        if self.verdict != "works":
            return False
        return self.data_loss < 0.5 * self.prior if math.isfinite(self.prior) else self.fall > 0.5

    @property
    def guesses(self) -> bool:
        """The predictions are at the prior or above it: nothing at all was learnt of the inputs."""
        return math.isfinite(self.prior) and self.data_loss > BEATEN * self.prior

    @property
    def final(self) -> bool:
        """The run was long enough for a verdict."""
        return self.steps >= ENOUGH

    @property
    def requests(self) -> tuple[Request, ...]:
        """What would decide."""
        return (LONGER,) if self.verdict == "unclear" else ()


def progress(evidence: Evidence) -> Progress:
    """The consequence, from the longest run that there is.

    Fails, after enough steps: not finite, a loss that rose, far worse than the prior, or no better than it and no longer
    falling; or (without a prior) less than 2 standard errors of progress. A watched run is no copy whose losses are taken on
    the same batches: there windows of the recorded losses are compared, about the middle and at the end.
    """
    run, longer, passes = the(evidence, TrainingRun), the(evidence, LongRun), the(evidence, Passes)
    if run is None:
        return Progress("unclear", "nothing was trained")
    if run.objective != "supervised":
        return Progress("unclear", f"the loss of a {run.objective} objective need not fall")
    trace = longer.trace if longer is not None else run.trace
    steps = len(trace.steps)
    look = longer.look if longer is not None else (passes.end if passes is not None else None)
    outputs = look.outputs if look is not None else None
    first = passes.start.outputs if passes is not None else None
    if trace.stopped:
        return Progress("fails", trace.stopped, steps=steps, **_lost(trace.losses, outputs, first))
    start, end = _pair(run, trace.loss_start, trace.loss_end, trace.losses)
    if not (np.isfinite(start).all() and np.isfinite(end).all()) or not start.size:
        return Progress(
            "fails" if start.size else "unclear",
            "the loss is not finite after training" if start.size else "no loss was seen",
            steps=steps,
        )
    fall, error, scale = _fall(start, end)
    enough = steps >= ENOUGH
    plateau, moving = False, False
    if trace.loss_middle and trace.loss_end:
        late, late_error, _ = _fall(np.array(trace.loss_middle), end)
        plateau = enough and late < LEAST_PROGRESS * scale and late < max(2 * late_error, 0.0005 * scale)
        moving = late > max(2 * late_error, 0.005 * scale)
    visible = False
    if run.source == "watch" and not trace.loss_middle:
        visible, still = second_half(trace.losses)
        moving, plateau = not still, enough and still
    text = f"loss {start.mean():.4g} -> {end.mean():.4g} in {steps} steps"
    share = fall / scale
    worse = fall > 0.05 * scale and _unlearnt(outputs, first)
    prior, data = (outputs.prior, outputs.data_loss) if outputs is not None else (math.nan, math.nan)
    known = outputs is not None and _known(outputs)
    if known:
        assert outputs is not None
        text += f"; guessing the labels' distribution gives {prior:.4g}"
    middle = longer.middle.outputs if longer is not None and longer.middle is not None else None
    if known and middle is not None and math.isfinite(middle.data_loss):
        # a penalty that falls is no progress of the predictions
        gained = middle.data_loss - data
        moving = gained > STILL * prior or (data > (1 + NEAR) * prior and gained > CLOSING * (data - prior))
        plateau = enough and not moving
        text += f"; that of the predictions went from {middle.data_loss:.4g} to {data:.4g} in the second half"
    same = look.same_inputs if look is not None else 0
    if same >= SAMPLES:
        text += f"; all {same} samples that the model is given are the same"
    blind = known and outputs is not None and (same >= SAMPLES or ignores_its_inputs(outputs, first))
    if blind:
        moving, plateau = False, enough  # what still falls is the way to the best constant, and that is the guess
    if known and longer is not None and longer.untold:
        moving, plateau = False, enough
        text += "; predictions of other samples fit the labels as well, at ten times the rate, too"
    facts: Any = {
        "fall": share,
        "plateau": plateau,
        "visible": visible,
        "nearing": known and data > (1 + NEAR) * prior and fall > error,
        "prior": prior if known else math.nan,
        "data_loss": data,
        "steps": steps,
        "longest": longer is not None,
        "worse": worse,
        "same_inputs": same >= SAMPLES,
        "only_constant": known and data <= (1 + FOUND) * prior and same < SAMPLES and _only_constant(run, outputs),
    }
    if worse:
        return Progress("fails", text + "; the loss falls while the predictions get worse", **facts)
    if known and outputs is not None and data <= PRIOR_SHARE[outputs.kind] * prior:
        return Progress("works", text, **facts)
    if fall < -0.05 * scale and -fall > 2 * error and enough:
        return Progress("fails", text, **facts)
    if known:
        assert outputs is not None
        if not blind and data < BEATEN * prior and outputs.told > SAYS * prior:
            return Progress("unclear", text + "; a weak signal, which the predictions have found", **facts)
        far = data > 1.2 * prior and steps >= ENOUGH
        return Progress("fails" if enough and (far or not moving) else "unclear", text, **facts)
    if share >= GOOD_PROGRESS:
        return Progress("works", text, **facts)
    if share >= LEAST_PROGRESS and fall > 2 * error:  # finding the right constant takes a few per cent, and then comes nothing
        return Progress("fails" if plateau else "works" if enough else "unclear", text, **facts)
    return Progress("fails" if enough and fall <= 2 * error and not moving else "unclear", text, **facts)


def _unlearnt(outputs: OutputFacts | None, first: OutputFacts | None) -> bool:
    """Predictions of classes that are far worse than they were, and than a guess."""
    if outputs is None or first is None or outputs.kind != "cross_entropy":
        return False
    return outputs.data_loss > UNLEARNT * max(first.data_loss, first.prior)


def _lost(losses: Sequence[float], outputs: OutputFacts | None, first: OutputFacts | None) -> dict[str, Any]:
    """``worse`` of a run that ended in numbers that are not finite, by what the loss was before."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 2 or not finite[-1] < finite[0] - 0.05 * abs(finite[0]) or not _unlearnt(outputs, first):
        return {}
    assert outputs is not None
    return {"worse": True, "prior": outputs.prior, "data_loss": outputs.data_loss}


def _only_constant(run: TrainingRun, outputs: OutputFacts | None) -> bool:
    weights = sum(p.size for p in run.parameters if p.trainable)
    return outputs is not None and 0 < weights <= outputs.width and outputs.spread < SAME


def second_half(losses: Sequence[float]) -> tuple[bool, bool]:
    """Whether recorded losses (T,) fell beyond their noise from about the middle to the end; and whether they stand still.

    The means of the third and of the last fifth of the run. Noise that would hide progress of a fiftieth is no standstill.
    """
    known = np.array([loss for loss in losses if not math.isnan(loss)])
    fifth = len(known) // 5
    if fifth < FEWEST:
        return False, False
    middle, end = _recorded(known[2 * fifth : 3 * fifth]), _recorded(known[-fifth:])
    if min(len(middle), len(end)) < FEWEST and len(np.unique(np.concatenate([middle, end]))) > 1:
        return False, False
    late = float(middle.mean() - end.mean())
    error = math.hypot(middle.std() / math.sqrt(len(middle)), end.std() / math.sqrt(len(end)))
    scale = max(abs(float(middle.mean())), 1e-12)
    visible = late > max(2 * error, STILL * scale)
    return visible, late + 2 * error < LEAST_PROGRESS * scale and not visible


def _recorded(losses: np.ndarray) -> np.ndarray:
    """A step without a record repeats the loss before it: each is taken once."""
    kept: np.ndarray = losses[np.concatenate([[True], np.diff(losses) != 0])]
    return kept


def ignores_its_inputs(outputs: OutputFacts, first: OutputFacts | None, spread: float = SAME) -> bool:
    """Whether all samples, at least those of a batch, give the same output, and do not part: their spread has not grown."""
    if outputs.samples < 8 or not outputs.least_spread < spread:
        return False
    return first is None or first.samples < 8 or not outputs.least_spread > max(PARTING * first.least_spread, ROUNDING)


def _known(outputs: OutputFacts) -> bool:
    """Whether the best constant guess is a yardstick: labels that hardly vary beside their size are guessed almost exactly."""
    if outputs.kind not in PRIOR_SHARE or not math.isfinite(outputs.data_loss):
        return False
    if outputs.kind in ("cross_entropy", "bce"):
        return outputs.prior > 1e-3
    if math.isfinite(outputs.label_std) and math.isfinite(outputs.label_rms):
        return outputs.prior > 0 and outputs.label_std > 1e-3 * outputs.label_rms
    return outputs.prior > 1e-3 * max(1.0, abs(outputs.data_loss))


def _pair(
    run: TrainingRun, start: tuple[float, ...], end: tuple[float, ...], losses: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    if start and end:
        return np.array(start), np.array(end)
    known = np.array([loss for loss in losses if not math.isnan(loss)])
    n = max(1, len(known) // 10)
    return known[:n], known[-n:]


def _fall(start: np.ndarray, end: np.ndarray) -> tuple[float, float, float]:
    """Mean fall, its standard error, and the scale that it is relative to."""
    if len(start) == len(end):
        each = start - end
        error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else 0.0
    else:
        error = float(math.hypot(start.std() / math.sqrt(len(start)), end.std() / math.sqrt(len(end))))
    scale = max(abs(float(start.mean())), float(start.std()), 1e-12)
    return float(start.mean() - end.mean()), error, scale
