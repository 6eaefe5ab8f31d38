"""How many orders of the batches a rate in doubt is run in, and what most of them say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gradguard.adapters.base import Counts, Settings
from gradguard.adapters.rates_base import RateProblem, Until
from gradguard.adapters.training_base import Trace
from gradguard.measurements.rate_longer import MOST, LongerRun, measure, settled
from gradguard.measurements.rate_verdict import RateLimits
from tests.learning_rate.test_rate_search import STEPS, Formula
from tests.rules.rates import observed, run


@pytest.mark.parametrize(
    ("orders", "below", "enough"),
    [
        ("d", 0.99, False),
        ("dd", 0.99, True),
        ("dd", 0.8, False),
        ("hh", 0.01, True),
        ("hh", 0.3, False),
        ("hh", 0.99, False),
        ("dh", 0.99, False),
        ("hhd", 0.01, True),
        ("hhdd", 0.99, False),
        ("hhddd", 0.5, True),
        ("hhhhh", 0.99, True),
    ],
)
def test_most_orders_must_agree_with_what_else_was_seen(orders: str, below: float, enough: bool) -> None:
    assert settled([order == "d" for order in orders], below) is enough


class Orders(Formula):
    """At the rate itself a run diverges where its order's letter is "d"; lower rates learn. All are thrown up at first."""

    def __init__(self, orders: str) -> None:
        super().__init__(lambda factor, step: 0.2)
        self.orders, self.tried = orders, ""
        self.training.sessions = {}

    def attempt(
        self, steps: int, *, factor: float, batches: Sequence[int], seed: int = 0, until: Until | None = None, **options: Any
    ) -> Trace:
        """The end of a run is by its order, of which the seed tells."""
        if factor == 1.0:
            self.tried += self.orders[seed]
        end = 5.0 if factor == 1.0 and self.orders[seed] == "d" else 0.2
        self.path = lambda factor, step: 9.0 if step < 4 else end
        return super().attempt(steps, factor=factor, batches=batches)

    follow = normalised = point = adaptive = along = split_loss = Formula.run
    blocks, counts, notes = (), Counts(), ()


SHORT = (run(0.01, 0.3, start=1.0), run(0.1, 0.1, start=1.0), run(1.0, 9.0, 5.0, 5.0, start=1.0))
"""A tenth of the rate and a hundredth learn; the rate itself is thrown away."""


@pytest.mark.parametrize(
    ("before", "orders", "tried", "diverges"),
    [
        ((), "ddddd", "dd", True),
        ((), "hhhhh", "hhh", False),
        ((), "hdhhh", "hdhhh", False),
        ((0.2, 0.15, 0.13), "hhddd", "hhddd", True),
        ((0.2, 0.15, 0.13), "hhhhh", "hhhh", False),
    ],
)
def test_two_orders_that_come_back_do_not_outweigh_lower_rates_that_are_lost(
    before: tuple[float, ...], orders: str, tried: str, diverges: bool
) -> None:
    problem = Orders(orders)
    assert isinstance(problem, RateProblem)
    longer = [run(factor, 9.0, 5.0, 5.0, start=1.0, long=True) for factor in before]
    found = observed(*SHORT, *longer, low=0.1, high=0.13, before=(1.0, 1.0))
    seen = measure(problem, Settings(steps=STEPS), {"rate_observation": found}, ())
    assert isinstance(seen, LongerRun)
    assert problem.tried == tried
    assert 1 + len(seen.again) <= MOST
    assert bool(seen.most(found.runs, found.worth, RateLimits())) is diverges
