"""The picture of a range test, as text: what each rate gains, and where it diverges."""

from __future__ import annotations

import math

from gradguard.measurements.range_test import RangeTest

__all__ = ["render_rates"]

WIDTH = 40


def render_rates(test: RangeTest) -> str:
    """One line per rate: a bar from 0 to the median gain, ``-`` to the lowest and highest of its runs, and a verdict."""
    points = test.points
    largest = max((p.high for p in points if math.isfinite(p.high)), default=0.0)
    suggestion = test.suggestion
    lines = [f"{'lr':>9}  {'gain':>9}  0{'':{WIDTH - 1}}{largest:.3g}"]
    for point in points:
        mark = "" if point.holds == point.runs else f"  diverges in {point.runs - point.holds} of {point.runs}"
        if suggestion is not None and point.lr == suggestion.lr:
            mark = "  <- suggested"
        shown = f"{point.gain:9.3g}" if point.holds else "        -"
        lines.append(f"{point.lr:9.3g}  {shown}  {_bar(point.gain, point.low, point.high, largest):{WIDTH}}{mark}")
    if suggestion is None:
        lines.append("no rate holds in every run and lowers the loss")
    return "\n".join(lines)


def _bar(gain: float, low: float, high: float, largest: float) -> str:
    if not (largest > 0 and math.isfinite(gain)):
        return ""
    cells = [" "] * WIDTH
    place = [min(WIDTH - 1, max(0, round(value / largest * (WIDTH - 1)))) for value in (low, gain, high)]
    for cell in range(place[0], place[2] + 1):
        cells[cell] = "-"
    for cell in range(place[1] + 1):
        cells[cell] = "#"
    return "".join(cells).rstrip()
