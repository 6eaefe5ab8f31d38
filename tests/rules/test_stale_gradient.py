"""GG304 on shares typed by hand."""

from __future__ import annotations

import pytest

from gradguard.rules.stale_gradient import StaleGradient
from tests.rules.health_evidence import evidence, run


@pytest.mark.parametrize(
    ("stale", "status"), [(1.0, "failed"), (0.9, "failed"), (0.1, "passed"), (0.0, "passed"), (None, "skipped")]
)
def test_rows(stale: float | None, status: str) -> None:
    assert StaleGradient().check(evidence(run(stale=stale))).status == status
