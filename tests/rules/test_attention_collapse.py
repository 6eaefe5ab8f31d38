"""GG205 on entropies typed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gradguard.adapters.observing_base import AttentionFacts
from gradguard.rules.attention_collapse import AttentionCollapse
from tests.rules.health_evidence import FAILS, WORKS, evidence, passes, run, severities


def attention(*entropy: float) -> dict[str, object]:
    return {"attention": (AttentionFacts(layer="attn", entropy=np.array(entropy), rows=100, keys=8),)}


@pytest.mark.parametrize(
    ("start", "end", "losses", "loss", "expected"),
    [
        ((0.01, 0.02), (0.01, 0.02), WORKS, 0.2, ["error"]),  # born with scores of a wrong scale
        ((0.99, 0.98), (0.01, 0.02), FAILS, 2.3, ["error"]),
        ((0.99, 0.98), (0.01, 0.02), WORKS, 0.2, ["warning"]),
        ((0.99, 0.98), (0.01, 0.60), FAILS, 2.3, []),  # one sharp head is not a collapse
    ],
)
def test_rows(
    start: tuple[float, ...], end: tuple[float, ...], losses: tuple[float, float], loss: float, expected: list[str]
) -> None:
    looks = passes(attention(*start), attention(*end), loss)
    assert severities(AttentionCollapse().check(evidence(looks, run(losses)))) == expected
