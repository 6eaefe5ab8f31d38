"""GG203 on places typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gradguard.adapters.observing_base import Nonfinite
from gradguard.rules.nonfinite_activation import NonfiniteActivation
from tests.rules.health_evidence import evidence, passes, run, severities

BAD = Nonfinite(module="norm", owner="Log", batch=2, where="output", before=("fc1",))


@pytest.mark.parametrize(
    ("start", "end", "losses", "expected"),
    [
        (BAD, None, (2.3, 0.2), ["error"]),
        (None, BAD, (2.3, 0.2), ["error"]),  # born in training, while everything was moderate
        (None, BAD, (2.3, 1e6), ["info"]),  # the divergence is another rule's
        (None, None, (2.3, 1e6), []),
    ],
)
def test_rows(start: Any, end: Any, losses: tuple[float, float], expected: list[str]) -> None:
    assert (
        severities(NonfiniteActivation().check(evidence(passes({"nonfinite": start}, {"nonfinite": end}), run(losses))))
        == expected
    )


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("input", "NaN or infinity in the input of batch 2, rows 5, before any step"),
        ("loss", "NaN or infinity in the loss of batch 2; every module's output is finite, before any step"),
        ("parameter", "NaN or infinity in parameter fc1.weight, before any step"),
    ],
)
def test_the_place_is_named(where: str, text: str) -> None:
    module, rows = ("fc1.weight" if where == "parameter" else ""), ((5,) if where == "input" else ())
    found = Nonfinite(module=module, owner="", batch=2, where=where, rows=rows)
    assert NonfiniteActivation().check(evidence(passes({"nonfinite": found}))).findings[0].message == text
