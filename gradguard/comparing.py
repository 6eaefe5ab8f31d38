"""What changed between two reports: findings that are new or fixed, and numbers that moved beyond a factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradguard.errors import UsageError
from gradguard.finding import Finding
from gradguard.rendering.text import plural, render_finding
from gradguard.report import RANK, Report

__all__ = ["Comparison", "Moved", "compare", "render_comparison"]

Key = tuple[str, str]

SHOWN = 20
"""How many lines a list of places has before the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A number of one place that moved by ``factor`` (above 1: it grew). ``worse`` where that direction is the bad one."""

    scenario: str
    place: str
    quantity: str
    before: float
    after: float
    factor: float
    worse: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of two reports, A (before) and B (after)."""

    new: tuple[Finding, ...]
    fixed: tuple[Finding, ...]
    moved: tuple[Moved, ...]
    undecided: tuple[str, ...]
    """Rules that decided in A and no longer do in B."""
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    factor: float

    @property
    def ok(self) -> bool:
        """No new error, and nothing moved for the worse beyond the factor."""
        return not any(f.severity == "error" for f in self.new) and not any(m.worse for m in self.moved)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that is compared: which table and column, by which place, which direction is worse, the noise floor."""

    name: str
    table: str
    column: str
    place: str
    worse: Callable[[float], bool]
    floor: float = 0.0


QUANTITIES = (
    Quantity(name="gradient norm (rms)", table="flow", column="grad_rms", place="block", worse=lambda factor: True),
    # One dead unit of a hundred is not a multiple of none: fractions are compared above 1 %.
    Quantity(name="dead fraction", table="units", column="dead", place="layer", worse=lambda factor: factor > 1, floor=0.01),
    # Finer than a millionth is fine enough: below it a resolution moves with the noise.
    Quantity(
        name="resolution", table="gradients", column="resolution", place="block", worse=lambda factor: factor > 1, floor=1e-6
    ),
    Quantity(
        name="learning-rate limit",
        table="learning_rate",
        column="training_limit",
        place="group",
        worse=lambda factor: factor < 1,
    ),
)


def compare(before: Report, after: Report, *, factor: float = 10.0) -> Comparison:
    """What changed from ``before`` to ``after``; numbers count as moved beyond ``factor`` in either direction.

    Findings are the same where scenario, block (or module) and rule are. Numbers over several training steps are compared
    by their median.

    Raises:
        UsageError: the factor is not above 1.
    """
    if not factor > 1 or not math.isfinite(factor):
        raise UsageError(f"the factor must be a number above 1, got {factor!r}", todo="for example --factor 10")
    # A warning that became an error is new: it fails now, and did not.
    old = {f.fingerprint: RANK[f.severity] for f in before.findings}
    now = {f.fingerprint for f in after.findings}
    decided = {(c.scenario, c.code): c for c in before.checks if c.status in ("passed", "failed")}
    still = {(c.scenario, c.code): c for c in after.checks}
    undecided = [
        f"{scenario}: {check.code} {check.rule} was {check.status}, is {_state(still.get((scenario, code)))}"
        for (scenario, code), check in decided.items()
        if scenario in {c.scenario for c in after.checks}
        and ((scenario, code) not in still or still[scenario, code].status in ("inconclusive", "skipped"))
    ]
    # Fixed is only what was looked at again: a rule that was skipped has not fixed anything.
    looked = {key for key, check in still.items() if check.status in ("passed", "failed")}
    moved = [m for quantity in QUANTITIES for m in _moved(quantity, before, after, factor)]
    places_before, places_after = _places(before), _places(after)
    return Comparison(
        new=tuple(f for f in after.findings if RANK[f.severity] < old.get(f.fingerprint, len(RANK))),
        fixed=tuple(f for f in before.findings if f.fingerprint not in now and (f.scenario, f.code) in looked),
        moved=tuple(sorted(moved, key=lambda m: (not m.worse, -_distance(m.factor)))),
        undecided=tuple(undecided),
        only_before=tuple(sorted(places_before - places_after)),
        only_after=tuple(sorted(places_after - places_before)),
        factor=factor,
    )


def render_comparison(comparison: Comparison) -> str:
    """The comparison as text, what fails first."""
    parts: list[str] = []
    for title, findings in (("new", comparison.new), ("fixed", comparison.fixed)):
        if findings:
            texts = [render_finding(f, scenario=True) if title == "new" else f"{f.headline}  ({f.scenario})" for f in findings]
            parts.append("\n".join([f"{plural(len(findings), 'finding')} {title}", *texts]))
    if comparison.moved:
        rows = [
            f"  {m.place}: {m.quantity} {_change(m)}, from {m.before:.3g} to {m.after:.3g}  ({m.scenario})"
            + ("" if m.worse else "  (for the better)")
            for m in comparison.moved
        ]
        parts.append("\n".join([f"{plural(len(rows), 'number')} moved by more than {comparison.factor:g}x", *rows]))
    lists: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("no longer decided", comparison.undecided),
        ("only in the first report", comparison.only_before),
        ("only in the second report", comparison.only_after),
    )
    for title, names in lists:
        if names:
            more = [f"  ... {len(names) - SHOWN} more"] if len(names) > SHOWN else []
            parts.append("\n".join([title, *(f"  {name}" for name in names[:SHOWN]), *more]))
    verdict = "ok: nothing new, nothing moved for the worse" if comparison.ok else "FAILED: see above"
    return "\n\n".join([*parts, verdict])


def _state(check: Any) -> str:
    return f"{check.status}: {check.reason}" if check is not None else "missing"


def _change(moved: Moved) -> str:
    if moved.factor in (0.0, math.inf) or not math.isfinite(moved.factor):
        return "vanished" if moved.factor == 0.0 else "appeared" if moved.before == 0 else "is no longer finite"
    return f"rose {moved.factor:.3g}x" if moved.factor > 1 else f"fell {1 / moved.factor:.3g}x"


def _moved(quantity: Quantity, before: Report, after: Report, factor: float) -> Iterable[Moved]:
    old, new = _by_place(before, quantity), _by_place(after, quantity)
    for key in old.keys() & new.keys():
        a, b = old[key], new[key]
        ratio = _ratio(a + quantity.floor, b + quantity.floor)
        if ratio > factor or ratio < 1 / factor:
            worse = quantity.worse(ratio)
            yield Moved(scenario=key[0], place=key[1], quantity=quantity.name, before=a, after=b, factor=ratio, worse=worse)


def _distance(factor: float) -> float:
    """How far from 1, in either direction."""
    return abs(math.log(factor)) if 0 < factor < math.inf else math.inf


def _ratio(a: float, b: float) -> float:
    if not math.isfinite(a) or not math.isfinite(b):
        return 1.0 if not math.isfinite(a) else math.inf
    if a == b:
        return 1.0
    return b / a if a else math.inf


def _by_place(report: Report, quantity: Quantity) -> dict[Key, float]:
    values: dict[Key, list[float]] = {}
    for row in report.table_rows(quantity.table):
        value = row.get(quantity.column)
        if value is None:
            continue
        values.setdefault((str(row.get("scenario", "")), _name(row, quantity.place)), []).append(float(value))
    # A median over steps with a NaN among them is not a number at all: say so rather than sort it somewhere.
    return {key: math.nan if any(v != v for v in numbers) else median(numbers) for key, numbers in values.items()}


def _name(row: Mapping[str, Any], place: str) -> str:
    value = row.get(place)
    return f"parameter group {value}" if place == "group" else str(value)


def _places(report: Report) -> set[str]:
    places = {str(c.scenario) for c in report.checks}
    for table, column in (("gradients", "block"), ("units", "layer")):
        places |= {f"{row.get('scenario', '')}: {column} {row.get(column)}" for row in report.table_rows(table)}
    return places
