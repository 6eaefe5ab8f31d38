"""GG503 on gains typed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gradguard.adapters.observing_base import Look, OutputFacts
from gradguard.adapters.training_base import OptimizerFacts, ParameterFacts
from gradguard.errors import UsageError
from gradguard.finding import Outcome
from gradguard.measurements.base import Measurement
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun
from gradguard.measurements.weight_gains import RescaledRun, gains_of, measure
from gradguard.rules.unscaled_weights import UnscaledWeights
from tests.rules.health_evidence import FAILS, WORKS, trace

SIZE = 20
NOTHING: Any = None


def judged(
    gains: list[float],
    spread: float = 1.0,
    losses: tuple[float, float] = WORKS,
    owners: dict[int, str] | None = None,
    rescaled: tuple[float, float] | None = None,
) -> Outcome:
    """Square layers whose RMS times sqrt(fan_in) is given, and the losses of the run at the usual gain."""
    names = tuple(f"fc{i}.weight" for i in range(len(gains)))
    weight = np.tile([gain * math.sqrt(SIZE) for gain in gains], (300, 1))
    parameters = tuple(
        ParameterFacts(
            name=n, shape=(SIZE, SIZE), dtype="float32", module=n[:-7], owner=(owners or {}).get(i, "Linear"), group=0
        )
        for i, n in enumerate(names)
    )
    run = TrainingRun(
        trace=trace(losses, blocks=names, weight=weight),
        parameters=parameters,
        optimizer=OptimizerFacts(name="SGD", lrs=(0.1,), owned=len(names)),
        asked=300,
    )
    outputs = OutputFacts(spread=spread)
    passes = Passes(start=Look(step=0, matrices=names, outputs=outputs), end=Look(step=300, outputs=outputs))
    evidence: dict[str, Measurement] = {"training_run": run, "passes": passes}
    evidence["weight_gains"] = measure(NOTHING, NOTHING, evidence, ())
    if rescaled is not None:
        evidence["rescaled_run"] = RescaledRun(trace=trace(rescaled), rescaled=("fc1.weight",))
    return UnscaledWeights().check(evidence)


@pytest.mark.parametrize(
    ("gains", "options", "named"),
    [
        ([0.58, 17.3, 0.58, 0.58], {}, ["fc1"]),
        ([0.58, 17.3], {}, ["fc1"]),
        ([1.4, 1.4, 1.4, 1.4, 42.0], {}, ["fc4"]),
        ([0.58, 6e-4, 0.58, 0.58], {"spread": 1e-3}, ["fc1"]),
        ([0.58, 40.0, 20.0, 0.58, 0.58, 0.58], {}, ["fc1"]),
        ([0.58, 0.58, 0.58, 0.58], {}, []),
        ([1.4, 0.11, 0.11, 0.11, 0.11], {}, []),
        ([0.58, 5.0, 0.58, 0.58], {}, []),
        ([0.58, 6e-4, 0.58, 0.58], {}, []),
        ([0.58, 0.58, 0.58, 6e-4], {"spread": 1e-3}, []),
        ([0.58, 0.58, 0.58, 0.58, 30.0], {"owners": {4: "Embedding"}}, []),
        ([17.0, 17.0, 17.0, 17.0], {}, []),
        ([0.58, 0.0, 0.58, 0.58], {"spread": 1e-3}, []),
    ],
)
def test_rows(gains: list[float], options: dict[str, Any], named: list[str]) -> None:
    outcome = judged(gains, **options)
    assert [f.module for f in outcome.findings] == named
    assert {f.severity for f in outcome.findings} <= {"warning"}


def test_an_error_only_where_training_does_not_work() -> None:
    outcome = judged([0.58, 17.3, 0.58, 0.58], losses=FAILS)
    assert [f.severity for f in outcome.findings] == ["error"]


@pytest.mark.parametrize(
    ("losses", "rescaled", "expected"),
    [
        ((30.0, 0.2), (2.3, 0.1), "error"),  # on average 14 above, of a gain of 2.2
        ((2.3, 0.2), (2.3, 0.1), "warning"),
        ((2.3, 0.2), (2.3, 2.2), "warning"),  # the usual gain is no better
        ((-1.0, -3.0), (-4.0, -6.0), "error"),
    ],
)
def test_an_error_where_the_usual_gain_trains_better(
    losses: tuple[float, float], rescaled: tuple[float, float], expected: str
) -> None:
    (finding,) = judged([0.58, 17.3, 0.58, 0.58], losses=losses, rescaled=rescaled).findings
    assert finding.severity == expected


def test_the_other_run_is_asked_for() -> None:
    longer, again = judged([0.58, 17.3, 0.58, 0.58]).requests
    assert longer.measurement == "long_run"  # first: the other run is as long
    assert (again.measurement, again.about) == ("rescaled_run", ("fc1.weight",))


def test_the_message() -> None:
    (finding,) = judged([0.58, 17.4, 0.58, 0.58, 8.0]).findings
    assert finding.message == "fc1.weight: weights of gain 17.4, 30 times what is usual in this model"
    assert finding.evidence.startswith("RMS(W) sqrt(fan_in) 17.4, median of the others 0.58; loss ")
    assert finding.evidence.endswith("; also fc4.weight")
    (finding,) = judged([0.58, 0.00058, 0.58, 0.58], spread=0.0).findings
    assert finding.message == "fc1.weight: weights of gain 0.00058, 1/1000 of what is usual in this model"


def test_the_fan_of_a_convolution_and_of_stacked_matrices() -> None:
    """An independent count: entries of RMS 1 that meet in one output."""

    def facts(owner: str, *shape: int) -> ParameterFacts:
        return ParameterFacts(name="w", shape=shape, dtype="float32", owner=owner)

    assert gains_of(facts("Conv2d", 8, 4, 3, 3), math.sqrt(8 * 4 * 9))[0] == pytest.approx(math.sqrt(4 * 9))
    assert gains_of(facts("Linear", 8, 4), math.sqrt(32))[0] == pytest.approx(2.0)
    assert math.sqrt(16) == pytest.approx(min(gains_of(facts("Experts", 4, 64, 16), math.sqrt(4 * 64 * 16))))


def test_options_are_validated() -> None:
    with pytest.raises(UsageError, match="large > 1 > small"):
        UnscaledWeights(large=0.5)
