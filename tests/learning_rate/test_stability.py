"""Closed forms of the stability limits, against the iteration itself."""

from __future__ import annotations

import itertools

import pytest

from gradguard.curvature.stability import StepRule

CLOSED = [
    (StepRule(), 2.0),
    (StepRule(momentum=0.9), 3.8),
    (StepRule(momentum=0.9, nesterov=True), 3.8 / 2.8),
    (StepRule(momentum=0.9, share=0.1), 38.0),
    (StepRule(momentum=0.5, share=0.5), 6.0),
]


@pytest.mark.parametrize(("rule", "limit"), CLOSED)
def test_limit_of_unit_curvature(rule: StepRule, limit: float) -> None:
    assert rule.limit(1.0) == pytest.approx(limit)
    assert rule.limit(50.0) == pytest.approx(limit / 50.0)


def shrinks(rule: StepRule, rate: float, curvature: float, steps: int = 4000) -> bool:
    """The two-variable iteration written out, as an oracle for the matrix and for the closed form."""
    x, m = 1.0, 0.0
    for _ in range(steps):
        g = curvature * x
        m = rule.momentum * m + rule.share * g
        step = rule.share * g + rule.momentum * m if rule.nesterov else m
        x = (1.0 - rate * rule.decay) * x - rate * step
        if abs(x) > 1e6:
            return False
    return abs(x) < 1e-3


@pytest.mark.parametrize(
    ("momentum", "share", "nesterov", "decay"),
    list(itertools.product([0.0, 0.5, 0.9], [1.0, 0.1], [False, True], [0.0, 0.3])),
)
def test_limit_separates_shrinking_from_growing(momentum: float, share: float, nesterov: bool, decay: float) -> None:
    rule = StepRule(momentum=momentum, share=share, nesterov=nesterov, decay=decay)
    if nesterov and decay and momentum:
        decay = 0.0  # decoupled decay under Nesterov's momentum: the closed form is a bound
        rule = StepRule(momentum=momentum, share=share, nesterov=nesterov)
    limit = rule.limit(7.0)
    assert shrinks(rule, 0.99 * limit, 7.0)
    assert not shrinks(rule, 1.01 * limit, 7.0)
    assert rule.factor(0.99 * limit, 7.0) < 1.0 < rule.factor(1.01 * limit, 7.0)


@pytest.mark.parametrize("curvature", [0.0, -3.0])
def test_no_rate_diverges_without_curvature(curvature: float) -> None:
    assert StepRule(momentum=0.9).limit(curvature) == float("inf")
