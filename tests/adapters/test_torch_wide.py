"""Operators without a float64 kernel: what stands in for them computes the same, and a model that uses them is lifted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.torch_wide import WIDE, grouped_mm

ENDS = torch.tensor([4, 4, 16], dtype=torch.int32)
FORMS = {
    "rows": ((16, 8), (3, 8, 12), ENDS),
    "columns": ((3, 20, 8), (8, 16), ENDS),
    "summed over": ((4, 16), (16, 12), ENDS),
    "a batch": ((3, 4, 8), (3, 8, 12), None),
}


@pytest.mark.skipif(not WIDE, reason="this torch has no grouped product")
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_operator_itself(form: str) -> None:
    first, second, ends = FORMS[form]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(first, generator=generator), torch.randn(second, generator=generator)
    expected = torch.ops.aten._grouped_mm(a, b, ends)
    torch.testing.assert_close(grouped_mm(a, b, ends), expected)


class Experts(nn.Module):
    """Three experts; each row goes to the one that scores it highest."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.weights = nn.Linear(8, 3), nn.Parameter(torch.randn(3, 8, 8) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chance, chosen = self.router(x).softmax(-1).max(-1)
        order = chosen.argsort()
        ends = torch.bincount(chosen, minlength=3).cumsum(0).to(torch.int32)
        mixed = torch.nn.functional.grouped_mm(x[order], self.weights, offs=ends)
        return mixed * chance[order, None]


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="this torch has no grouped product")
def test_experts_are_checked_in_float64() -> None:
    torch.manual_seed(0)
    report = gg.check_gradients(Experts(), torch.randn(16, 8), precision="float64")
    assert report.ok, str(report)
    assert all(path.startswith("lifted") for path in report.tables["gradients"]["path"])
