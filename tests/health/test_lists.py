"""A fast sample of the lists of programs; all of them, with three seeds: ``python -m benchmarks.health``."""

from __future__ import annotations

import pytest
import torch

from benchmarks.health.faulty import FAULTY
from benchmarks.health.healthy import HEALTHY
from benchmarks.health.programs import Case
from gradguard.health import check_training
from gradguard.report import Report
from gradguard.watching import watch

WRONG = ("F03", "F17", "F19", "F31", "F33", "F41", "F45", "F47", "F49", "F51", "F55", "FX1", "FX3", "FX4", "FX8", "FX10")
RIGHT = (
    "H03",
    "H05",
    "H07",
    "H09",
    "H13",
    "H15",
    "H15b",
    "H17",
    "H19",
    "H33",
    "H37",
    "H39",
    "HX1",
    "HX2",
    "HX4",
    "HX6",
    "HX10",
    "HX11",
    "HX21",
)
HEALTH = ("GG2", "GG3", "GG406", "GG5")


def judged(case: Case) -> Report:
    program = case.build(0)
    if case.watched is None:
        return check_training(
            program.model, program.batches, loss=program.loss, optimizer=program.optimizer, select=HEALTH, **program.options
        )
    with watch(program.model, optimizer=program.optimizer) as watched:
        case.watched(program, watched, 60)
    return watched.report()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("case", [c for c in FAULTY if c.id in WRONG], ids=lambda c: c.id)
def test_a_faulty_program_is_flagged_and_its_cause_comes_first(case: Case) -> None:
    errors = judged(case).errors
    assert errors
    assert errors[0].code in case.expected
    if case.module:
        assert errors[0].module == case.module


@pytest.mark.parametrize("case", [c for c in HEALTHY if c.id in RIGHT], ids=lambda c: c.id)
def test_a_healthy_program_is_silent(case: Case) -> None:
    report = judged(case)
    assert report.ok, str(report)
