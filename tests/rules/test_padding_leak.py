"""GG308 on numbers typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gradguard.adapters.padding_base import PaddingFacts
from gradguard.errors import UsageError
from gradguard.finding import Outcome
from gradguard.measurements.padding import PaddingTrial
from gradguard.rules.padding_leak import PaddingLeak


def judged(**numbers: Any) -> Outcome:
    facts = PaddingFacts(padded=4, positions=20, input="batch[0]", **numbers)
    return PaddingLeak().check({"padding": PaddingTrial(facts=facts)})


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ({"loss": 0.2}, "failed"),
        ({"loss": 0.0, "outputs": 0.3}, "failed"),
        ({"loss": 0.0, "counted": 0.5}, "failed"),
        ({"loss_of_zeros": 0.2}, "failed"),
        ({"loss": 0.0, "loss_of_zeros": 0.2, "trimmed": 0.1}, "failed"),
        ({"trimmed": 0.1}, "failed"),
        ({"loss": 0.2, "trimmed": 0.0}, "failed"),
        ({"loss": 0.0, "counted": 0.0}, "passed"),
        ({"loss": 1e-7}, "passed"),
        ({"loss": 0.2, "loss_of_zeros": 0.2, "trimmed": 0.0}, "failed"),
        ({"outputs_of_zeros": 0.2, "trimmed": 0.0}, "passed"),
        ({"loss": 0.0, "loss_of_zeros": 0.2, "trimmed": 1e-7}, "passed"),
        ({"loss": 0.0, "counted": 0.9, "counted_zero": True, "trimmed": 0.0}, "passed"),
        ({"loss": 0.0, "trimmed": 0.4, "scaled": True}, "passed"),
        ({"trimmed": 0.4, "scaled": True}, "passed"),
        ({"loss": 0.2, "declared": False}, "passed"),
        ({"loss": 0.0, "counted": 0.5, "counted_zero": True}, "passed"),
        ({}, "inconclusive"),
        ({"declared": False}, "skipped"),
    ],
)
def test_rows(numbers: dict[str, Any], status: str) -> None:
    assert judged(**numbers).status == status


def test_what_is_not_declared_is_a_warning() -> None:
    (finding,) = judged(loss=0.2, declared=False).findings
    assert finding.severity == "warning"
    assert "not declared" in finding.evidence


def test_the_message() -> None:
    (finding,) = judged(loss=0.2, module="encoder.0", trimmed=0.1).findings
    assert finding.message == "the loss depends on padded inputs: 0.2 of what real positions do"
    assert finding.module == "encoder.0"
    assert finding.evidence == (
        "d loss / d batch[0] at padded over real positions 0.2; change of one sample's loss without its padding 0.1; "
        "first module whose real positions change: encoder.0"
    )
    assert (finding.count, finding.total) == (4, 20)


def test_a_scale_is_said() -> None:
    assert judged(loss=0.0, trimmed=0.4, scaled=True).reason.startswith("only the loss' scale depends on padding")


def test_options_are_validated() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        PaddingLeak(change=2.0)
