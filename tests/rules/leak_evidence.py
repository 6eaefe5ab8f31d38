"""Changes that a leak rule judges, typed by hand: that of another place, that of an output's own, and the status."""

from __future__ import annotations

CHANGES: list[tuple[float | None, float, str]] = [
    (0.1, 1.0, "failed"),
    (0.0, 1.0, "passed"),
    (1e-7, 1.0, "passed"),
    (0.0, 0.0, "inconclusive"),
    (None, 0.0, "skipped"),
]
