from __future__ import annotations

from dataclasses import replace

import pytest

from gradguard.comparing import compare, render_comparison
from gradguard.errors import UsageError
from gradguard.report import Report
from tests.handmade import CHECKS, SCALED, UNSCALED, clean_report, failed_report


def with_rows(table: str, **columns: object) -> Report:
    return Report((), CHECKS, {table: [{"scenario": "models.py:mlp", **columns}]})


def test_the_same_report_twice_is_ok() -> None:
    same = compare(failed_report(), failed_report())
    assert same.ok
    assert render_comparison(same) == "ok: nothing new, nothing moved for the worse"


def test_new_and_fixed_findings() -> None:
    before = Report((SCALED,), CHECKS)
    after = Report((replace(SCALED, block="fc2.weight"),), CHECKS)
    result = compare(before, after)
    assert not result.ok
    assert [f.block for f in result.new] == ["fc2.weight"]
    assert [f.block for f in result.fixed] == ["fc1.weight"]
    assert "1 finding new\nGG101 gradient-mismatch" in render_comparison(result)


def test_a_rule_that_no_longer_ran_has_fixed_nothing() -> None:
    skipped = replace(CHECKS[0], status="skipped", reason="no gradient")
    result = compare(Report((SCALED,), CHECKS[:1]), Report((), (skipped,)))
    assert result.fixed == ()
    assert result.undecided == ("models.py:mlp: GG101 gradient-mismatch was failed, is skipped: no gradient",)


def test_a_new_warning_shows_and_does_not_fail_and_one_that_became_an_error_does() -> None:
    assert compare(clean_report(), Report((UNSCALED,))).ok
    assert not compare(Report((UNSCALED,)), Report((replace(UNSCALED, severity="error"),))).ok
    assert compare(Report((replace(UNSCALED, severity="error"),)), Report((UNSCALED,))).new == ()


@pytest.mark.parametrize(
    ("table", "before", "after", "says", "ok"),
    [
        ("flow", {"block": "w", "step": 0, "grad_rms": 1e-2}, {"grad_rms": 1e-4}, "w: gradient norm (rms) fell 100x", False),
        ("flow", {"block": "w", "step": 0, "grad_rms": 1e-2}, {"grad_rms": 5.0}, "w: gradient norm (rms) rose 500x", False),
        ("flow", {"block": "w", "step": 0, "grad_rms": 1e-2}, {"grad_rms": 2e-3}, "", True),
        ("flow", {"block": "w", "step": 0, "grad_rms": 1e-2}, {"grad_rms": 0.0}, "w: gradient norm (rms) vanished", False),
        ("flow", {"block": "w", "step": 0, "grad_rms": 1e-2}, {"grad_rms": float("nan")}, "is no longer finite", False),
        ("units", {"layer": "relu", "dead": 0.0}, {"dead": 0.5}, "relu: dead fraction rose", False),
        ("units", {"layer": "relu", "dead": 0.0}, {"dead": 0.02}, "", True),
        ("units", {"layer": "relu", "dead": 0.5}, {"dead": 0.0}, "(for the better)", True),
        ("gradients", {"block": "w", "resolution": 1e-9}, {"resolution": 1e-3}, "w: resolution rose 1e+03x", False),
        ("gradients", {"block": "w", "resolution": 1e-3}, {"resolution": 1e-9}, "(for the better)", True),
        ("gradients", {"block": "w", "resolution": 1e-10}, {"resolution": 1e-7}, "", True),
        ("learning_rate", {"group": 0, "training_limit": 1.0}, {"training_limit": 0.01}, "limit fell 100x", False),
        ("learning_rate", {"group": 0, "training_limit": 0.01}, {"training_limit": 1.0}, "(for the better)", True),
    ],
)
def test_numbers_that_moved(table: str, before: dict[str, object], after: dict[str, object], says: str, ok: bool) -> None:
    result = compare(with_rows(table, **before), with_rows(table, **{**before, **after}))
    assert result.ok is ok
    text = render_comparison(result)
    assert says in text
    assert bool(result.moved) is bool(says)


def test_the_factor_is_the_users() -> None:
    before, after = (with_rows("flow", block="w", step=0, grad_rms=value) for value in (1.0, 0.25))
    assert compare(before, after).ok
    assert not compare(before, after, factor=2.0).ok
    for factor in (1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="factor must be a number above 1"):
            compare(before, after, factor=factor)


def test_steps_are_compared_by_their_median() -> None:
    rows = [{"scenario": "m", "block": "w", "step": i, "grad_rms": value} for i, value in enumerate((1.0, 1.0, 900.0))]
    assert compare(with_rows("flow"), Report((), (), {"flow": rows})).ok
    steady = [{**row, "grad_rms": 1.0} for row in rows]
    assert compare(Report((), (), {"flow": steady}), Report((), (), {"flow": rows})).moved == ()


def test_what_is_only_in_one_is_named() -> None:
    result = compare(clean_report("a.py:old"), clean_report("a.py:new"))
    assert result.only_before == ("a.py:old",)
    assert result.only_after == ("a.py:new",)
    assert "only in the first report\n  a.py:old" in render_comparison(result)
