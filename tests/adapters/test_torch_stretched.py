"""Shapes that look like labels against predictions, told apart by a batch of one sample less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gradguard as gg


def errors(labels: Tensor, basis: Tensor) -> list[str]:
    """Of one output for each of N samples, times a basis."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    batches = [(torch.randn(len(labels), 4), labels) for _ in range(4)]
    report = gg.check_training(
        model, batches, loss=lambda m, b: (m(b[0]) * basis - b[1]).square().mean(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01), select="GG501",
    )
    return [f.code for f in report.findings]


def test_as_many_features_as_samples_are_no_stretched_labels() -> None:
    assert errors(torch.rand(8, 8), torch.linspace(0, 1, 8)) == []


def test_stretched_labels_are_so_with_one_sample_less() -> None:
    assert errors(torch.rand(8), torch.ones(())) == ["GG501"]
