"""Learning rates as text: the picture of a range test (what each rate gains, and where it diverges), and the two limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradguard.measurements.range_test import RangeTest

__all__ = ["render_limits", "render_rates"]

WIDTH = 40


def render_rates(test: RangeTest) -> str:
    """One line per rate: a bar from 0 to the median gain, ``-`` to the lowest and highest of its runs, and a verdict."""
    points = test.points
    largest = max((p.high for p in points if math.isfinite(p.high)), default=0.0)
    suggestion = test.suggestion
    lines = [f"{'lr':>9}  {'gain':>9}  0{'':{WIDTH - 1}}{largest:.3g}"]
    for point in points:
        mark = "" if point.holds == point.runs else f"  diverges in {point.runs - point.holds} of {point.runs}"
        if point.lost:
            mark = f"  {point.lost} of {point.runs} longer runs diverge"
        if suggestion is not None and point.lr == suggestion.lr:
            mark = "  <- suggested"
        shown = f"{point.gain:9.3g}" if point.holds else "        -"
        lines.append(f"{point.lr:9.3g}  {shown}  {_bar(point.gain, point.low, point.high, largest):{WIDTH}}{mark}")
    if suggestion is None:
        lower = not any(p.lasts for p in points)
        lines.append("every rate diverges: test again from a lower one" if lower else "no rate holds and lowers the loss")
    elif suggestion.lr == points[-1].lr:
        lines.append(f"the highest rate gains the most: test again from lr {suggestion.lr:.2g}")
    moving = [(index, rate) for index, rate in enumerate(test.rates) if rate > 0]
    if len({rate for _, rate in moving}) > 1:
        lines.append(f"lr is that of group {moving[0][0]}, set to {moving[0][1]:.3g}; the other groups' are scaled with it")
    return "\n".join(lines)


def render_limits(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table ``learning_rate``, a line for each parameter group; empty without rows."""
    if not rows:
        return ""
    heads = ("group", "lr", "optimizer", "lambda_max", "first-step limit", "training limit")
    table = [heads, *(_limits(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def _limits(row: Mapping[str, Any]) -> tuple[str, ...]:
    error = f" +- {row['error_bar']:.1g}" if _known(row, "error_bar") else ""
    return (
        str(row["group"]), f"{row['lr']:.4g}", str(row.get("optimizer", "")),
        f"{row['lambda_max']:.4g}{error}" if _known(row, "lambda_max") else "-",
        _first_step_limit(row) if _known(row, "first_step_limit") else "-",
        _training_limit(row) if _known(row, "training_high") else "-",
    )


def _first_step_limit(row: Mapping[str, Any]) -> str:
    limit, predicted = float(row["first_step_limit"]), float(row.get("curvature_limit", row["first_step_limit"]))
    return f"{limit:.3g}" if limit == predicted else f"{limit:.3g} (curvature allows {predicted:.3g})"


def _training_limit(row: Mapping[str, Any]) -> str:
    low, high = float(row["training_low"]), float(row["training_high"])
    if high == math.inf:
        return f"above {low:.2g}" if low > 0 else "-"
    return f"{row['training_limit']:.2g} ({low:.2g} holds, {high:.2g} diverges)" if low > 0 else f"below {high:.2g}"


def _known(row: Mapping[str, Any], column: str) -> bool:
    value = row.get(column)
    return isinstance(value, float) and not math.isnan(value)


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
