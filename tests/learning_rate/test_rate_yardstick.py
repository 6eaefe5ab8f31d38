"""The yardstick of the training limit, on ends whose limits by seed are known: no net is trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks.learning_rate import curve
from benchmarks.learning_rate import yardstick as module
from benchmarks.learning_rate.drawn import draw
from benchmarks.learning_rate.training_limit import Verdict, counts
from benchmarks.learning_rate.yardstick import MANY, SEEDS, Yardstick


class Known(Yardstick):
    """Each seed learns up to a limit of its own, and ends above where it began from there on; ``asked`` are the seeds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_of: Callable[[int], float]) -> None:
        net, _ = draw(8011)
        super().__init__(net, "SGD")
        self.asked: set[int] = set()

        def end_of_run(net: object, optimizer: str, lr: float, seed: int, order: int | None = None) -> tuple[float, float]:
            self.asked.add(seed)
            return 1.0, 0.1 if lr <= limit_of(seed) else 3.0

        monkeypatch.setattr(module, "end_of_run", end_of_run)


def test_seeds_that_agree_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Known(monkeypatch, lambda seed: 0.4)
    assert found.limit(0.5) == pytest.approx(0.4, rel=0.17)
    assert found.limit(0.5, MANY) == found.limit(0.5)
    assert found.asked == set(range(SEEDS))


def test_where_five_are_split_more_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # three of the first five hold five times as much as nearly all others
    found = Known(monkeypatch, lambda seed: 2.0 if seed in (0, 2, 4) else 0.4)
    assert found.limit(0.5) == pytest.approx(2.0, rel=0.17)
    assert found.limit(0.5, MANY) == pytest.approx(0.4, rel=0.17)
    low, high = found.split(found.limit(0.5, MANY), 0.5)
    assert low <= 0.4 < 2.0 < high <= 3.5


def test_more_seeds_come_nearer_to_where_half_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: dict[int, list[float]] = {SEEDS: [], MANY: []}
    for draw_of_seeds in range(40):
        limits = 10.0 ** np.random.default_rng(draw_of_seeds).normal(0.0, 0.4, MANY)
        found = Known(monkeypatch, lambda seed, limits=limits: float(limits[seed]))
        for most, seen in errors.items():
            seen.append(abs(math.log10(found.limit(0.5, most))))
    assert np.median(errors[MANY]) < 0.7 * np.median(errors[SEEDS])


def test_what_always_holds_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Known(monkeypatch, lambda seed: math.inf)
    assert found.limit(0.5, MANY) == math.inf


def test_the_split_is_followed_no_farther_than_a_decade(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Known(monkeypatch, lambda seed: 1e9 if seed == 0 else 0.0 if seed == 1 else 0.4)
    assert found.split(found.limit(0.5, MANY), 0.5) == (0.0, math.inf)


def test_a_curve_counts_the_seeds_and_the_orders_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_of_run(net: object, optimizer: str, lr: float, seed: int, order: int | None = None) -> tuple[float, float]:
        return 1.0, 0.1 if lr <= (seed if order is None else 2 * order) else 0.6  # seeds 0 to 14, orders 1 to 15

    monkeypatch.setattr(curve, "end_of_run", end_of_run)
    net, _ = draw(8011)
    rates = [0.01, 3.5, 5.5, 29.0, 40.0]
    assert curve.failing(net, "SGD", rates, orders=False) == [0, 3, 5, 14, 14]  # seed 0 holds nothing, and knows no better
    assert curve.failing(net, "SGD", rates, orders=True) == [0, 1, 2, 14, 15]


def test_a_given_model_is_run_in_other_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def end_of_run(net: object, optimizer: str, lr: float, seed: int, order: int | None = None) -> tuple[float, float]:
        asked.add((seed, order))
        return 1.0, 0.1 if lr <= 0.4 else 3.0

    monkeypatch.setattr(module, "end_of_run", end_of_run)
    net, _ = draw(8011)
    assert Yardstick(net, "SGD", given=7).limit(0.5) == pytest.approx(0.4, rel=0.17)
    assert asked == {(7, 1), (7, 2), (7, 3)}  # three of five decide


@pytest.mark.parametrize(
    ("factor", "status", "failing", "right", "known", "true", "cell"),
    [
        (0.3, "passed", 0, True, True, True, "right 0/5"),
        (0.3, "failed", 0, False, True, False, "**failed** 0/5"),
        (0.3, "failed", 5, False, True, True, "**failed** 5/5"),
        (3.0, "failed", 5, True, True, True, "right 5/5"),
        (3.0, "failed", 2, True, False, True, "right 2/5"),
        (3.0, "passed", 0, False, True, True, "**passed** 0/5"),
        (10.0, "inconclusive", 5, False, True, False, "**inconclusive** 5/5"),
    ],
)
def test_a_verdict_is_right_by_the_limit_and_true_by_five_runs(
    factor: float, status: str, failing: int, right: bool, known: bool, true: bool, cell: str
) -> None:
    verdict = Verdict(factor, status, failing)
    assert (verdict.right, verdict.known, verdict.cell) == (right, known, cell)
    assert verdict.true is true or not known


def test_verdicts_are_counted_by_multiple() -> None:
    one = [Verdict(0.3, "passed", 0), Verdict(3.0, "passed", 2)]
    other = [Verdict(0.3, "failed", 0), Verdict(3.0, "failed", 5)]
    assert counts([one, other]) == "1 of 2 (1 of 2 known), 1 of 2 (1 of 1 known)"
