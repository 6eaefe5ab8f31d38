"""GG405 on runs typed by hand, and on nets that a plateau or their depth holds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name that every torch program gives it)
from sklearn.datasets import load_digits
from torch import nn

import gradguard as gg
from gradguard.measurements.overfit import OneBatch, Overfit
from gradguard.rules.cannot_overfit import CannotOverfit


def one(before: float, after: float, midway: float | None = None, **columns: Any) -> OneBatch:
    values = {"factor": 1.0, "lr": 0.1, "steps": 200, **columns}
    return OneBatch(before=before, midway=after if midway is None else midway, after=after, **values)


def judge(*runs: OneBatch, **columns: Any) -> Any:
    values = {"trainable": 5000, "samples": 32, "before": 2.3, "null": 2.3, "start": 2.3, "prior": 2.19, **columns}
    return CannotOverfit().check({"overfit": Overfit(runs=runs, **values)})


def test_no_better_than_the_best_constant_guess_fails() -> None:
    outcome = judge(one(2.3, 2.19, data_loss=2.19, prior=2.19))
    assert outcome.status == "failed"
    assert outcome.findings[0].message == (
        "one batch cannot be learnt: after 200 steps on it the loss is 2.19; the best constant guess has 2.19"
    )


def test_no_progress_fails_where_the_guess_is_not_known() -> None:
    outcome = judge(one(5.0, 4.99), one(5.0, 5.0, factor=0.1, lr=0.01), start=float("nan"), prior=float("nan"), before=5.0, null=5.0)
    assert outcome.status == "failed"
    assert outcome.findings[0].message.endswith("the loss is 4.99; it began at 5")


def test_one_output_for_every_sample_fails_where_the_guess_is_not_known() -> None:
    outcome = judge(one(2.36, 2.08, spread=1e-6), start=float("nan"), prior=float("nan"), before=2.36, null=2.3)
    assert outcome.status == "failed"
    assert outcome.findings[0].message.endswith("it began at 2.36, and the output is the same for every sample")
    assert judge(one(2.36, 0.01, spread=1e-6), start=float("nan"), prior=float("nan"), before=2.36, null=2.3).status == "passed"
    assert judge(one(2.36, 2.08, spread=0.1), start=float("nan"), prior=float("nan"), before=2.36, null=2.3).status == "passed"


@pytest.mark.parametrize(
    ("runs", "columns"),
    [
        ((one(2.3, 0.1, data_loss=0.1, prior=2.19),), {}),
        ((one(2.3, 1.2, data_loss=1.2, prior=2.19),), {}),
        ((one(2.3, 2.19, data_loss=2.19, prior=2.19), one(2.3, 0.2, data_loss=0.2, prior=2.19)), {}),
        ((one(270.0, 1.2, midway=5.0, data_loss=1.2, prior=0.09),), {}),
        ((), {"learnt": "lr 0.1 gains 2 of 2.3 on all batches"}),
        ((one(0.01, 0.009, data_loss=0.009, prior=2.19),), {"start": 0.01}),
        ((one(1e-3, 1e-3),), {"start": float("nan"), "prior": float("nan"), "before": 1e-3, "null": 4.0}),
        ((one(-3.0, -5.0),), {"start": float("nan"), "prior": float("nan"), "before": -3.0, "null": -2.9}),
    ],
    ids=["learnt", "label smoothing", "at another rate", "still falling", "short runs", "fitted", "fitted regression", "negative"],
)
def test_silent(runs: tuple[OneBatch, ...], columns: dict[str, Any]) -> None:
    outcome = judge(*runs, **columns)
    assert outcome.status == "passed"
    assert not outcome.findings


def test_small_model_is_a_warning() -> None:
    outcome = judge(one(2.3, 2.19, data_loss=2.19, prior=2.19), trainable=20)
    assert [f.severity for f in outcome.findings] == ["warning"]


def test_a_model_that_is_frozen_whole_is_told_so() -> None:
    (finding,) = judge(one(2.3, 2.3), trainable=0).findings
    assert finding.severity == "error"
    assert finding.message == "nothing can be learnt: no parameter requires a gradient"


def test_skipped() -> None:
    assert judge(one(2.3, 9.0, stopped="the loss is not finite at step 3")).status == "skipped"
    assert judge(one(2.3, 2.3), objective="adversarial").status == "skipped"
    with pytest.raises(gg.UsageError, match="GG405 takes prior between 0 and 1"):
        CannotOverfit(prior=2)


@pytest.mark.parametrize(("depth", "act", "status"), [(5, nn.LeakyReLU, "passed"), (10, nn.Sigmoid, "failed")])
def test_rates_that_hold_are_tried_before_it_is_said_that_nothing_learns(depth: int, act: type[nn.Module], status: str) -> None:
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 1024, 16)]
    torch.manual_seed(0)
    widths = [64, *[24] * depth]
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), act())]
    model = nn.Sequential(*layers, nn.Linear(24, 10))
    report = gg.check_learning_rate(
        model, batches, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), select="GG405",
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),  # a plateau: 0.12 leaves it, and holds
    )
    assert [check.status for check in report.checks] == [status], str(report)


UNKNOWN = {"start": float("nan"), "prior": float("nan")}


@pytest.mark.parametrize(
    ("moved", "reach", "null", "status"),
    [
        (3e-8, 0.01, 1.0, "skipped"),
        (3e-8, 0.01, 1.0 + 1e-7, "skipped"),
        (3e-8, 0.0, 1.0, "failed"),  # no gradient: a cut graph, dead units
        (0.005, 0.01, 1.0, "failed"),  # it moves, and gets nowhere
        (3e-8, 0.01, 0.9, "failed"),  # rounded weights that do not get past an edge: other weights have another loss
    ],
)
def test_a_loss_that_is_the_same_whatever_the_weights_are(moved: float, reach: float, null: float, status: str) -> None:
    runs = [one(1.0, 1.0, moved=moved, reach=reach), one(1.0, 1.0, factor=0.1, lr=0.01, moved=0.1 * moved, reach=0.1 * reach)]
    assert judge(*runs, before=1.0, null=null, **UNKNOWN).status == status


def policy(advantage: Any, *, ratio: bool = True, cut: bool = False) -> str:
    """GG405 of a policy whose ratios are to itself, or of its likelihood alone; ``cut`` is a fault."""
    generator = torch.Generator().manual_seed(0)
    x, actions = torch.randn(64, 6, generator=generator), torch.randint(0, 4, (64,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))

    def loss(m: Any, b: Any) -> torch.Tensor:
        logits = m(b[0])
        logits = logits.detach() + 0 * logits if cut else logits
        chosen = logits.log_softmax(1).gather(1, b[1][:, None])[:, 0]
        made = (chosen - chosen.detach()).exp() if ratio else chosen
        return -(made * b[2]).mean()

    report = gg.check_learning_rate(
        model, [(x, actions, advantage(actions))], loss=loss, optimizer=torch.optim.SGD(model.parameters(), lr=1e-2), steps=10
    )
    (check,) = [check for check in report.checks if check.code == "GG405"]
    return check.status


def advantages(actions: torch.Tensor) -> torch.Tensor:
    made = (actions == 0).float()
    return (made - made.mean()) / made.std()


def test_ratios_of_a_policy_to_itself_are_not_judged() -> None:
    assert policy(advantages) == "skipped"


def test_a_policy_without_a_gradient_is_judged() -> None:
    assert policy(advantages, cut=True) == "failed"
    assert policy(lambda a: torch.zeros(len(a))) == "failed"
