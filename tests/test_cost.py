"""The number of forward passes of a healthy model grows neither with its parameters nor, by much, with its blocks."""

from __future__ import annotations

import pytest

import gradguard as gg
from benchmarks.gradients.cost import forwards, mean_square, of_depth, of_size

RULES = ("GG101", "GG102", "GG105", "GG902")


def cost(model: object, x: object) -> float:
    report = gg.check_gradients(model, x, loss=mean_square, select=RULES)
    assert not report.errors, str(report)
    assert not report.inconclusive, str(report)
    return forwards(report)


@pytest.mark.parametrize("parameters", [1_000, 10_000, 100_000, 1_000_000])
def test_forwards_do_not_grow_with_parameters(parameters: int) -> None:
    assert cost(*of_size(parameters)) <= 60


@pytest.mark.parametrize("layers", [2, 25, 100, 200])
def test_forwards_hardly_grow_with_blocks(layers: int) -> None:
    assert cost(*of_depth(layers)) <= 60
