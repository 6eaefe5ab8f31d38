"""What a look at a model's passes says, in plain numbers and names: layers, units, attention, codes, outputs, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AttentionFacts",
    "BatchFacts",
    "CodeFacts",
    "LayerUnits",
    "Leaks",
    "Look",
    "LossFacts",
    "ModuleFacts",
    "Nonfinite",
    "Observable",
    "OutputFacts",
    "TimeFlow",
    "lengths",
    "spreads",
]


SAME_LENGTH, LONGER = 1e-3, 0.05
"""Outputs whose lengths differ by less than the first part are normalised; labels longer by the second are out of reach."""
TURNED = 0.05
"""What is normalised still points elsewhere for other samples, by this part of its length."""


@dataclass(frozen=True, kw_only=True)
class LayerUnits:
    """One activation, per unit over all samples seen.

    ``layer`` is the place of the activation, ``block`` the weight that feeds it (``""`` where that is not known),
    ``module`` the module that owns that weight. ``samples`` counts values per unit. ``slope`` (U,) is the largest
    derivative of the activation over all samples, ``zeros`` (U,) the share of exact zeros, ``rms`` (U,) and ``size``
    (U,) the root mean square and mean magnitude of the output, ``flat`` (U,) the share of samples with a derivative below
    the limit of saturation. ``pruned`` (U,): every incoming weight is exactly 0.
    """

    layer: str
    kind: str
    depth: int
    block: str = ""
    module: str = ""
    samples: int = 0
    slope: NDArray[np.float64]
    flat: NDArray[np.float64]
    zeros: NDArray[np.float64]
    rms: NDArray[np.float64]
    size: NDArray[np.float64]
    pruned: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AttentionFacts:
    """The entropy of one attention layer's weights divided by the logarithm of the number of keys, per head (H,)."""

    layer: str
    entropy: NDArray[np.float64]
    rows: int
    keys: int


@dataclass(frozen=True, kw_only=True)
class CodeFacts:
    """How often each of K discrete choices (codes, experts) was taken: counts (K,).

    ``lead`` is how far the best score is ahead of the second: the mean over samples, in standard deviations over samples.
    ``alike``: the table is no parameter, and all of its rows are the same, as before they are set from data.
    """

    layer: str
    kind: str
    counts: NDArray[np.float64]
    block: str = ""
    lead: float = 0.0
    alike: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """One module that was called: when first, how often, and the RMS of its output (NaN where that is no tensor).

    ``graph_calls`` are the calls whose output had a graph; ``spread`` is the standard deviation over samples divided
    by the RMS.
    """

    path: str
    owner: str
    depth: int
    calls: int = 0
    graph_calls: int = 0
    rms: float = float("nan")
    spread: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Nonfinite:
    """The first module whose output is not finite although its inputs are, the frames before it, and the batch."""

    module: str
    owner: str
    batch: int
    where: str
    before: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    """``where`` is ``input``, ``parameter``, ``output``, ``loss`` or ``gradient``; ``rows`` are the samples concerned."""
    step: int | None = None
    """The optimizer steps before it; None where the look's own state says it."""


@dataclass(frozen=True, kw_only=True)
class TimeFlow:
    """The norm of the loss' gradient along the calls of one layer, first to last (T,): time, or a shared layer's depth."""

    layer: str
    norms: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LossFacts:
    """One elementary loss that the total is made of, and what stands between it and the last layer with weights.

    ``kind``: cross_entropy, nll, bce, bce_logits, mse, absolute, kl, margin, or log (a hand-written likelihood). ``chain``
    are the operations on the way to the last weights, nearest to the loss first. ``single``: a softmax over one unit;
    ``batch_axis``: over the batch. ``broadcast``: shapes of prediction and result where one was stretched over the other.
    """

    kind: str
    chain: tuple[str, ...] = ()
    single: bool = False
    batch_axis: bool = False
    broadcast: tuple[tuple[int, ...], ...] = ()
    module: str = ""
    classes: int | None = None
    zeros: float = 0.0
    """The share of labels 0 in a margin loss, which wants -1 and 1."""


def lengths(parts: Sequence[NDArray[np.float64]], labels: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """``length``, ``longer_labels`` and ``beyond`` of matrices (samples, features), one a batch; empty where lengths differ."""
    import numpy as np

    wide = [part for part in parts if part.shape[1] > 1]
    if not wide or len(wide) < len(parts):
        return {}
    made = np.concatenate([np.linalg.norm(part, axis=1) for part in wide])
    length = float(made.max())
    if not 0 < length < math.inf or made.min() < (1 - SAME_LENGTH) * length:
        return {}
    if np.concatenate(wide).std(axis=0).max() < TURNED * length:  # the same output for all has one length, too
        return {}
    fitting = [label for label in labels if label.shape[1] == wide[0].shape[1]]
    if not fitting:
        return {"length": length, "longer_labels": math.nan, "beyond": math.nan}
    theirs = np.concatenate(fitting)
    far, apart = np.linalg.norm(theirs, axis=1), np.linalg.norm(theirs - theirs.mean(axis=0), axis=1)
    lost, spread = float(np.mean(np.maximum(far - length, 0) ** 2)), float(np.mean(apart**2))
    longer = float(np.mean(far > (1 + LONGER) * length))
    return {"length": length, "longer_labels": longer, "beyond": lost / spread if spread > 0 else math.nan}


def spreads(parts: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """``spread`` and ``within`` of outputs, a matrix (samples, features) for each batch."""
    import numpy as np

    y = np.concatenate(parts).astype(np.float64)
    several = [part.astype(np.float64) for part in parts if len(part) > 1]
    with np.errstate(all="ignore"):
        mean = float(np.mean(np.abs(y)))
        spread = float(np.max(np.std(y, axis=0)) / mean) if len(y) > 1 and mean > 0 else (0.0 if len(y) > 1 else math.nan)
        if not several or not mean > 0:
            return {"spread": spread, "within": math.inf}
        apart = sum(np.sum((part - part.mean(axis=0)) ** 2, axis=0) for part in several) / sum(len(part) for part in several)
        return {"spread": spread, "within": float(np.sqrt(np.max(apart)) / mean)}


@dataclass(frozen=True, kw_only=True)
class OutputFacts:
    """Predictions and labels over all samples seen.

    ``spread`` is the largest feature's standard deviation over samples divided by the mean magnitude, ``within`` the same
    about each batch's own mean (infinite where no batch has two samples). ``data_loss`` is the loss of the predictions
    without regularisers, ``prior`` that of guessing the labels' distribution, ``kind`` which of cross_entropy, bce, mse and
    absolute. ``above_one``, ``below_zero`` and ``below_minus_one`` are shares of labels.
    ``dead_columns`` counts outputs that are exactly 0 for every sample.
    """

    samples: int = 0
    width: int = 0
    spread: float = float("nan")
    within: float = float("inf")
    low: float = float("nan")
    high: float = float("nan")
    rms: float = float("nan")
    dead_columns: int = 0
    kind: str = ""
    data_loss: float = float("nan")
    data_error: float = float("nan")
    prior: float = float("nan")
    own_prior: float = float("nan")
    """As ``prior``, of these labels alone: however few there are of a class, no constant is better for them."""
    told: float = float("nan")
    """What the predictions say of their own labels: by how much they would be worse with the labels of other samples."""
    label_low: float = float("nan")
    label_high: float = float("nan")
    label_rms: float = float("nan")
    label_std: float = float("nan")
    above_one: float = float("nan")
    below_zero: float = float("nan")
    below_minus_one: float = float("nan")
    length: float = float("nan")
    """The length of every row of several outputs, where all have the same one to a thousandth."""
    longer_labels: float = float("nan")
    """The share of rows of labels that are longer than that by a twentieth."""
    beyond: float = float("nan")
    """The mean square of what labels are longer than that, as a part of their variance: it cannot be reached."""
    uneven_rows: float = float("nan")
    """The share of rows of several labels that do not sum to 1, as the outputs of a softmax do."""
    constant_label: float | None = None
    """The class (or the binary label) that all labels are; None where they differ or are not known."""
    row_order: tuple[tuple[int, ...], ...] = ()
    """The shapes of output and labels where the loss flattens them in different orders; empty where it does not."""
    normalised: bool | None = None
    """Predictions of a likelihood are logarithms of probabilities that sum to 1; None where they need not be."""
    source: str = ""
    negated: bool = False
    """What is minimised is the negative of this loss, and nothing else."""
    rewarded: bool = False
    """Samples are weighed by numbers of either sign: the loss says which outputs to raise, and has no labels."""

    @property
    def least_spread(self) -> float:
        """Of all samples, or of those of the same batch where that is less."""
        return min(self.spread, self.within)


@dataclass(frozen=True, kw_only=True)
class BatchFacts:
    """The floating-point input of the model over all batches: RMS, largest feature RMS over the smallest, range."""

    rms: float = float("nan")
    feature_ratio: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    first_module: str = ""
    first_owner: str = ""
    normalised: bool = False
    """The first module with parameters is a normalisation."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the model in one state, over all batches: ``step`` is the number of optimizer steps before it."""

    step: int
    units: tuple[LayerUnits, ...] = ()
    attention: tuple[AttentionFacts, ...] = ()
    codes: tuple[CodeFacts, ...] = ()
    modules: tuple[ModuleFacts, ...] = ()
    nonfinite: Nonfinite | None = None
    time: tuple[TimeFlow, ...] = ()
    losses: tuple[LossFacts, ...] = ()
    outputs: OutputFacts | None = None
    inputs: BatchFacts | None = None
    loss: float = float("nan")
    order: tuple[str, ...] = ()
    """Parameter blocks in the order in which the pass uses them."""
    matrices: tuple[str, ...] = ()
    """Those of them that products and convolutions use."""
    low_precision: bool = False
    samples: int = 0
    identical_rows: tuple[str, ...] = ()
    """Trainable matrices all of whose rows are the same."""
    zero_blocks: tuple[str, ...] = ()
    """Parameters that are exactly 0."""
    same_inputs: int = 0
    """The number of samples, where all of them are the same in everything that the model is given; else 0."""
    single_softmax: tuple[str, ...] = ()
    """Layers that take a softmax over the one output of a linear layer, while another axis has several places."""
    failures: tuple[str, ...] = ()
    """Operations that could not be looked at, and why."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """The largest change of other samples' (earlier positions') outputs, relative, when one sample (position) changes.

    None where it was not declared or could not be tried; ``reason`` says why. ``own`` is the change of the sample's own
    output: without it the comparison says nothing.
    """

    sample: float | None = None
    sample_own: float = 0.0
    future: float | None = None
    future_own: float = 0.0
    module_sample: str = ""
    module_future: str = ""
    reason: str = ""
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class Observable(Protocol):
    """A problem whose passes can be looked at."""

    def look(self, state: str, *, seed: int = 0, batches: int | None = None) -> Look:
        """A look at the state ``start`` (the user's) or at one kept by ``run(keep=...)``."""
        ...

    def leaks(self, *, seed: int = 0) -> Leaks:
        """Whether outputs depend on what they were declared independent of."""
        ...

    def dependence(self, state: str, names: tuple[str, ...], *, seed: int = 0) -> dict[str, float]:
        """How much the loss changes, relative, when each named block is perturbed."""
        ...

    def underflow(self, *, seed: int = 0) -> dict[str, float]:
        """Per block the share of the gradient's norm that comes back when the loss is scaled up first."""
        ...
