"""The same training at a tenth of the rate: what it says of units that died at the rate as set."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import Trace, adapt_training
from gradguard.judging import gather
from gradguard.measurements.gentler_run import GENTLER, GentlerRun, _behind
from gradguard.measurements.long_run import LongRun


def ended(start: tuple[float, ...], end: tuple[float, ...], stopped: str = "") -> Trace:
    none = np.zeros((0, 0))
    return Trace(steps=(), blocks=(), gradient=none, weight=none, update=none, loss_start=start, loss_end=end, stopped=stopped)


def test_behind_is_the_excess_in_units_of_what_the_gentler_run_gained() -> None:
    assert math.isclose(_behind(ended((2.0, 2.0), (1.5, 1.6)), ended((2.0, 2.0), (1.0, 1.1))), 0.5 / 0.95)


def test_within_the_error_of_the_batches_nothing_is_behind() -> None:
    assert _behind(ended((2.0, 2.0, 2.0), (1.4, 0.7, 1.2)), ended((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))) == 0.0


def test_a_gentler_run_that_gains_nothing_says_nothing() -> None:
    assert math.isnan(_behind(ended((2.0,), (2.5,)), ended((2.0,), (1.95,))))
    assert math.isnan(_behind(ended((2.0,), (2.5,)), ended((2.0,), (1.0,), stopped="not finite")))


def test_the_run_is_as_long_as_the_longest_and_at_a_tenth_of_every_rate() -> None:
    torch.manual_seed(2)
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "lr": 0.4}, {"params": [model.bias], "lr": 0.1}]
    scenario = gg.Scenario(
        model, [torch.eye(3), 2 * torch.eye(3)], lambda m, x: m(x).square().sum(), optimizer=torch.optim.SGD(groups)
    )
    settings = Settings(steps=3)
    problem = adapt_training(scenario, settings)
    evidence = gather(problem, ["training_run", "passes", "long_run", "gentler_run"], settings, {})
    longer, gentler = evidence["long_run"], evidence["gentler_run"]
    assert isinstance(longer, LongRun)
    assert isinstance(gentler, GentlerRun)
    assert len(gentler.trace.steps) == len(longer.trace.steps) > 3
    assert gentler.trace.steps[0].lr == (0.4 * GENTLER, 0.1 * GENTLER)
    assert gentler.trace.loss_start == longer.trace.loss_start
