"""GG302 on activations, times and gradients typed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gradguard.adapters.observing_base import TimeFlow
from gradguard.rules.exploding_gradient import ExplodingGradient
from gradguard.rules.nonfinite_gradient import NonfiniteGradient
from tests.rules.health_evidence import BLOCKS, FAILS, WORKS, evidence, module, outputs, passes, run, severities


@pytest.mark.parametrize(
    ("rms", "first", "losses", "loss", "expected"),
    [
        ((1.0, 1e3, 1e6), 1e6, WORKS, 0.2, ["error"]),  # a first loss beyond all reason
        ((1.0, 1e3, 1e6), 2.3, FAILS, 2.3, ["error"]),
        ((1.0, 1e3, 1e6), 2.3, WORKS, 0.2, ["warning"]),
        ((1.0, 10.0, 100.0), 2.3, FAILS, 2.3, []),
        ((1e6, 1e3, 1.0), 2.3, FAILS, 2.3, []),
        ((1e-5, 1e-5, 1.0), 2.3, FAILS, 2.3, []),  # small embeddings before a normalisation
    ],
)
def test_activations(
    rms: tuple[float, ...], first: float, losses: tuple[float, float], loss: float, expected: list[str]
) -> None:
    start = {
        "modules": tuple(module(b.partition(".")[0], i, r) for i, (b, r) in enumerate(zip(BLOCKS, rms, strict=True))),
        "outputs": outputs(first),
    }
    assert severities(ExplodingGradient().check(evidence(passes(start, loss=loss), run(losses)))) == expected


@pytest.mark.parametrize(
    ("gain", "losses", "expected"), [(1.5, FAILS, ["error"]), (1.5, WORKS, ["warning"]), (1.05, FAILS, [])]
)
def test_time(gain: float, losses: tuple[float, float], expected: list[str]) -> None:
    time = {"time": (TimeFlow(layer="rnn", norms=gain ** np.arange(59, -1, -1.0)),)}
    assert severities(ExplodingGradient().check(evidence(passes(time, loss=losses[1]), run(losses)))) == expected


def test_a_gradient_that_is_not_finite_names_its_block() -> None:
    gradient = np.ones((300, 3))
    gradient[-1, :2] = np.inf
    outcome = ExplodingGradient().check(
        evidence(passes(), run(gradient=gradient, stopped="a gradient is not finite at step 299"))
    )
    (finding,) = outcome.findings
    assert finding.severity == "error"
    assert finding.location == "fc2.weight"


@pytest.mark.parametrize(("losses", "pattern", "wrong"), [((0.7, 0.6), "not finite", ["GG102"]), ((0.7, 1e20), "overflow", [])])
def test_a_gradient_that_is_not_finite_is_no_singular_point_where_the_loss_had_grown(
    losses: tuple[float, float], pattern: str, wrong: list[str]
) -> None:
    gradient = np.ones((300, 3))
    gradient[-1] = np.inf
    measured = evidence(passes(), run(losses, gradient=gradient, stopped="a gradient is not finite at step 299"))
    assert [f.pattern for f in ExplodingGradient().check(measured).findings] == [pattern]
    assert [f.code for f in NonfiniteGradient().check(measured).findings] == wrong
