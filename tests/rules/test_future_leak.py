"""GG306 on changes typed by hand."""

from __future__ import annotations

import pytest

from gradguard.adapters.observing_base import Leaks
from gradguard.measurements.leaks import LeakTrial
from gradguard.rules.future_leak import FutureLeak


@pytest.mark.parametrize(
    ("change", "own", "status"),
    [
        (0.1, 1.0, "failed"),
        (0.0, 1.0, "passed"),
        (1e-7, 1.0, "passed"),
        (0.0, 0.0, "inconclusive"),
        (None, 0.0, "skipped"),
    ],
)
def test_rows(change: float | None, own: float, status: str) -> None:
    leaks = Leaks(future=change, future_own=own)
    assert FutureLeak().check({"leaks": LeakTrial(leaks=leaks)}).status == status
