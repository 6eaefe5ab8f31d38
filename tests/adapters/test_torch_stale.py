"""Gradients that nothing clears, of one optimizer among several."""

from __future__ import annotations

import pytest
import torch

import gradguard as gg


@pytest.mark.parametrize(("cleared", "ok"), [((0, 1), True), ((0, 0), False), ((1, 1), False)])
def test_each_optimizer_is_judged_by_itself(cleared: tuple[int, int], ok: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.01), torch.optim.SGD(model[2].parameters(), lr=0.01)]
    with gg.watch(model, optimizer=optimizers, select="GG304") as watch:
        for _ in range(12):
            for i in cleared:
                optimizers[i].zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert watch.report().ok == ok
