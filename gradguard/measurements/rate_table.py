"""The table ``learning_rate``: what curvature predicts beside what short runs showed, one row per parameter group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, the
from gradguard.measurements.curvature import Curvature, GroupCurvature
from gradguard.measurements.overshoot import Overshoot
from gradguard.measurements.rate_observation import RateObservation

__all__ = ["RateTable", "measure"]


@dataclass(frozen=True, kw_only=True)
class RateTable(Measurement):
    """Rows of the table; no cost of its own."""

    name: ClassVar[str] = "rate_table"
    rows: tuple[dict[str, object], ...]

    def tables(self) -> dict[str, Table]:
        """One row per parameter group."""
        return {"learning_rate": [dict(row) for row in self.rows]}


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """Put both limits side by side."""
    observed: RateObservation | None = the(evidence, RateObservation)
    curvature: Curvature | None = the(evidence, Curvature)
    overshoot: Overshoot | None = the(evidence, Overshoot)
    rates = observed.rates if observed else tuple(g.lr for g in curvature.groups) if curvature else ()
    rows = []
    for index, lr in enumerate(rates):
        row: dict[str, object] = {"group": index, "lr": lr, "optimizer": observed.optimizer if observed else ""}
        if curvature is not None and index < len(curvature.groups):
            row.update(_predicted(curvature.groups[index], overshoot))
            row.update(evaluations=curvature.evaluations + (overshoot.gradients if overshoot is not None else 0))
        if observed is not None and observed.runs and not observed.broken and lr > 0:
            row.update(
                training_limit=observed.limit * lr, training_low=observed.low * lr, training_high=observed.high * lr
            )
        rows.append(row)
    return RateTable(rows=tuple(rows))


def _predicted(group: GroupCurvature, overshoot: Overshoot | None) -> dict[str, object]:
    limit = group.limit
    if overshoot is not None and overshoot.corrected:
        limit = overshoot.limit * group.lr if group.lr > 0 else limit * overshoot.limit / overshoot.predicted
    return {
        "optimizer": group.optimizer, "lambda_max": group.lambda_max, "lambda_min": group.lambda_min,
        "error_bar": group.error_bar, "curvature_limit": group.limit, "first_step_limit": limit,
    }
