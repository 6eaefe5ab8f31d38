"""Nothing right fails: no error on any case of the corpus, and at most 1 % inconclusive; and nothing is changed.

Every case is a row of a table in ``tests/cases``. A case that cannot be decided is named here with its reason; there may
be no more of those than one in a hundred.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import gradguard as gg
from tests.cases.architectures import architecture_cases
from tests.cases.case import Case
from tests.cases.layers import layer_cases, loss_cases, uncovered
from tests.cases.models import model_cases
from tests.cases.numpy_models import numpy_model_cases
from tests.cases.points import complex_cases, layout_cases, numpy_cases, point_cases
from tests.cases.snapshot import snapshot
from tests.cases.structures import structure_cases, transformers_cases

CASES: list[Case] = [
    *layer_cases(), *loss_cases(), *point_cases(), *layout_cases(), *complex_cases(), *numpy_cases(), *structure_cases(),
    *transformers_cases(), *architecture_cases(), *numpy_model_cases(), *model_cases(),
]

UNDECIDED: dict[str, str] = {}
"""Cases that are right and that differences of values cannot decide, with the reason."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),  # torch's own, of one layer
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning"),  # torch's own, of one layer
]


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_right_gradient_is_no_error(case: Case) -> None:
    arguments = case.arguments()
    before = snapshot(arguments.f, arguments.inputs)
    report = gg.check_gradients(arguments.f, arguments.inputs, **arguments.options)
    changed = [name for name, value in snapshot(arguments.f, arguments.inputs).items() if before.get(name) != value]
    assert not changed
    assert not report.errors, str(report)
    assert "GG101" not in {c.code for c in report.checks if c.status == "skipped"}, str(report)
    undecided = undecided_blocks(report)
    if case.name in UNDECIDED:
        assert undecided, f"{case.name} is decided by now: take it out of UNDECIDED"
    else:
        assert not undecided, undecided


@pytest.mark.parametrize("case", [*point_cases(), *numpy_cases()], ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [1, 8])
def test_hard_points_are_no_error_with_other_tangents(case: Case, seed: int) -> None:
    arguments = case.arguments()
    report = gg.check_gradients(arguments.f, arguments.inputs, seed=seed, **arguments.options)
    assert not report.errors, str(report)
    assert not undecided_blocks(report), str(report)


def undecided_blocks(report: gg.Report) -> dict[str, str]:
    """What was inconclusive: rules and blocks, with their reasons."""
    rows = [row for row in report.table_rows("gradients") if row["verdict"] == "inconclusive"]
    return {c.code: c.reason for c in report.inconclusive} | {row["block"]: row["reason"] for row in rows}


def test_the_corpus_is_large_and_few_cases_are_undecided() -> None:
    assert len(CASES) >= 200
    assert max(Counter(case.name for case in CASES).values()) == 1
    assert len(UNDECIDED) <= len(CASES) / 100


def test_every_layer_and_loss_of_torch_nn_has_a_row() -> None:
    assert uncovered() == []
