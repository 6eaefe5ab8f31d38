"""What a user records of a watched loop: the kinds of losses, and predictions and labels now and then, bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import torch

from gradguard.adapters.observing_base import LossFacts, OutputFacts
from gradguard.adapters.torch_graph import Prediction, losses_of, predictions_of
from gradguard.adapters.torch_outputs import Outputs
from gradguard.adapters.torch_spy import first_tensor

__all__ = ["Recorded"]

FIRST = 3
"""Records that say where training began."""
KEPT = 8
"""Latest records that are kept."""
ENTRIES = 1 << 18
"""Entries of one record's predictions that are kept: the first samples."""


class Recorded:
    """Losses by kind, and outputs with labels at the start and lately."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.count = 0
        self.graphs = 0
        self.losses: tuple[LossFacts, ...] = ()
        self.first = Outputs()
        self.latest: deque[Prediction | tuple[torch.Tensor, Any]] = deque(maxlen=KEPT)
        self._read = 0

    def add(self, loss: torch.Tensor | None, output: Any, labels: Any) -> None:
        """One record; outputs are kept of the first ones and of every ``every``-th later."""
        due = self.count < FIRST or self.count % self.every == 0
        self.count += 1
        graph = loss if loss is not None and loss.grad_fn is not None else None
        self.graphs += graph is not None
        if graph is not None and not self.losses and self._read < FIRST:
            self._read += 1
            self.losses = losses_of(graph)
        if not due:
            return
        made = first_tensor(output)
        if made is not None:
            self._declared(made.detach(), labels)
        elif graph is not None:
            self._saved(graph)

    def _declared(self, made: torch.Tensor, labels: Any) -> None:
        n = samples(made)
        kept = made[:n].clone() if made.ndim else made.clone()
        if labels is not None and hasattr(labels, "__getitem__") and getattr(labels, "ndim", 1) != 0:
            labels = labels[:n]
        labels = labels.detach().clone() if isinstance(labels, torch.Tensor) else labels
        self.latest.append((kept, labels))
        if self.count <= FIRST:
            self.first.add_declared(kept, labels)

    def _saved(self, loss: torch.Tensor) -> None:
        try:
            found = predictions_of(loss)
        except RuntimeError:  # backward has freed what the loss had saved
            return
        if found is None:
            return
        kept = found
        if found.predicted.ndim and found.labels.ndim and found.predicted.shape[0] == found.labels.shape[0]:
            n = samples(found.predicted)
            kept = replace(found, predicted=found.predicted[:n].clone(), labels=found.labels[:n].clone())
        self.latest.append(kept)
        if self.count <= FIRST:
            self.first.add(kept, None)

    def start(self) -> OutputFacts | None:
        """The first records."""
        return self.first.facts()

    def end(self) -> OutputFacts | None:
        """The latest records."""
        outputs = Outputs()
        for one in self.latest:
            if not bool(torch.isfinite(one.predicted if isinstance(one, Prediction) else one[0]).all()):
                continue
            if isinstance(one, Prediction):
                outputs.add(one, None)
            else:
                outputs.add_declared(*one)
        return outputs.facts()


def samples(made: torch.Tensor) -> int:
    """How many samples of an output (N, ...) are kept."""
    if not made.ndim or not made.shape[0]:
        return 0
    return max(1, min(made.shape[0], ENTRIES // max(1, made[0].numel())))
