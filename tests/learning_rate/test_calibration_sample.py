"""A sample of the calibration (`benchmarks.learning_rate`): drawn nets whose limits a plain loop has found, or finds."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks.learning_rate.drawn import draw
from benchmarks.learning_rate.first_step import limits_of, lowest, overshoots, prepared
from benchmarks.learning_rate.training_limit import START, scenario_at

BY_BISECTION = {8004: ("wine-residual-2x64-ELU-b64", "Nesterov", 0.487), 8011: ("iris-mlp-3x24-Tanh-b32", "SGD", 2.05)}
"""Seed of the draw: net, optimizer, and the limit that 5 seeds and 300 steps gave."""


@pytest.mark.parametrize("seed", BY_BISECTION)
def test_drawn_nets(seed: int) -> None:
    name, optimizer, limit = BY_BISECTION[seed]
    net, drawn = draw(seed)
    assert (net.name, drawn) == (name, optimizer)
    row = scenario_at(net, optimizer, START[optimizer]).table_rows("learning_rate")[0]
    assert 0.5 <= row["training_limit"] / limit <= 2.0
    for factor in (0.3, 3.0):
        report = scenario_at(net, optimizer, factor * limit, select="GG401")
        (check,) = [c for c in report.checks if c.code == "GG401"]
        assert check.status == ("failed" if factor > 1 else "passed")


@pytest.mark.parametrize("seed", [30001, 30013, 30022])
@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_first_step_limit_of_drawn_nets(seed: int, single: bool) -> None:
    given = prepared(*draw(seed), warm=0, single=single)
    limit = limits_of(given)["first_step_limit"]
    assert 0.5 <= limit / lowest(lambda lr: overshoots(given, lr), limit) <= 2.0
