"""Predictions and labels over all samples: constant outputs, ranges, and the loss of guessing the labels' distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.observing_base import OutputFacts, lengths, spreads
from gradguard.adapters.torch_graph import Prediction
from gradguard.adapters.torch_row_order import row_order

__all__ = ["Outputs"]

COLUMNS = 64
ROWS = 8192
LEAST = 10
"""Labels for each class, below which they say too little of how frequent classes are elsewhere."""


def rows_of(tensor: torch.Tensor) -> NDArray[np.float64]:
    """(samples, features), at most 64 features."""
    flat = tensor.detach().reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.detach().reshape(-1, 1)
    return flat[:, :COLUMNS].to("cpu", torch.float64).numpy()


class Outputs:
    """Collects predictions and labels batch by batch, bounded in memory."""

    def __init__(self) -> None:
        self.rows: list[NDArray[np.float64]] = []
        self.declared: list[NDArray[np.float64]] = []
        self.labels: list[NDArray[np.float64]] = []
        self.classes: dict[int, int] = {}
        self.losses: list[NDArray[np.float64]] = []
        self.log_p: NDArray[np.float64] | None = None
        """The sum over samples of the logarithms of the predicted probabilities, one for each class."""
        self.kind = ""
        self.normalised: bool | None = None
        self.kept = 0
        self.width = 0
        self.source = ""
        self.declared_labels: list[NDArray[np.float64]] = []
        self.sums: list[NDArray[np.float64]] = []
        self.row_order: tuple[tuple[int, ...], ...] = ()
        self.logits, self.own_weights = False, True
        self.rewarded = False
        """Samples are weighed by numbers of either sign in some batch: what looks like labels are none."""
        self.negated: bool | None = None
        """What is minimised is the negative of the loss, in all batches where that was asked."""
        self.labelled = self.varied = False
        """Labels were seen; those of one batch differ. One label for all samples of each batch wants one output for them."""

    def add(self, made: Prediction | None, output: torch.Tensor | None, batch: Any = None) -> None:
        """What one batch's loss saved, or the model's output where it saved nothing."""
        if made is not None and batch is not None and not self.row_order:
            self.row_order = row_order(made, output, batch) or ()
        shown = made.predicted if made is not None else output
        if shown is not None and shown.ndim and shown.numel():
            self.width = shown[0].numel()
            self.source = self.source or ("loss" if made is not None else "model")
            if self.kept < ROWS:
                self.rows.append(rows_of(shown))
                self.kept += len(self.rows[-1])
        if made is None or self.rewarded:
            return
        p, y = made.predicted, made.labels
        if y.ndim and len(y) > 1:
            self.labelled, self.varied = True, self.varied or bool((y != y[:1]).any())
        if made.kind == "nll" and not y.is_floating_point():
            log_p = p.movedim(1, -1).reshape(-1, p.shape[1]) if p.ndim > 1 else p.reshape(1, -1)
            flat = y.reshape(-1)
            sums = log_p.double().logsumexp(dim=1).abs()
            rounding = 0.1 if p.dtype in (torch.float16, torch.bfloat16) else 1e-2
            self.normalised = self.normalised is not False and bool((sums < rounding).all())
            keep = (flat >= 0) & (flat < log_p.shape[1])
            chosen = flat[keep]
            total = log_p[keep].double().sum(dim=0).cpu().numpy()
            self.log_p = total if self.log_p is None or len(self.log_p) != len(total) else self.log_p + total
            self.losses.append(-log_p[keep].gather(1, chosen[:, None]).reshape(-1).double().cpu().numpy())
            for label, n in zip(*np.unique(chosen.cpu().numpy(), return_counts=True), strict=True):
                self.classes[int(label)] = self.classes.get(int(label), 0) + int(n)
            self.kind = "cross_entropy"
            self.own_weights = self.own_weights and made.own_weights
            return
        if p.shape != y.shape or made.kind not in ("bce", "bce_logits", "mse", "absolute"):
            return
        y = y.to(p)
        if made.kind == "bce":
            q = p.double().clamp(1e-7, 1 - 1e-7)
            each = -(y * q.log() + (1 - y) * (1 - q).log())
        elif made.kind == "bce_logits":
            each = torch.nn.functional.binary_cross_entropy_with_logits(p.double(), y.double(), reduction="none")
        else:
            each = (p - y).double().square() if made.kind == "mse" else (p - y).double().abs()
        self.kind, self.logits = made.kind.removesuffix("_logits"), made.kind.endswith("_logits")
        self.losses.append(each.reshape(each.shape[0], -1).mean(dim=1).cpu().numpy() if each.ndim > 1 else each.cpu().numpy())
        self.labels.append(rows_of(y))
        if y.ndim == 2 and y.shape[1] > 1:
            self.sums.append(y.detach().double().sum(dim=1).cpu().numpy())

    def no_labels(self) -> None:
        """What looked like labels are none, in no batch: they weigh by a reward."""
        self.rewarded, self.kind, self.negated = True, "", False
        self.labelled, self.varied, self.log_p, self.normalised = False, False, None, None
        for kept in (self.labels, self.losses, self.sums, self.classes):
            kept.clear()

    def add_labels(self, labels: Any) -> None:
        """Labels that the user declared."""
        tensor = torch.as_tensor(np.asarray(labels)) if not isinstance(labels, torch.Tensor) else labels
        if tensor.ndim:
            self.declared_labels.append(rows_of(tensor))

    def add_declared(self, made: torch.Tensor, labels: Any) -> None:
        """Outputs and labels that the user declared; they take the place of what the loss saved."""
        self.declared.append(rows_of(made))
        if labels is not None:
            self.add_labels(labels)

    def facts(self, *, alike: bool = False) -> OutputFacts | None:
        """Statistics over all samples; None where nothing was seen. ``alike``: the model was given one sample many times in
        each batch, and so is right to make one output of them."""
        rows = self.declared or self.rows
        same = [r for r in rows if r.shape[1] == rows[0].shape[1]]
        if not same:
            return None
        y = np.concatenate(same)
        labels = self.labels or self.declared_labels
        flat = np.concatenate([label.ravel() for label in labels]) if labels else None
        losses = np.concatenate(self.losses) if self.losses else np.array([])
        kind, prior, own = self.kind, self._prior(LEAST), self._prior(1)
        if not losses.size and self.declared and self.declared_labels:
            own = self._from_declared(1)[2]
            kind, losses, prior = self._from_declared(LEAST)
        return OutputFacts(
            samples=len(y),
            width=self.width or y.shape[1],
            **{**spreads(same), **({"within": math.inf} if alike or (self.labelled and not self.varied) else {})},
            **(lengths(same, labels) if 1 < self.width <= COLUMNS else {}),
            low=float(y.min()),
            high=float(y.max()),
            rms=float(np.sqrt(np.mean(y**2))),
            dead_columns=int((y == 0).all(axis=0).sum()),
            kind=kind,
            data_loss=float(losses.mean()) if losses.size else math.nan,
            data_error=float(losses.std() / math.sqrt(losses.size)) if losses.size > 1 else math.nan,
            prior=prior,
            own_prior=own,
            told=self._told(float(losses.mean())) if losses.size and not self.declared else math.nan,
            label_low=float(flat.min()) if flat is not None and flat.size else math.nan,
            label_high=float(flat.max()) if flat is not None and flat.size else math.nan,
            label_rms=float(np.sqrt(np.mean(flat**2))) if flat is not None and flat.size else math.nan,
            label_std=float(flat.std()) if flat is not None and flat.size else math.nan,
            above_one=share(flat, lambda v: v > 1.05),
            below_zero=share(flat, lambda v: v < -0.05),
            below_minus_one=share(flat, lambda v: v < -1.05),
            uneven_rows=share(np.concatenate(self.sums) if self.sums else None, lambda v: np.abs(v - 1) > 0.05),
            constant_label=self._constant_label(flat),
            row_order=self.row_order,
            normalised=self.normalised,
            source="declared" if self.declared else self.source,
            negated=bool(self.negated) and self.varied,
            rewarded=self.rewarded,
        )

    def _constant_label(self, flat: NDArray[np.float64] | None) -> float | None:
        """The one label of a classification, where there is only one.

        Scores of pairs (contrastive losses) have their positive pair in the same place for all samples.
        """
        if self.kind == "cross_entropy":
            return float(next(iter(self.classes))) if len(self.classes) == 1 and self.own_weights else None
        if self.kind == "bce" and flat is not None and flat.size and flat.min() == flat.max() and flat[0] in (0.0, 1.0):
            return float(flat[0])
        return None

    def _told(self, loss: float) -> float:
        """The loss of these predictions against the labels of all samples alike, less that against their own.

        Over all pairs (i, j) of predictions and labels: for a cross-entropy -sum_c q_c E[log p_c] with q the labels' shares,
        for squares E[(p_i - y_j)^2] = E[(p - y)^2] + 2 cov(p, y), for a binary cross-entropy cov(z, y) of the logits z. NaN
        for other losses.
        """
        if self.kind == "cross_entropy" and self.log_p is not None:
            n = sum(self.classes.values())
            shares = np.array([self.classes.get(c, 0) / n for c in range(len(self.log_p))])
            with np.errstate(all="ignore"):
                return float(-np.sum((shares * self.log_p / n)[shares > 0]) - loss)
        pairs = [(p, y) for p, y in zip(self.rows, self.labels, strict=False) if p.shape == y.shape]
        if self.kind not in ("mse", "bce") or not pairs:
            return math.nan
        p, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if self.kind == "bce" and not self.logits:
            q = np.clip(p, 1e-7, 1 - 1e-7)
            p = np.log(q) - np.log1p(-q)
        return float((2 if self.kind == "mse" else 1) * np.mean(np.mean(p * y, axis=0) - p.mean(axis=0) * y.mean(axis=0)))

    def _prior(self, least: int) -> float:
        """The loss of guessing the labels' distribution: entropy, variance, or mean absolute deviation from the median.

        NaN with fewer than ``least`` labels for each class.
        """
        if self.kind == "cross_entropy" and len(self.classes) == 1 and not self.own_weights:
            return math.nan  # no score of a pair is a class's own: the place of the right one cannot be guessed
        if self.kind == "cross_entropy":
            return entropy(np.array(list(self.classes.values()), dtype=np.float64), least)
        same = [label for label in self.labels if label.shape[1] == self.labels[0].shape[1]]
        if not same:
            return math.nan
        return prior_of(self.kind, np.concatenate(same))

    def _from_declared(self, least: int) -> tuple[str, NDArray[np.float64], float]:
        """Loss and prior from declared outputs and labels."""
        p, y = np.concatenate(self.declared), np.concatenate(self.declared_labels)
        if len(p) != len(y):
            return "", np.array([]), math.nan
        if y.shape[1] == 1 and p.shape[1] > 1 and np.all(y == np.round(y)) and y.min() >= 0 and y.max() < p.shape[1]:
            probabilities = np.allclose(p.sum(axis=1), 1.0, atol=1e-3) and p.min() >= 0
            shifted = p - p.max(axis=1, keepdims=True)
            log_p = (
                np.log(np.clip(p, 1e-12, None))
                if probabilities
                else shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            )
            chosen = y[:, 0].astype(int)
            counts = np.unique(chosen, return_counts=True)[1].astype(np.float64)
            return "cross_entropy", -log_p[np.arange(len(p)), chosen], entropy(counts, least)
        if p.shape == y.shape:
            return "mse", ((p - y) ** 2).mean(axis=1), prior_of("mse", y)
        return "", np.array([]), math.nan


def share(values: NDArray[np.float64] | None, which: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> float:
    """The share of values for which a condition holds; NaN without values."""
    return float(np.mean(which(values))) if values is not None and values.size else math.nan


def entropy(counts: NDArray[np.float64], least: int) -> float:
    """-sum p log p of counts (K,), in nats; NaN with fewer than ``least`` labels for each class."""
    counts = counts[counts > 0]
    if not counts.size or counts.sum() < least * counts.size:
        return math.nan
    p = counts / counts.sum()
    return float(-np.sum(p * np.log(p)))


def prior_of(kind: str, y: NDArray[np.float64]) -> float:
    """The mean loss of the best constant prediction per column of labels (N, M)."""
    if kind == "mse":
        return float(np.mean(np.var(y, axis=0)))
    if kind == "absolute":
        return float(np.mean(np.abs(y - np.median(y, axis=0))))
    if kind == "bce":
        q = np.clip(np.mean(y, axis=0), 1e-12, 1 - 1e-12)
        return float(np.mean(-(q * np.log(q) + (1 - q) * np.log(1 - q))))
    return math.nan
