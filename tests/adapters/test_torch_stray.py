"""Tensors that a model holds beside its parameters."""

from __future__ import annotations

import torch

import gradguard as gg
from gradguard.adapters.torch_stray import stray_tensors


class Listed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [torch.nn.Linear(4, 4)]
        self.by_name = {"scale": torch.ones(4, requires_grad=True)}
        self.head = torch.nn.Linear(4, 2)
        self.same = [self.head]  # a parameter all the same
        self.constant = torch.ones(4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers[0](x) * self.by_name["scale"])


def test_what_is_held_beside_the_parameters() -> None:
    names = {name for name, _ in stray_tensors(Listed()).values()}
    assert names == {"layers[0].weight", "layers[0].bias", "by_name['scale']"}


def report(optimizer: object, model: torch.nn.Module) -> gg.Report:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 4, generator=generator), torch.arange(8) % 2) for _ in range(3)]
    return gg.check_training(
        model, batches, loss=lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), optimizer=optimizer, select="GG303", steps=20
    )


def test_a_plain_list_of_layers_is_an_error_unless_the_optimizer_holds_them() -> None:
    torch.manual_seed(0)
    model = Listed()
    found = report(torch.optim.SGD(model.parameters(), lr=0.1), model).errors
    assert [f.pattern for f in found] == ["not registered"]
    everything = [*model.parameters(), *model.layers[0].parameters(), model.by_name["scale"]]
    assert report(torch.optim.SGD(everything, lr=0.1), model).ok
    model.layers[0].requires_grad_(False)
    model.by_name["scale"].requires_grad_(False)
    assert report(torch.optim.SGD(model.parameters(), lr=0.1), model).ok
