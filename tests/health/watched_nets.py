"""Small nets from (N, 6) to (N, 3) for the tests that watch must change nothing: recurrent, attentive, with batch norm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Recurrent(nn.Module):
    """A recurrent layer of torch by its name, over three steps of two numbers, with dropout."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.head = getattr(nn, kind)(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.dropout(self.inner(x.reshape(-1, 3, 2))[0][:, -1], 0.1, self.training))


class Attentive(nn.Module):
    """A transformer layer over three positions of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(2, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x.reshape(-1, 3, 2))).mean(1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3))
