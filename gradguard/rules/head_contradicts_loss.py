"""GG501."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.observing_base import LossFacts, OutputFacts
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["HeadContradictsLoss"]

RANGES = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exp": (0.0, math.inf),
}
PROBABILITIES = ("bce", "bce_logits")
REGRESSION = ("mse", "absolute", "difference")
REACHED = 0.1
"""Outputs of a fixed length leave more than this part of the labels' variance: noise about such labels makes it less."""


@dataclass(frozen=True, kw_only=True)
class HeadContradictsLoss(Rule):
    """The last layer cannot do what the loss asks of it.

    What it does:
        Reads the operations between the loss and the last weights from the autograd graph: a softmax, sigmoid or tanh
        before cross-entropy; a second sigmoid before a loss on logits; a likelihood of what is no logarithm of
        probabilities; a softmax over one unit (or over one score of an attention), over the batch or over another axis
        than the classes; a softmax for labels that do not sum to 1; ReLU before cross-entropy; ReLU, tanh or a clamped raw
        output used as a probability; a margin loss on labels 0 and 1; an output range that cannot reach the labels;
        labels of a binary cross-entropy that are no probabilities; cosines without a factor as logits; outputs of a fixed
        length for longer labels;
        predictions (N, 1) stretched against labels (N,); an output and labels that are flattened in different orders.

    Why is this bad:
        The loss has a floor that no training passes (1.461 for a double softmax over 10 classes, the variance of the labels
        for stretched shapes), or a gradient of zero.

    What to do:
        Give cross_entropy and binary_cross_entropy_with_logits raw logits; take a linear output for regression; reshape
        labels or predictions to the same shape.

    When it is healthy:
        Logits that are capped (tanh, then times a constant), a softmax before a squared error, log_softmax before nll_loss.

    Options:
        outside: share of labels outside the output's range.

    References:
        Karpathy 2018, most common neural net mistakes; PyTorch, CrossEntropyLoss (docs).
    """

    code: ClassVar[str] = "GG501"
    slug: ClassVar[str] = "head-contradicts-loss"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("training_run",)

    outside: float = 0.05

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding: the first contradiction."""
        passes, run = the(evidence, Passes), the(evidence, TrainingRun)
        if passes.start.single_softmax:
            return self.outcome([self._single(passes.start.single_softmax[0])])
        if not passes.start.losses:
            return Outcome(status="skipped", reason="the loss' graph shows no elementary loss that is known")
        consequence = progress(evidence)
        objective = run.objective if run is not None else "supervised"
        for facts in passes.start.losses:
            wrong = self._wrong(facts, passes.start.outputs, objective)
            if wrong is None:
                continue
            message, likely, hint = wrong
            path = " <- ".join((facts.kind, *facts.chain, "weights"))
            finding = self.finding(
                message,
                pattern="-".join((facts.kind, *facts.chain)),
                evidence=f"from the loss towards the last weights: {path}; {consequence.text}",
                likely=likely,
                hint=hint,
            )
            return self.outcome([finding])
        return self.outcome([])

    def _single(self, layer: str) -> Finding:
        return self.finding(
            f"{layer or 'the model'}: softmax over the one output of a linear layer: every weight is 1",
            module=layer,
            pattern="softmax-single",
            evidence="scores of shape (..., T, 1), softmax over the last axis: nothing to choose from, and no gradient",
            likely="dim=-1 where the axis of the places, dim=-2, is meant",
            hint="softmax(dim=-2), or squeeze the scores first",
        )

    def _wrong(self, facts: LossFacts, outputs: OutputFacts | None, objective: str) -> tuple[str, str, str] | None:
        """Message, likely cause and hint; None where nothing contradicts."""
        near = facts.chain[0] if facts.chain else ""
        if facts.kind in ("cross_entropy", "nll") and outputs is not None and outputs.row_order:
            made, labels = outputs.row_order
            return (
                f"an output of shape {made} and labels of shape {labels} are flattened in different orders",
                "view or reshape where transpose or permute is due: predictions meet the labels of other places",
                "bring the classes to the end and the other axes into the order of the labels before reshape(-1, classes)",
            )
        logits = "give the loss the raw output of the last layer"
        if facts.single or facts.classes == 1:
            return (
                "softmax over one unit: the output is 1 whatever the weights are",
                "a softmax head with one output",
                "a sigmoid or linear head for one output, or one output per class",
            )
        if facts.batch_axis and objective == "supervised":
            return (
                "softmax over the batch axis: each sample competes with the other samples",
                "dim=0 where dim=1 is meant",
                "softmax over the classes: dim=-1",
            )
        if facts.broadcast and objective == "supervised":
            given, result = facts.broadcast
            return (
                f"predictions of shape {given} are stretched to {result} against the labels",
                "labels of shape (N,) against predictions of shape (N, 1)",
                "reshape one of them: pred.squeeze(-1), or y.unsqueeze(-1)",
            )
        if facts.kind == "cross_entropy" and near in ("softmax", "sigmoid", "tanh", "hardsigmoid"):
            floor = f"; the loss cannot fall below {cross_entropy_floor(near, facts.classes):.3f}" if facts.classes else ""
            return (
                f"{near} before cross-entropy, which applies softmax itself{floor}",
                f"{near} as the last layer",
                logits,
            )
        if facts.kind == "cross_entropy" and near == "cosine" and objective == "supervised":
            floor = f"; the loss cannot fall below {cross_entropy_floor('tanh', facts.classes):.3f}" if facts.classes else ""
            return (
                f"cosines as logits: they lie between -1 and 1{floor}",
                "features and class weights of length 1, without a temperature",
                "multiply the cosines by a factor (16 to 64, or a parameter) before the loss",
            )
        if facts.kind == "cross_entropy" and outputs is not None and outputs.normalised is False and objective == "supervised":
            return (
                "log_softmax along another axis than the classes: the probabilities of one sample do not sum to 1",
                "dim=-1 where dim=1 is meant (or a tensor that was reshaped in between)",
                "cross_entropy on raw logits of shape (N, C, ...), or log_softmax(dim=1)",
            )
        if facts.kind == "cross_entropy" and near in ("relu", "clamp_min"):
            return (
                "ReLU before cross-entropy: logits below 0 get no gradient",
                "an activation after the last layer",
                logits,
            )
        if (
            facts.kind == "nll"
            and near not in ("log_softmax", "log", "log_sigmoid")
            and (outputs is None or outputs.normalised is False)
        ):
            return (
                f"a likelihood of {near or 'raw outputs'}, which are no logarithms of probabilities",
                "nll_loss where cross_entropy is meant",
                "cross_entropy on logits, or log_softmax before nll_loss",
            )
        if facts.kind == "bce_logits" and near in ("sigmoid", "softmax", "hardsigmoid"):
            return (
                f"{near} before a loss on logits, which applies sigmoid itself",
                f"{near} as the last layer",
                logits,
            )
        if facts.kind == "bce_logits" and near == "relu":
            return (
                "ReLU before a loss on logits: no probability below one half can be said",
                "an activation after the last layer",
                logits,
            )
        if facts.kind in ("bce", "log") and "relu" in facts.chain[:2]:
            return (
                "ReLU used as a probability: it is not bounded by 1, and at 0 it has no gradient",
                "ReLU where sigmoid is meant",
                "binary_cross_entropy_with_logits on the raw output",
            )
        if facts.kind == "log" and near == "raw_clamp":
            return (
                "the last layer's raw output is clamped and taken as a probability: outside it has no gradient",
                "a sigmoid (or softmax) that was forgotten; the clamp hides it",
                "binary_cross_entropy_with_logits or cross_entropy on the raw output",
            )
        if facts.kind == "log" and near == "tanh":
            return (
                "the logarithm of a tanh, which is negative for half of its inputs",
                "tanh where sigmoid is meant",
                "binary_cross_entropy_with_logits on the raw output",
            )
        if facts.kind == "margin" and facts.zeros > self.outside:
            return (
                f"{100 * facts.zeros:.0f} % of the labels of a margin loss are 0: such a sample has no gradient",
                "labels 0 and 1 where -1 and 1 are meant",
                "y = 2 * y - 1, or binary_cross_entropy_with_logits",
            )
        if (
            facts.kind in ("bce", *REGRESSION)
            and near == "softmax"
            and objective == "supervised"
            and outputs is not None
            and outputs.uneven_rows > self.outside
        ):
            return (
                f"the outputs of a softmax sum to 1, {100 * outputs.uneven_rows:.0f} % of the rows of labels do not",
                "softmax for labels of which several hold at once",
                "binary_cross_entropy_with_logits on the raw output: one sigmoid for each label",
            )
        if facts.kind == "kl" and near in ("softmax", "sigmoid"):
            return (
                f"{near} before kl_div, which takes logarithms of probabilities",
                "softmax where log_softmax is meant",
                "log_softmax before kl_div",
            )
        if facts.kind in PROBABILITIES and outputs is not None and outputs.kind == "bce":
            share = max(outputs.above_one, outputs.below_zero)
            if math.isfinite(share) and share > self.outside:
                return (
                    f"binary cross-entropy takes labels from 0 to 1, {100 * share:.0f} % lie outside "
                    f"({outputs.label_low:.3g} to {outputs.label_high:.3g}): it has no lower bound",
                    "labels of -1 and 1, class numbers, or masks of 0 and 255",
                    "bring the labels to 0 and 1: (y + 1) / 2, y == 1, or y / 255",
                )
        if facts.kind in REGRESSION and outputs is not None and outputs.beyond > REACHED:
            return (
                f"every output has length {outputs.length:.3g}, {100 * outputs.longer_labels:.0f} % of the labels are longer",
                "a normalisation of the outputs to a fixed length before a regression",
                "a linear output, or labels of that length",
            )
        if facts.kind in REGRESSION and near in RANGES and outputs is not None:
            low, high = RANGES[near]
            below = outputs.below_zero if low == 0 else outputs.below_minus_one
            share = max(outputs.above_one if high == 1 else 0.0, below if low > -math.inf else 0.0)
            if math.isfinite(share) and share > self.outside:
                return (
                        f"{near} gives {low:g} to {high:g}, {100 * share:.0f} % of the labels lie outside "
                    f"({outputs.label_low:.3g} to {outputs.label_high:.3g})",
                    f"{near} as the last layer of a regression",
                    "a linear output, or labels scaled to that range",
                )
        return None


def cross_entropy_floor(kind: str, classes: int) -> float:
    """The least cross-entropy of logits in [0, 1] that sum to 1 (softmax), in [0, 1] (sigmoid), or in [-1, 1] (tanh)."""
    if kind == "softmax":
        return math.log(math.e + classes - 1) - 1
    width = 2.0 if kind == "tanh" else 1.0
    return math.log(1 + (classes - 1) * math.exp(-width))
