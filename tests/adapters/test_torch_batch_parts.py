"""Whether all samples that a model is given are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradguard.adapters.torch_batch_parts import SameRows

ROW = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("batches", "count", "alike"),
    [
        ([ROW.expand(4, 3), ROW.expand(2, 3)], 6, True),
        ([ROW.expand(4, 3), 2 * ROW.expand(4, 3)], 0, True),  # the same within each batch only
        ([torch.arange(12).reshape(4, 3)], 0, False),
        ([{"ids": ROW.expand(4, 3), "more": torch.arange(4)}], 0, False),
        ([{"ids": ROW.expand(4, 3), "places": torch.arange(3)}], 4, True),  # positions are not of samples
        ([ROW.expand(4, 3), torch.ones(4, 5)], 0, True),
        ([ROW.expand(4, 3), 2 * ROW.expand(4, 3), torch.arange(12).reshape(4, 3)], 0, False),
    ],
)
def test_rows(batches: list[Any], count: int, alike: bool) -> None:
    rows = SameRows()
    for batch in batches:
        rows.add(((batch,), {}))
    assert (rows.count, rows.alike) == (count, alike)


def test_what_holds_no_tensor_has_no_samples() -> None:
    rows = SameRows()
    rows.add((("no tensor",), {}))
    assert rows.count == 0
