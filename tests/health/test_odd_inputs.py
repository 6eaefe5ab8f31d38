"""Batches of other kinds than dense rows: sparse matrices, a batch without samples, labels that say which pair belongs together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, neighbours: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.sparse.mm(neighbours, self.first(x)).relu())
        return y


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(x, self.weight)


@pytest.mark.parametrize("graph", [True, False])
def test_sparse_inputs(graph: bool) -> None:
    torch.manual_seed(0)
    model = Graph() if graph else Words()
    some = (torch.rand(16, 16) < 0.3).float().to_sparse()
    given = (some, torch.randn(16, 8)) if graph else (some,)
    report = gg.check_training(
        model, [(given, torch.randint(3, (16,)))] * 3, loss=lambda m, b: functional.cross_entropy(m(*b[0]), b[1]),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01), independent_samples=not graph,
    )
    assert not report.errors, str(report)


def test_a_batch_without_samples() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    batches = [(torch.randn(n, 8), torch.randint(3, (n,))) for n in (16, 16, 0)]

    def loss(m: Any, b: Any) -> Any:
        return functional.cross_entropy(m(b[0]), b[1], reduction="sum") / max(1, len(b[1]))

    report = gg.check_training(model, batches, loss=loss, optimizer=torch.optim.Adam(model.parameters(), lr=0.01))
    assert not report.errors, str(report)


@pytest.mark.parametrize(("contrastive", "errors"), [(True, []), (False, ["GG406"])])
def test_labels_of_0_are_lost_or_the_place_of_the_pair_that_belongs_together(contrastive: bool, errors: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 6)

    def loss(m: Any, x: Any) -> Any:
        q = m(x)
        if contrastive:
            k = m(x + 0.1).detach()
            q = torch.cat([(q * k).sum(1, keepdim=True), q @ k.flip(0)[:8].T], 1)
        return functional.cross_entropy(q, torch.zeros(len(x), dtype=torch.long))

    report = gg.check_training(
        model, [torch.randn(32, 8) for _ in range(4)], loss=loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01), select="GG406",
    )
    assert [f.code for f in report.errors] == errors
