"""The table of measurements: name -> the function that makes it. Measured once, in this order, whichever rules ask."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from gradguard.measurements.base import Measure

__all__ = ["MEASUREMENTS", "measure_function"]

MEASUREMENTS: dict[str, str] = {
    # name: module under gradguard.measurements and function
    "determinism": "determinism:measure",
    "gradients": "gradients:measure",
    "kinks": "kinks:measure",
    "detached": "detached:measure",
    "localisation": "localisation:measure",
    "backwards": "backwards:measure",
    "layouts": "layouts:measure",
    "forward_mode": "forward_mode:measure",
    "second_order": "second_order:measure",
    "precision": "precision:measure",
    "training_run": "training_run:measure",
    "passes": "passes:measure",
    "weight_gains": "weight_gains:measure",
    "units": "units:measure",
    "flow": "flow:measure",
    "leaks": "leaks:measure",
    "padding": "padding:measure",
    "modes": "modes:measure",
    "underflow": "underflow:measure",
    "dependence": "dependence:measure",
    "long_run": "long_run:measure",
    "rescaled_run": "weight_gains:measure_rescaled",
    "gentler_run": "gentler_run:measure",
    "rate_observation": "rate_observation:measure",
    "rate_longer": "rate_longer:measure",
    "loop_plan": "loop_plan:measure",
    "curvature": "curvature:measure",
    "overshoot": "overshoot:measure",
    "rate_table": "rate_table:measure",
    "initial_loss": "initial_loss:measure",
    "range_test": "range_test:measure",
    "overfit": "overfit:measure",
    "width_scale": "width_scale:measure",
}


def measure_function(name: str) -> Measure:
    """The function that makes a measurement."""
    module, _, function = MEASUREMENTS[name].partition(":")
    return cast(Measure, getattr(import_module(f"gradguard.measurements.{module}"), function))
