"""Whether all samples that a model is given are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradguard.adapters.torch_batch_parts import SameRows

ROW = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("batches", "count"),
    [
        ([ROW.expand(4, 3), ROW.expand(2, 3)], 6),
        ([ROW.expand(4, 3), 2 * ROW.expand(4, 3)], 0),  # the same within each batch only
        ([torch.arange(12).reshape(4, 3)], 0),
        ([{"ids": ROW.expand(4, 3), "more": torch.arange(4)}], 0),
        ([{"ids": ROW.expand(4, 3), "places": torch.arange(3)}], 4),  # positions are not of samples
        ([ROW.expand(4, 3), torch.ones(4, 5)], 0),
        (["no tensor"], 0),
    ],
)
def test_rows(batches: list[Any], count: int) -> None:
    rows = SameRows()
    for batch in batches:
        rows.add(((batch,), {}))
    assert rows.count == count
