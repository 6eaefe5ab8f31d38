"""A head of cosines in the autograd graph, and what looks like one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gradguard.adapters.torch_graph import losses_of

LABELS = torch.tensor([0, 1, 2, 0])


def parts() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    features = torch.randn(4, 5, generator=made).requires_grad_().tanh()
    return features, torch.randn(3, 5, generator=made).requires_grad_()


@pytest.mark.parametrize(
    ("logits", "found"),
    [
        (lambda h, w: functional.linear(functional.normalize(h), functional.normalize(w)), True),
        (lambda h, w: (h / h.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T, True),
        (lambda h, w: 16 * functional.linear(functional.normalize(h), functional.normalize(w)), False),
        (lambda h, w: functional.linear(functional.normalize(h), w), False),  # the weights set the size
        (lambda h, w: functional.linear(h, functional.normalize(w)), False),
        (lambda h, w: functional.normalize(h) @ functional.normalize(2 * w.tanh()).T, False),  # two views: a contrastive loss
    ],
)
def test_cosines_of_features_and_class_weights(logits: Callable[[Tensor, Tensor], Tensor], found: bool) -> None:
    (facts,) = losses_of(functional.cross_entropy(logits(*parts()), LABELS))
    assert (facts.chain[:1] == ("cosine",)) is found
