from __future__ import annotations

import pytest

from gradguard.errors import GradGuardError
from gradguard.finding import Check
from gradguard.rendering.text import render_finding, shorten
from gradguard.report import Report
from tests.handmade import CAUSED, SCALED, failed_report

FAILURE = """\
GG101 gradient-mismatch  fc1.weight[0, 3]: analytical 4.71155, numerical 4.66490 +- 2e-09
  where      block fc1.weight (128, 64), all of it; module fc1 (ScaledLinear): its own backward is wrong, everything after it is right
  pattern    analytical = 1.0100 x numerical: dividing the block by 1.0100 makes it pass
  evidence   z = 2.3e+07 (limit 20); Taylor remainder falls with order 1.00 (2.00 where the gradient is right)
  likely     a factor applied twice, or not at all, in backward
  repeat     gradguard report models.py:mlp --select GG101 --block fc1.weight --seed 0"""

REPORT = f"""\
models.py:mlp: FAILED (2 errors (1 caused by another), 1 warning)

{FAILURE}

GG301 vanishing-gradient  fc0.weight: the gradient shrinks by 1e-7 along 3 layers  (caused by GG101 fc1.weight)

GG502 unscaled-data  inputs have a standard deviation of 300
  to do      divide the inputs by their standard deviation

10 checks: 3 passed, 2 failed, 1 inconclusive, 4 skipped
  passed        GG102, GG104, GG502
  inconclusive  GG103: too noisy
  skipped       GG305: independent_samples is not declared
  skipped       GG306: causal is not declared
  skipped       GG401, GG403: no optimizer
  2 of 2 blocks compared; smallest error seen in any of them: 4.0e-09 of the block (fc1.bias)
  cost: 46 forwards, 2 backwards"""


def test_a_finding_looks_as_the_design_says() -> None:
    assert render_finding(SCALED) == FAILURE


def test_a_report_is_worst_first_and_nothing_is_silent() -> None:
    assert str(failed_report()) == REPORT


def test_the_exception_starts_with_the_first_finding_and_names_the_rest() -> None:
    with pytest.raises(GradGuardError) as raised:
        failed_report().raise_if_failed()
    lines = str(raised.value).splitlines()
    assert lines[:6] == FAILURE.splitlines()
    assert lines[6].endswith("(caused by GG101 fc1.weight)")
    assert lines[7] == "also 1 warning: GG502 unscaled-data"


def test_strict_names_what_was_inconclusive() -> None:
    undecided = Check(scenario="m", code="GG103", rule="nondifferentiable-point", status="inconclusive", reason="too noisy")
    report = Report((), (undecided,), strict=True)
    with pytest.raises(GradGuardError, match="GG103 nondifferentiable-point  inconclusive, .*: too noisy"):
        report.raise_if_failed()
    assert "m: FAILED" in str(report)


def test_a_cause_that_is_not_in_the_report_keeps_its_fingerprint() -> None:
    assert render_finding(CAUSED).endswith(f"(caused by {SCALED.fingerprint})")


@pytest.mark.parametrize(
    ("width", "text"),
    [(40, "transformer.encoder.layers.2.weight"), (20, "transfor....2.weight"), (4, "tran"), (0, "")],
)
def test_names_are_shortened_in_the_middle(width: int, text: str) -> None:
    short = shorten("transformer.encoder.layers.2.weight", width)
    assert short == text
    assert len(short) <= width
