"""Planted faults are named where they are: a few of ``python -m benchmarks.health.located``."""

from __future__ import annotations

import pytest

from benchmarks.health.located import FAULTS, KINDS, draw, judge

SEEDS = {"too_large": 10, "too_small": 15, "not_finite": 28, "not_finite_backward": 30}
"""28: attention hides what is not finite from the loss."""


@pytest.mark.parametrize("name", SEEDS)
def test_the_head_of_the_report_names_the_module(name: str) -> None:
    case, _ = draw(SEEDS[name])
    assert case.fault == name
    head = judge(case.model, SEEDS[name], 20, select=("GG102", "GG2", "GG3", "GG5"))[0]
    assert head.code in case.codes
    assert head.module in case.modules


def test_every_fault_finds_a_place_in_every_kind_of_net() -> None:
    drawn = [draw(seed)[0] for seed in range(len(KINDS) * len(FAULTS))]
    assert len({(case.kind, case.fault) for case in drawn}) == len(drawn)
    assert all(case.modules <= {name for name, _ in case.model.named_modules()} for case in drawn)
