"""GG404 on losses typed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

import gradguard as gg
from gradguard.adapters.rates_base import SplitLoss
from gradguard.measurements.initial_loss import InitialLoss
from gradguard.measurements.rate_longer import LongerRun
from gradguard.measurements.rate_predictions import Predictions
from gradguard.rules.unexpected_initial_loss import UnexpectedInitialLoss
from tests.rules.rates import observed, run


def first(loss: float, **columns: Any) -> InitialLoss:
    values = {"kind": "cross_entropy", "classes": 10, "data_loss": loss, "uniform": math.log(10), **columns}
    return InitialLoss(loss=loss, **values)


def judge(measured: InitialLoss, **evidence: Any) -> Any:
    return UnexpectedInitialLoss().check({"initial_loss": measured, **evidence})


@pytest.mark.parametrize(("loss", "severities"), [(2.3, []), (0.01, []), (4.5, []), (6.0, ["warning"]), (40.0, ["warning"])])
def test_against_a_uniform_guess(loss: float, severities: list[str]) -> None:
    outcome = judge(first(loss))
    assert [f.severity for f in outcome.findings] == severities
    assert outcome.margin == pytest.approx(loss / (4 * math.log(10) + 1))


def test_far_and_not_repaired_is_an_error() -> None:
    stays = observed(run(1.0, 39.0, start=40.0))
    outcome = judge(first(40.0), rate_observation=stays)
    assert outcome.status == "failed"
    assert "17.4 times that of a uniform guess, log(10) = 2.303" in outcome.findings[0].message
    repaired = observed(run(1.0, 1.0, 1.0, 1.0, start=40.0))
    assert judge(first(40.0), rate_observation=repaired).status == "passed"
    on_its_way = observed(run(1.0, 38.0, 36.0, 34.0, start=40.0))
    assert [f.severity for f in judge(first(40.0), rate_observation=on_its_way).findings] == ["warning"]


def test_not_finite_before_any_step_is_an_error() -> None:
    outcome = judge(first(math.nan))
    assert outcome.status == "failed"
    broken = observed(run(1.0), broken="the loss of batch 3 is not finite before training")
    (finding,) = judge(first(2.3), rate_observation=broken).findings
    assert finding.severity == "error"
    assert finding.message == "nothing can be trained: the loss of batch 3 is not finite before training"


MEAN = SplitLoss(whole=2.3, halves=(2.2, 2.4), samples=64)
SUM = SplitLoss(whole=147.0, halves=(73.0, 74.0), samples=64)
ODD = SplitLoss(whole=147.0, halves=(71.0, 72.6666), samples=65)
CONTRASTIVE = SplitLoss(whole=4.1, halves=(3.4, 3.5), samples=64)
ZERO = SplitLoss(whole=0.0, halves=(0.0, 0.0), samples=64)
NOISY_MEAN = SplitLoss(whole=1.0, halves=(0.1, 1.9), samples=64)
NEGATIVE_MEAN = SplitLoss(whole=-3.0, halves=(-3.1, -2.9), samples=64)


@pytest.mark.parametrize("split", [MEAN, CONTRASTIVE, ZERO, NOISY_MEAN, NEGATIVE_MEAN])
def test_means_are_silent(split: SplitLoss) -> None:
    assert not judge(first(2.3, split=split)).findings


@pytest.mark.parametrize("split", [SUM, ODD])
def test_sums_are_a_warning(split: SplitLoss) -> None:
    (finding,) = judge(first(2.3, split=split)).findings
    assert finding.severity == "warning"
    assert finding.message.startswith("the loss is a sum over the batch: 147 for 6")


def test_a_sum_that_blows_up_is_an_error() -> None:
    rises = observed(run(0.1, 1.0, start=147.0), run(1.0, 900.0, 100.0, 20.0, start=147.0))
    assert judge(first(2.3, split=SUM), rate_observation=rises).status == "failed"
    falls = observed(run(1.0, 5.0, start=147.0))
    assert judge(first(2.3, split=SUM), rate_observation=falls).status == "passed"


def test_skipped_where_nothing_is_known() -> None:
    unknown = InitialLoss(loss=5.0, reason="the loss is not one of cross-entropy or binary cross-entropy alone")
    outcome = judge(unknown)
    assert outcome.status == "skipped"
    assert outcome.reason.endswith("and the batch cannot be halved")


def test_options() -> None:
    with pytest.raises(gg.UsageError, match="GG404 takes 1 < warn <= factor"):
        UnexpectedInitialLoss(warn=9.0)


@pytest.mark.parametrize(
    ("loss", "null", "gradient", "patterns"),
    [(0.0, 0.0, 0.0, ["zero"]), (0.0, 0.0, 0.3, []), (0.0, 1.0, math.nan, []), (0.5, 0.0, math.nan, [])],
)
def test_a_loss_of_0_whatever_the_weights_are(loss: float, null: float, gradient: float, patterns: list[str]) -> None:
    """A fitted hinge loss is 0, too: with all weights at 0 it is 1. A policy of zeros has a gradient."""
    assert [f.pattern for f in judge(InitialLoss(loss=loss, null=null, gradient=gradient)).findings] == patterns


@pytest.mark.parametrize(("factor", "errors"), [(0.0, ["GG404"]), (1.0, [])])
def test_a_head_of_zeros_under_a_reward_has_a_loss_of_0_and_a_gradient(factor: float, errors: list[str]) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(4)]
    report = gg.check_learning_rate(
        model, batches, loss=lambda m, b: -factor * (m(b[0]).tanh() * b[1]).mean(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01), select="GG404",
    )
    assert [f.code for f in report.findings] == errors


def guessing(after: float) -> Predictions:
    return Predictions(kind="cross_entropy", before=40.0, after=after, prior=2.3)


@pytest.mark.parametrize(
    ("lower", "longer", "severity"),
    [(0.8, 2.3, "error"), (2.25, 2.3, "warning"), (0.8, 0.9, "warning")],
    ids=["a lower rate learns", "none learns", "it learns later"],
)
def test_a_wide_start_that_falls_to_the_guess_and_stays(lower: float, longer: float, severity: str) -> None:
    own = run(1.0, 2.3, 2.3, 2.3, 2.3, start=40.0)
    below = run(0.1, lower, lower, lower, lower, start=40.0)
    evidence: dict[str, Any] = {"rate_observation": observed(below, own, predictions=guessing(2.3))}
    if lower < 1.0:
        assert judge(first(40.0), **evidence).requests
    evidence["rate_longer"] = LongerRun(run=own, predictions=guessing(longer))
    (finding,) = judge(first(40.0), **evidence).findings
    assert finding.severity == severity
    assert ("which is a guess" in finding.evidence) == (severity == "error")


def test_a_wide_start_that_is_still_on_its_way_to_the_guess() -> None:
    own, below = run(1.0, 20.0, 10.0, 5.0, start=40.0), run(0.1, 0.8, 0.8, 0.8, start=40.0)
    evidence: dict[str, Any] = {"rate_observation": observed(below, own, predictions=guessing(5.0))}
    evidence["rate_longer"] = LongerRun(run=own, predictions=guessing(5.0))
    assert [f.severity for f in judge(first(40.0), **evidence).findings] == ["warning"]


def test_rare_large_losses_are_no_guess() -> None:
    """The mean over predictions is that of a guess because of a few, where the median has learnt."""
    evidence = {"rate_observation": observed(run(0.1, 0.5, 0.5, start=40.0), run(1.0, 0.5, 0.5, 0.5, start=40.0), predictions=guessing(2.3))}
    assert [f.severity for f in judge(first(40.0), **evidence).findings] == ["warning"]
