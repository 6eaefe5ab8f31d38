"""GG501 on heads typed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradguard.adapters.observing_base import LossFacts
from gradguard.rules.head_contradicts_loss import HeadContradictsLoss, cross_entropy_floor
from tests.rules.health_evidence import FAILS, WORKS, evidence, outputs, passes, run, severities


def head(*chain: str, kind: str = "cross_entropy", **columns: Any) -> LossFacts:
    return LossFacts(kind=kind, chain=chain, **columns)


@pytest.mark.parametrize(
    ("facts", "columns", "losses", "expected"),
    [
        (head("softmax"), {}, WORKS, ["error"]),
        (head("sigmoid"), {}, WORKS, ["error"]),
        (head("tanh"), {}, WORKS, ["error"]),
        (head("relu"), {}, FAILS, ["error"]),
        (head("relu"), {}, WORKS, ["error"]),
        (head("leaky_relu"), {}, WORKS, []),
        (head(), {"normalised": False}, WORKS, ["error"]),  # nll of a log-softmax along another axis
        (head(), {"normalised": True}, WORKS, []),
        (head(), {"row_order": ((7, 5, 3), (5, 7))}, WORKS, ["error"]),
        (head("raw_clamp", kind="log"), {}, WORKS, ["error"]),
        (head("sigmoid", kind="log"), {}, WORKS, []),
        (head("tanh", kind="log"), {}, WORKS, ["error"]),
        (head(kind="margin", zeros=0.4), {}, WORKS, ["error"]),
        (head(kind="margin"), {}, WORKS, []),
        (head("softmax", kind="bce"), {"uneven_rows": 0.8}, WORKS, ["error"]),
        (head("softmax", kind="bce"), {"uneven_rows": 0.0}, WORKS, []),
        (head("log_softmax"), {}, WORKS, []),  # the same thing twice changes nothing
        (head(), {}, FAILS, []),
        (head(classes=1), {}, WORKS, ["error"]),
        (head(batch_axis=True), {}, WORKS, ["error"]),
        (head("softmax", kind="nll"), {"normalised": False}, WORKS, ["error"]),
        (head(kind="nll"), {"normalised": False}, WORKS, ["error"]),
        (head(kind="nll"), {"normalised": True}, WORKS, []),  # a log-softmax written by hand
        (head("sigmoid", kind="bce_logits"), {}, WORKS, ["error"]),
        (head("clamp", "relu", kind="bce"), {}, WORKS, ["error"]),
        (head("sigmoid", kind="bce"), {}, WORKS, []),
        (head("softmax", kind="kl"), {}, WORKS, ["error"]),
        (head("log_softmax", kind="kl"), {}, WORKS, []),
        (head("sigmoid", kind="mse"), {"above_one": 0.9, "below_zero": 0.0}, WORKS, ["error"]),
        (head("sigmoid", kind="mse"), {"above_one": 0.0, "below_zero": 0.0}, WORKS, []),
        (head("tanh", kind="mse"), {"above_one": 0.0, "below_minus_one": 0.5}, WORKS, ["error"]),
        (head("tanh", kind="mse"), {"above_one": 0.0, "below_zero": 0.5, "below_minus_one": 0.0}, WORKS, []),
        (head("relu", kind="mse"), {"above_one": 0.9, "below_zero": 0.0}, WORKS, []),
        (head("relu", kind="mse"), {"above_one": 0.0, "below_zero": 0.4}, WORKS, ["error"]),
        (head("softmax", kind="mse"), {"above_one": 0.0, "below_zero": 0.0}, WORKS, []),  # Brier's score
        (head("softplus", kind="mse"), {"above_one": 0.5, "below_zero": 0.5}, WORKS, ["error"]),
        (head("softplus", kind="mse"), {"above_one": 0.5, "below_zero": 0.0}, WORKS, []),
        (head("cosine"), {}, WORKS, ["error"]),
        (head(kind="mse"), {"length": 1.0, "longer_labels": 0.9, "beyond": 0.8}, WORKS, ["error"]),
        (head(kind="mse"), {"length": 1.0, "longer_labels": 0.0, "beyond": 0.0}, WORKS, []),
        (head(kind="mse"), {"length": 1.0, "longer_labels": 0.5, "beyond": 0.05}, WORKS, []),  # of that length, with noise
        (head(kind="bce_logits"), {"kind": "bce", "above_one": 0.0, "below_zero": 0.5}, WORKS, ["error"]),  # -1 and 1
        (head(kind="bce_logits"), {"kind": "bce", "above_one": 0.3, "below_zero": 0.0}, WORKS, ["error"]),  # 0 and 255
        (head(kind="bce_logits"), {"kind": "bce", "above_one": 0.0, "below_zero": 0.0}, WORKS, []),
        (head("softmax", kind="difference", single=True), {}, WORKS, ["error"]),
        (head(kind="difference", broadcast=((32, 1), (32, 32))), {}, WORKS, ["error"]),
    ],
)
def test_rows(facts: LossFacts, columns: dict[str, Any], losses: tuple[float, float], expected: list[str]) -> None:
    looks = passes({"losses": (facts,), "outputs": outputs(2.3, **columns)}, {"outputs": outputs(losses[1], **columns)})
    assert severities(HeadContradictsLoss().check(evidence(looks, run(losses)))) == expected


def test_floors() -> None:
    assert math.isclose(cross_entropy_floor("softmax", 10), 1.461, abs_tol=1e-3)
    assert math.isclose(cross_entropy_floor("sigmoid", 3), 0.551, abs_tol=1e-3)


def test_metric_losses_may_compare_over_the_batch() -> None:
    looks = passes({"losses": (head(batch_axis=True),)})
    assert severities(HeadContradictsLoss().check(evidence(looks, run(objective="metric")))) == []


def test_a_softmax_over_one_score_of_an_attention() -> None:
    looks = passes({"losses": (head(),), "single_softmax": ("score",)})
    assert severities(HeadContradictsLoss().check(evidence(looks, run()))) == ["error"]
