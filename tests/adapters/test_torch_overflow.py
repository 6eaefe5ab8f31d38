"""A rate that the parameters' type cannot hold ends a run; it is no error of the user's."""

from __future__ import annotations

import torch

from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import adapt_training
from gradguard.scenarios import Scenario


def test_a_rate_beyond_float16_ends_the_run() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2).half()
    scenario = Scenario(
        model,
        [(torch.randn(8, 4).half(), torch.arange(8) % 2)],
        lambda m, b: torch.nn.functional.cross_entropy(m(b[0]).float(), b[1]),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
    )
    problem = adapt_training(scenario, Settings(steps=3))
    assert problem.run(3).stopped == ""
    trace = problem.run(3, rate_scale=1e6)
    assert trace.stopped == "the rate is more than the parameters' type can hold at step 0"
    assert len(trace.steps) == 1
