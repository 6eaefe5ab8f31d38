"""What stands between a loss and the last weights: losses of torch and losses written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gradguard.adapters.torch_graph import losses_of, predictions_of

Y = torch.tensor([0, 1, 2, 0, 1, 2])
SIGNS = torch.tensor([1.0, -1, 1, 1, -1, -1])
ZEROS = torch.tensor([1.0, 0, 1, 1, 0, 0])
SOFT = torch.full((6, 3), 0.1).scatter(1, Y[:, None], 0.8)


def three() -> Tensor:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)(torch.randn(6, 4))


def one() -> Tensor:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)(torch.randn(6, 4)).squeeze(1)


def facts(loss: Tensor) -> set[tuple[str, tuple[str, ...]]]:
    return {(f.kind, f.chain) for f in losses_of(loss) if f.kind != "difference"}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda: functional.kl_div(three().softmax(1), SOFT, reduction="batchmean"), {("kl", ("softmax",))}),
        (lambda: functional.kl_div(three().log_softmax(1), SOFT, reduction="batchmean"), {("kl", ("log_softmax",))}),
        (lambda: -(ZEROS * one().clamp(1e-6, 1 - 1e-6).log()).mean(), {("log", ("raw_clamp",))}),
        (lambda: -(ZEROS * one().sigmoid().clamp(1e-6, 1 - 1e-6).log()).mean(), {("log", ("sigmoid",))}),
        (lambda: one().clamp(min=1e-6).log().mean(), {("log", ())}),  # a rate or variance, bounded from below
        (lambda: functional.cross_entropy(three().clamp(min=0), Y), {("cross_entropy", ("clamp_min",))}),
        (lambda: functional.cross_entropy(three().clamp(min=-10), Y), {("cross_entropy", ("clamp",))}),  # for stability
        (lambda: functional.cross_entropy(three().clamp(-50, 50), Y), {("cross_entropy", ("clamp",))}),
        (lambda: one().tanh().log().mean(), {("log", ("tanh",))}),
        (lambda: (one().tanh() + 1.001).log().mean(), set()),
        (lambda: (1 - one().tanh() ** 2 + 1e-6).log().mean(), set()),  # a squashed Gaussian policy
    ],
)
def test_losses(loss: Callable[[], Tensor], expected: set[Any]) -> None:
    assert facts(loss()) == expected


@pytest.mark.parametrize(
    ("loss", "zeros"),
    [
        (lambda y: functional.relu(1 - y * one()).mean(), 0.5),
        (lambda y: torch.clamp(1 - one() * y, min=0).mean(), 0.5),
        (lambda y: functional.softplus(-y * one()).mean(), 0.5),
        (lambda y: functional.soft_margin_loss(one(), y), 0.5),
        (lambda y: (functional.relu(1 - one()) * y).mean(), 0.0),  # a mask on the loss
        (lambda y: functional.relu(y * one()).mean(), 0.0),  # a mask on the output
    ],
)
def test_margin_losses_want_signs(loss: Callable[[Tensor], Tensor], zeros: float) -> None:
    assert max((f.zeros for f in losses_of(loss(ZEROS))), default=0.0) == zeros
    assert all(f.zeros == 0 for f in losses_of(loss(SIGNS)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: -z.log_softmax(1).gather(1, Y[:, None]).mean(),
        lambda z: z.log_softmax(1).gather(1, Y[:, None]).mean(),  # the wrong sign shows the same labels
        lambda z: -z.log_softmax(1)[torch.arange(6), Y].sum() / 6,
        lambda z: -(functional.one_hot(Y, 3) * z.log_softmax(1)).sum(1).mean(),
        lambda z: -(z.softmax(1).gather(1, Y[:, None]) + 1e-9).log().mean(),
        lambda z: -(ZEROS * z.log_softmax(1).gather(1, Y[:, None])[:, 0]).mean() + z.square().mean(),  # weights of samples
    ],
)
def test_labels_of_a_likelihood_written_by_hand(loss: Callable[[Tensor], Tensor]) -> None:
    made = predictions_of(loss(three()))
    assert made is not None
    assert made.kind == "nll"
    assert made.labels.tolist() == Y.tolist()
    assert torch.allclose(made.predicted, three().log_softmax(1))


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: -(SIGNS * z.log_softmax(1).gather(1, Y[:, None])[:, 0]).mean(),  # advantages: no likelihood of labels
        lambda z: -(SOFT * z.log_softmax(1)).sum(1).mean(),
        lambda z: z.log_softmax(0).gather(1, Y[:, None]).mean(),
        lambda z: z.gather(1, Y[:, None]).mean(),
    ],
)
def test_what_is_no_likelihood_of_labels(loss: Callable[[Tensor], Tensor]) -> None:
    assert predictions_of(loss(three())) is None


COLUMN, ROW = torch.linspace(0, 1, 6)[:, None], torch.linspace(0, 1, 6)


@pytest.mark.parametrize(
    ("labels", "stretched"),
    [(ROW, True), (COLUMN, False), (ROW[None, :], False), (torch.ones(6, 6), False)],
)
def test_a_product_of_column_and_row_is_a_mistake_and_one_with_a_matrix_is_not(labels: Tensor, stretched: bool) -> None:
    z = one()[:, None]
    found = losses_of((functional.softplus(z) - labels * z).mean())
    assert any(f.broadcast == ((6, 1), (6, 6)) for f in found) is stretched


@pytest.mark.parametrize(("weights", "stretched"), [(torch.rand(6), True), (torch.rand(6, 6), False)])
def test_differences_that_a_number_for_each_pair_weighs_are_meant(weights: Tensor, stretched: bool) -> None:
    found = losses_of(((one()[:, None] - ROW).square() * weights).sum())
    assert any(f.broadcast for f in found) is stretched


def test_the_logarithm_of_a_softmax_is_a_log_softmax() -> None:
    assert facts(functional.nll_loss(three().softmax(1).log(), Y)) == {("cross_entropy", ())}
    assert facts(functional.nll_loss(three().softmax(1).softmax(1).log(), Y)) == {("cross_entropy", ("softmax",))}


def test_log_softmax_of_a_softmax_is_judged_as_before_cross_entropy() -> None:
    loss = functional.kl_div(three().softmax(1).log_softmax(1), SOFT, reduction="batchmean")
    assert facts(loss) == {("cross_entropy", ("softmax",))}


def test_labels_are_read_only_from_a_difference_of_the_output() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 1, requires_grad=True)
    made = torch.nn.Linear(1, 1)(x)
    assert predictions_of((x * (1 - x) * made).square().mean(), made) is None
    assert predictions_of(((made - 0.5) * (made - 0.3)).mean(), made) is None
    difference = made - COLUMN
    for loss in ((made - COLUMN) ** 2, difference * difference):
        found = predictions_of(loss.mean(), made)
        assert found is not None
        assert torch.allclose(found.labels, COLUMN)


@pytest.mark.parametrize(
    ("scores", "own"),
    [
        (lambda h, other: torch.nn.Linear(6, 5)(h), True),
        (lambda h, other: torch.nn.Linear(6, 5, bias=False)(h.relu()) / 0.1, True),
        (lambda h, other: h @ torch.nn.Parameter(torch.randn(5, 6)).T, True),
        (lambda h, other: h @ other.T, False),  # against what was seen before
        (lambda h, other: functional.normalize(h, dim=1) @ torch.nn.Linear(6, 6)(other).T, False),
        (lambda h, other: torch.cat([(h * h).sum(1, keepdim=True), h @ other[1:].T], 1), False),
    ],
)
def test_classes_have_weights_of_their_own_and_pairs_have_none(scores: Any, own: bool) -> None:
    torch.manual_seed(0)
    h = torch.nn.Linear(4, 6)(torch.randn(8, 4))
    made = predictions_of(functional.cross_entropy(scores(h, torch.randn(5, 6)), torch.zeros(8, dtype=torch.long)))
    assert made is not None
    assert made.own_weights is own
