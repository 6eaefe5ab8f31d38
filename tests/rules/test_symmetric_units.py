"""GG206 on matrices typed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradguard.rules.symmetric_units import SymmetricUnits
from tests.rules.health_evidence import BLOCKS, evidence, passes, run, severities

FIRST, LAST = BLOCKS[:1], BLOCKS[2:]
ZERO = np.zeros((300, 3))


@pytest.mark.parametrize(
    ("start", "end", "columns", "expected"),
    [
        ({"identical_rows": FIRST}, {"identical_rows": FIRST}, {}, ["error"]),
        (
            {"identical_rows": FIRST},
            {},
            {},
            ["error"],
        ),  # a constant hidden layer, which other biases tell apart a little
        ({"identical_rows": LAST}, {}, {}, []),  # the labels tell a head's units apart
        ({"identical_rows": LAST, "zero_blocks": LAST}, {}, {}, []),  # a head that starts at zero
        (
            {"identical_rows": FIRST, "zero_blocks": FIRST},
            {"identical_rows": FIRST, "zero_blocks": FIRST},
            {},
            [],
        ),  # a gradient reaches it
        (
            {"identical_rows": FIRST, "zero_blocks": FIRST},
            {"identical_rows": FIRST, "zero_blocks": FIRST},
            {"gradient": ZERO},
            ["error"],
        ),
        ({"identical_rows": ("pos",)}, {"identical_rows": ("pos",)}, {}, []),  # no product uses it
        ({}, {}, {}, []),
    ],
)
def test_rows(start: dict[str, Any], end: dict[str, Any], columns: dict[str, Any], expected: list[str]) -> None:
    assert severities(SymmetricUnits().check(evidence(passes(start, end), run(**columns)))) == expected
