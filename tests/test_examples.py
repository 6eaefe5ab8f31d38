"""The examples say what they say they say: digits is right, the textbook's loop is wrong where it is wrong."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradguard as gg
from gradguard.checking import gradient_rules

pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CODES = [rule.code for rule in gradient_rules()]


def names_in(file: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / file))


@pytest.mark.parametrize("name", ["torch_classifier", "numpy_network"])
def test_digits_is_right(name: str) -> None:
    report = gg.audit(names_in("digits.py")[name](), select=CODES, name=name)
    assert report.ok, str(report)
    assert not report.inconclusive, str(report)
    rows = report.table_rows("gradients")
    assert len(rows) == (10 if name == "torch_classifier" else 6)
    assert max(row["resolution"] for row in rows) < 1e-5


@pytest.mark.parametrize("method", ["directional", "entrywise"])
def test_the_textbook_is_wrong_but_for_its_last_layer(method: str) -> None:
    report = gg.audit(names_in("textbook_backprop.py")["textbook_network"](), select=CODES, method=method)
    assert {f.block for f in report.errors} == {"weights[0]", "weights[1]", "biases[0]", "biases[1]"}, str(report)
    assert {f.code for f in report.errors} == {"GG101"}
    right = {row["block"]: row["verdict"] for row in report.table_rows("gradients") if "[2]" in row["block"]}
    assert right == {"weights[2]": "pass", "biases[2]": "pass"}


def test_the_textbook_trains_all_the_same_which_is_why_nobody_looks() -> None:
    scenario = names_in("textbook_backprop.py")["textbook_network"]()
    params, losses = scenario.model, []
    for _ in range(30):
        for batch in scenario.batches:
            losses.append(scenario.loss(params, batch))
            gradient = scenario.grad(params, batch)
            params = {
                name: [p - 0.5 * g for p, g in zip(params[name], gradient[name], strict=True)] for name in params
            }
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
