"""Which optimizers of a watched loop hold what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradguard as gg


def critic() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("holds", "text"),
    [("its own", ""), ("another", "of the same shapes as critic.0.weight"), ("the generator's", "two optimizers hold the same")],
)
def test_the_optimizer_of_a_critic(holds: str, text: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"generator": nn.Linear(3, 2), "critic": critic()})
    held = {"its own": model["critic"], "another": critic(), "the generator's": model["generator"]}[holds]
    first, second = torch.optim.SGD(model["generator"].parameters(), lr=0.01), torch.optim.SGD(held.parameters(), lr=0.01)
    with gg.watch(model, optimizer=(first, second), objective="adversarial", select="GG303") as watch:
        for _ in range(25):
            fake = model["generator"](torch.randn(8, 3))
            second.zero_grad()
            (model["critic"](fake.detach()).mean() - model["critic"](torch.randn(8, 2)).mean()).backward()
            second.step()
            first.zero_grad()
            (-model["critic"](fake).mean()).backward()
            first.step()
    errors = [f.message for f in watch.report().errors]
    assert len(errors) == bool(text)
    assert all(text in message for message in errors)
