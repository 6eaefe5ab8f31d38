"""Models of transformers that were false alarms once; all of them, in every way: ``benchmarks.health.architectures``."""

from __future__ import annotations

import pytest
import torch

import gradguard as gg
from benchmarks.health.architectures import build, looped

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "way", "codes"),
    [
        ("beit", "plain", ("GG111",)),  # stochastic depth: float64 drew other numbers
        ("pvt", "bfloat16", ("GG111",)),  # torch's own kernels add in bfloat16
        ("mixtral", "plain", ("GG101",)),  # grouped products have no float64 kernel
        ("wav2vec2", "plain", ("GG101",)),  # makes a leaf that requires a gradient in every call
    ],
)
def test_gradients(name: str, way: str, codes: tuple[str, ...]) -> None:
    model, batches, loss = build(name, way=way, batches=1)
    report = gg.audit(gg.Scenario(model, batches, loss), select=codes)
    assert report.ok, str(report)
    assert {check.code: check.status for check in report.checks} == dict.fromkeys(codes, "passed")


def test_a_narrow_gate_that_is_dead_by_chance_is_no_error() -> None:
    model, batches, loss = build("regnet")
    assert any(f.code == "GG201" for f in gg.check_training(model, batches, loss=loss, select="GG201").findings)
    torch.manual_seed(0)
    model, batches, loss = build("regnet")
    report = looped(model, batches, loss, 1e-3)
    assert report.ok, str(report)
