"""GG305 on changes typed by hand."""

from __future__ import annotations

import pytest

from gradguard.adapters.observing_base import Leaks
from gradguard.measurements.leaks import LeakTrial
from gradguard.rules.sample_leak import SampleLeak
from tests.rules.leak_evidence import CHANGES


@pytest.mark.parametrize(("change", "own", "status"), CHANGES)
def test_rows(change: float | None, own: float, status: str) -> None:
    leaks = Leaks(sample=change, sample_own=own)
    assert SampleLeak().check({"leaks": LeakTrial(leaks=leaks)}).status == status
