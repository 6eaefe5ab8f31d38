"""Outputs and labels that a loss flattens in different orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gradguard.adapters.torch_graph import predictions_of
from gradguard.adapters.torch_row_order import row_order

LABELS = torch.randint(0, 3, (5, 7), generator=torch.Generator().manual_seed(0))


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), requires_grad=True) * 1.0


@pytest.mark.parametrize(
    ("output", "loss", "labels", "wrong"),
    [
        (leaf(7, 5, 3), lambda z, y: functional.cross_entropy(z.reshape(-1, 3), y.reshape(-1)), LABELS, True),
        (leaf(5, 3, 7), lambda z, y: functional.cross_entropy(z.reshape(-1, 3), y.reshape(-1)), LABELS, True),
        (leaf(7, 5, 3), lambda z, y: functional.cross_entropy(z.transpose(0, 1).reshape(-1, 3), y.reshape(-1)), LABELS, False),
        (leaf(7, 5, 3), lambda z, y: functional.cross_entropy(z.reshape(-1, 3), y.T.reshape(-1)), LABELS, False),
        (leaf(5, 7, 3), lambda z, y: functional.cross_entropy(z.reshape(-1, 3), y.reshape(-1)), LABELS, False),
        (leaf(5, 3, 7), lambda z, y: functional.cross_entropy(z, y), LABELS, False),
        (leaf(5, 3, 7), lambda z, y: functional.cross_entropy(z.permute(0, 2, 1).reshape(-1, 3), y.reshape(-1)), LABELS, False),
        (leaf(5, 5, 3), lambda z, y: functional.cross_entropy(z.reshape(-1, 3), y.reshape(-1)), LABELS[:, :5], False),  # no telling
    ],
)
def test_rows(output: Tensor, loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor, wrong: bool) -> None:
    made = predictions_of(loss(output, labels))
    found = row_order(made, output, {"x": torch.ones(5, 7), "y": labels}) if made is not None else None
    assert (found is not None) == wrong
