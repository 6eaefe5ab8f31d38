"""Choices of codes and experts that a look sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradguard.adapters.torch_spy import Spy


class Routed(nn.Module):
    def __init__(self, use: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.router, self.use = nn.Linear(2, 4, bias=False), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.router(x))


def loop(index: Tensor) -> Tensor:
    return torch.stack([(index == i).float() for i in range(4)]).sum()


@pytest.mark.parametrize(
    "use",
    [
        lambda z: loop(z.argmax(1)),
        lambda z: loop(z.max(1).indices),
        lambda z: loop((-z).min(dim=1)[1]),
        lambda z: nn.functional.one_hot(z.argmax(1), 4).float(),
    ],
)
def test_experts_are_counted_once(use: Callable[[Tensor], Tensor]) -> None:
    model = Routed(use)
    with torch.no_grad():
        model.router.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model(torch.tensor([[2.0, 0.1], [3, 0], [0, 5.0]], requires_grad=True))
    (facts,) = spy.code_facts()
    assert facts.kind == "experts"
    assert facts.counts.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize(
    "use",
    [
        lambda z: (z.argmax(1) == 0).float(),  # one comparison is no routing
        lambda z: (z.argmax(1) == torch.zeros(3, dtype=torch.int64)).float(),  # accuracy
        lambda z: z.max(1).values,
    ],
)
def test_what_is_no_choice_of_experts(use: Callable[[Tensor], Tensor]) -> None:
    spy = Spy(model := Routed(use), lambda name: name)
    with spy.installed():
        model(torch.ones(3, 2, requires_grad=True))
    assert spy.code_facts() == ()


@pytest.mark.parametrize(("bias", "far"), [(0.0, False), (50.0, True)])
def test_how_far_the_best_is_ahead(bias: float, far: bool) -> None:
    model = Routed(lambda z: loop((z + torch.tensor([0, bias, 0, 0])).softmax(1).topk(1, dim=1).indices[:, 0]))
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).requires_grad_())
    (facts,) = spy.code_facts()
    assert (facts.lead > 10) is far


class Coder(nn.Module):
    """A codebook that is looked up in a method that is not ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codes = nn.Linear(2, 2), nn.Embedding(4, 2)

    def loss(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        return (self.codes(torch.cdist(z, self.codes.weight).argmin(1)) - z).square().mean()


def test_codes_are_seen_where_a_method_calls_the_model_s_parts() -> None:
    model = Coder()
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model.loss(torch.randn(8, 2))
    (facts,) = spy.code_facts()
    assert (facts.kind, facts.layer, int(facts.counts.sum())) == ("codes", "codes", 8)


@pytest.mark.parametrize(("learnt", "same"), [(True, True), (False, True), (False, False)])
def test_a_table_that_has_not_been_set_yet(learnt: bool, same: bool) -> None:
    class Stored(Coder):
        def __init__(self) -> None:
            super().__init__()
            table = torch.zeros(4, 2) if same else torch.randn(4, 2)
            del self.codes
            if learnt:
                self.table = nn.Parameter(table)
            else:
                self.register_buffer("table", table)

        def forward(self, x: Tensor) -> Tensor:
            z = self.encoder(x)
            return nn.functional.embedding(torch.cdist(z, self.table).argmin(1), self.table)

    model = Stored()
    spy = Spy(model, lambda name: name)
    with spy.installed():
        model(torch.randn(8, 2))
    (facts,) = spy.code_facts()
    assert facts.alike is (same and not learnt)
