"""Which optimizers of a watched loop hold what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.adapters.torch_watch_optimizers import group_of_parameters, optimizer_facts


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


@pytest.mark.parametrize(("low", "high", "held"), [(torch.bfloat16, torch.float32, True), (torch.float32, torch.float32, False)])
def test_float32_copies_of_a_model_in_half_precision_are_its_own(low: torch.dtype, high: torch.dtype, held: bool) -> None:
    model = nn.Linear(3, 2).to(low)
    copies = [p.detach().clone().to(high).requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=0.1)
    facts = optimizer_facts([optimizer], model, list(model.named_parameters()))
    assert (facts.owned, facts.foreign) == ((2, 0) if held else (0, 2))
    groups = group_of_parameters([optimizer], list(model.named_parameters()))
    assert all((id(p) in groups) is held for p in model.parameters())
