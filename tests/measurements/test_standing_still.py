"""Whether recorded losses fall or stand still in the second half of a run, on curves typed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gradguard.measurements.progress import second_half

NOISE = np.tile([1.0, -1.0, 0.5, -0.5], 100)
"""Standard deviation 0.79; a window of 80 has a mean of 0 and an error of 0.09."""


@pytest.mark.parametrize(
    ("losses", "visible", "still"),
    [
        ([2.3] * 400, False, True),
        (2.3 + 0.1 * NOISE, False, True),
        (2.3 + 1.0 * NOISE, False, False),  # 2 * 0.125 could hide a fall by a tenth
        (np.linspace(2.4, 2.2, 400), True, False),  # 0.08 from window to window
        (np.linspace(2.301, 2.3, 400), False, True),
        (np.linspace(2.3, 3.0, 400), False, True),  # what rises makes no progress
        (np.linspace(2.33, 2.3, 400) + 0.001 * NOISE, True, False),  # 0.012, half a per cent: sure, though little
        (np.concatenate([np.linspace(2.6, 2.3, 150), np.full(250, 2.3)]), False, True),
        ([2.3] * 24, False, False),  # too few for a mean
        (np.repeat([2.3, 2.4, 2.2, 2.35, 2.25, 2.3, 2.4, 2.2], 50), False, False),  # one record in fifty
        ([float("nan")] * 400, False, False),
    ],
)
def test_curves(losses: Sequence[float], visible: bool, still: bool) -> None:
    assert second_half(tuple(map(float, losses))) == (visible, still)
