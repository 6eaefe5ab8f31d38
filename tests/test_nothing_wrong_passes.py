"""Nothing wrong passes: faults in real backwards, in random architectures, are errors at the block that is wrong.

A sample; ``python -m benchmarks.gradients.recall`` runs the whole table and prints it.
"""

from __future__ import annotations

import pytest
import torch

import gradguard as gg
from tests.cases.architectures import SIZES, Trial, planted
from tests.cases.case import seeded
from tests.cases.faulty import FAULTS, Fault, FaultyLinear
from tests.cases.numpy_models import PAIRS, Pair

SAMPLE = [(kind, size, 1.0) for kind in FAULTS for size in SIZES[:5]]
LARGE = [("block x1.0005", SIZES[5], 1.0), ("entry zeroed", SIZES[5], 1.0)]
TINY = [(kind, SIZES[i % 5], 1e-12) for i, kind in enumerate(FAULTS)]
BALANCED = [("block x1.00001", size, 1.0) for size in SIZES[1:5]]


def name(row: tuple[str, int, float]) -> str:
    kind, size, scale = row
    return f"{kind}, {size} parameters{', tiny gradients' if scale < 1 else ''}"


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("row", [*SAMPLE, *LARGE, *TINY, *BALANCED], ids=name)
def test_a_fault_is_an_error_at_its_block(row: tuple[str, int, float]) -> None:
    kind, size, scale = row
    found = planted(hash_of(row), kind, size, scale=scale)
    report = gg.check_gradients(found.model, found.inputs, **found.options)
    assert {f.block for f in report.errors} == {found.block}, describe(found, report)
    if scale < 1:
        assert found.largest < 1e-8


@pytest.mark.parametrize("row", [*SAMPLE[::3], *TINY[:2]], ids=name)
def test_its_right_twin_is_no_error(row: tuple[str, int, float]) -> None:
    kind, size, scale = row
    found = planted(hash_of(row), kind, size, scale=scale)
    for module in found.model.modules():
        if hasattr(module, "fault"):
            module.fault = None
    report = gg.check_gradients(found.model, found.inputs, **found.options)
    assert not report.errors, str(report)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["block x1.01", "block x1.0005"])
def test_a_bias_whose_gradients_cancel_is_seen(kind: str, seed: int) -> None:
    """A two-class head: the gradient of its bias is (a, -a), and half of the sign tangents do not move the loss."""
    model = seeded(lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), FaultyLinear(6, 2)), seed)
    model[2].fault = Fault(kind, "bias")
    labels = torch.arange(6) % 2
    features = seeded(lambda: torch.randn(6, 4), seed)
    report = gg.check_gradients(model, features, loss=lambda out: torch.nn.functional.cross_entropy(out, labels), seed=seed)
    assert {f.block for f in report.errors} == {"2.bias"}, str(report)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
@pytest.mark.parametrize("method", ["directional", "entrywise"])
def test_a_wrong_numpy_gradient_is_an_error_at_its_blocks(pair: Pair, method: str) -> None:
    checked = pair.make(True)
    report = gg.check_gradients(checked.f, checked.inputs, method=method, **checked.options)
    assert {f.block for f in report.errors} == pair.blocks, str(report)


def hash_of(row: tuple[str, int, float]) -> int:
    """A seed for each row that does not depend on the order of the table."""
    return sum(ord(c) * 31**i for i, c in enumerate(name(row))) % 100_003


def describe(found: Trial, report: gg.Report) -> str:
    return f"{found.fault} in {found.block}, error {found.error:.1e} of the block\n{report}"
