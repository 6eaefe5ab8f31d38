"""Observations of learning rates typed by hand."""

from __future__ import annotations

import math
from typing import Any

from gradguard.measurements.rate_observation import RateObservation
from gradguard.measurements.rate_verdict import RateRun

STEPS = 40


def run(factor: float, *losses: float, start: float = 2.3, lr: float = 0.1, **columns: Any) -> RateRun:
    """A run whose loss goes along straight lines through ``losses``; every batch had ``start`` before training."""
    points = (start, *losses)
    path = []
    for step in range(STEPS):
        place = step / (STEPS - 1) * (len(points) - 1)
        left = min(int(place), len(points) - 2)
        path.append(points[left] + (place - left) * (points[left + 1] - points[left]))
    values = {"update_ratio": 1e-2, "movement": 0.3, **columns}
    return RateRun(factor=factor, lr=lr * factor, seed=0, losses=tuple(path), before=(start,) * STEPS, **values)


def observed(*runs: RateRun, low: float = 1.0, high: float = math.inf, worth: float = 0.0, **columns: Any) -> RateObservation:
    """Runs as one observation, at lr 0.1."""
    middle = math.inf if high == math.inf else math.sqrt(low * high)
    values = {"limit": middle, "unit": 0.1, "rates": (0.1,), "optimizer": "SGD", "steps": STEPS, **columns}
    return RateObservation(runs=runs, low=low, high=high, worth=worth, **values)
