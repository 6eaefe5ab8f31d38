"""GG309 on steps typed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gradguard.adapters.modes_base import ModeFacts
from gradguard.errors import UsageError
from gradguard.finding import Outcome
from gradguard.measurements.modes import Modes
from gradguard.rules.wrong_mode import WrongMode


def judged(**steps: Any) -> Outcome:
    facts = ModeFacts(**{"source": "watch", "dependent": ("drop",), **steps})
    return WrongMode().check({"modes": Modes(facts=facts)})


@pytest.mark.parametrize(
    ("steps", "severities"),
    [
        ({"train": 10, "eval": 20, "tail": 20, "switch": 10, "validated": True}, ["error"]),
        ({"train": 10, "eval": 20, "tail": 20, "switch": 10}, ["warning"]),
        ({"train": 10, "eval": 20, "tail": 20, "switch": 10, "dropout": ("drop",)}, ["error"]),
        ({"train": 20, "eval": 20, "tail": 20, "switch": 20, "dropout": ("drop",)}, ["warning"]),  # for the second half
        ({"train": 5, "eval": 19, "tail": 19, "switch": 5, "dropout": ("drop",)}, ["warning"]),
        ({"train": 0, "eval": 20, "tail": 20, "switch": 0, "dropout": ("drop",)}, ["warning"]),
        ({"train": 0, "eval": 20, "tail": 20, "switch": 0}, ["warning"]),
        ({"train": 1, "eval": 1, "tail": 1, "switch": 1, "validated": True, "source": "copy", "difference": 0.3}, ["error"]),
        ({"train": 0, "eval": 2, "tail": 2, "source": "copy", "difference": 0.3, "dependent": ()}, ["warning"]),
        ({"train": 30}, []),
        ({"train": 30, "eval": 10, "tail": 0}, []),
        ({"train": 30, "eval": 1, "tail": 1, "validated": True}, []),
        ({"train": 10, "eval": 20, "tail": 20, "validated": True, "dependent": ()}, []),
        ({"train": 0, "eval": 2, "tail": 2, "source": "copy", "difference": 0.0}, []),
        ({}, []),
    ],
)
def test_rows(steps: dict[str, Any], severities: list[str]) -> None:
    outcome = judged(**steps)
    assert [f.severity for f in outcome.findings] == severities
    assert outcome.status == ("failed" if "error" in severities else "passed")


def test_the_message() -> None:
    (finding,) = judged(train=10, eval=20, tail=20, switch=10, validated=True, dependent=("a", "b", "c", "d")).findings
    assert finding.message == "from step 10 on the model is trained in eval mode: the last 20 of 30 steps"
    assert finding.evidence == (
        "before them it was called without gradients in eval mode; depends on the mode: a, b, c and 1 more"
    )
    assert finding.step == 10


def test_options_are_validated() -> None:
    with pytest.raises(UsageError, match="steps of at least 1"):
        WrongMode(steps=0)
