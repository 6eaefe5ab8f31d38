"""GG306 on changes typed by hand."""

from __future__ import annotations

import pytest

from gradguard.adapters.observing_base import Leaks
from gradguard.measurements.leaks import LeakTrial
from gradguard.rules.future_leak import FutureLeak
from tests.rules.leak_evidence import CHANGES


@pytest.mark.parametrize(("change", "own", "status"), CHANGES)
def test_rows(change: float | None, own: float, status: str) -> None:
    leaks = Leaks(future=change, future_own=own)
    assert FutureLeak().check({"leaks": LeakTrial(leaks=leaks)}).status == status
