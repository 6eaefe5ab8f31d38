"""The strategies draw what hides gradient bugs; ``given`` shrinks it, the same in every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

import gradguard as gg
from gradguard import strategies

ROOT = Path(__file__).parent.parent
QUICK = settings(
    max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
SMALL = "GG101,GG105"
"""One verdict is enough to shrink by."""

DRAWN: dict[str, tuple[Any, Any]] = {
    "exact zero": (strategies.arrays(), lambda x: (x == 0).any()),
    "ties": (strategies.arrays(), lambda x: x.size > 2 and len(np.unique(x)) == 1),
    "all different": (strategies.arrays(), lambda x: x.size > 3 and len(np.unique(x)) == x.size),
    "threshold": (strategies.arrays(thresholds=(3.7,)), lambda x: (x == 3.7).any()),
    "above a threshold": (strategies.arrays(thresholds=(3.7,)), lambda x: (x == np.nextafter(3.7, 9)).any()),
    "one more than a block": (strategies.arrays(block=8), lambda x: x.shape[-1] == 9),
    "one less than a block": (strategies.arrays(block=8), lambda x: x.shape[-1] == 7),
    "batch of 3": (strategies.arrays(), lambda x: x.ndim > 1 and x.shape[0] == 3),
    "empty": (strategies.arrays(empty=True), lambda x: x.size == 0),
    "not contiguous": (strategies.arrays(), lambda x: not x.flags.c_contiguous),
    "float32": (strategies.arrays(dtype=np.float32), lambda x: x.dtype == np.float32),
    "repeated index": (strategies.indices(9), lambda i: len(set(i.tolist())) < len(i)),
    "expanded tensor": (strategies.tensors(), lambda x: 0 in x.stride() and x.numel() > 1),
    "channels last": (
        strategies.tensors((2, 3, 4, 5)), lambda x: not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    ),
    "bfloat16": (strategies.tensors(dtypes=("float64", "bfloat16")), lambda x: x.dtype == torch.bfloat16),
    "missing axis": (strategies.broadcastable(), lambda s: len(s[0]) != len(s[1])),
    "stretched axis": (strategies.broadcastable(), lambda s: len(s[0]) == len(s[1]) and s[0] != s[1]),
    "batched product": (strategies.matmul_shapes(), lambda s: len(s[0]) > len(s[1])),
}


@pytest.mark.parametrize("what", DRAWN)
def test_it_is_drawn(what: str) -> None:
    strategy, condition = DRAWN[what]
    find(strategy, lambda x: bool(condition(x)), settings=QUICK)


@gg.given(pair=strategies.broadcastable(3), product=strategies.matmul_shapes(block=4))
def test_shapes_belong_together(pair: Any, product: Any) -> None:
    np.broadcast_shapes(*pair)
    left, right = product
    assert (np.ones(left) @ np.ones(right)).shape[-2:] == (left[-2], right[-1])


@gg.given(x=strategies.arrays(block=4, thresholds=(0.5,)), max_examples=30)
def test_a_right_gradient_passes_on_all_of_them(x: Any) -> None:
    report = gg.check_gradients(np.tanh, x, vjp=lambda g, x: g * (1 - np.tanh(x) ** 2))
    report.raise_if_failed()


def partial(g: Any, x: Any) -> Any:
    gradient = g * np.cos(x)
    gradient[..., x.shape[-1] // 8 * 8 :] = 0
    return gradient


def overwriting(g: Any, table: Any, index: Any) -> Any:
    gradient = np.zeros_like(table)
    gradient[index] = g
    return gradient, None


def failing(test: Any) -> str:
    with pytest.raises(gg.GradGuardError) as caught:
        test()
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_a_wrong_gradient_is_shrunk_to_the_smallest_input() -> None:
    @gg.given(x=strategies.arrays(block=8))
    def check(x: Any) -> None:
        gg.check_gradients(np.sin, x, vjp=partial, select=SMALL).raise_if_failed()

    assert "x=array([1.])" in failing(check)


def test_repeated_indices_are_found_and_shrunk() -> None:
    @gg.given(index=strategies.indices(5))
    def check(index: Any) -> None:
        table = np.arange(10.0).reshape(5, 2)
        report = gg.check_gradients(lambda table, index: table[index], (table, index), vjp=overwriting, select="GG101")
        report.raise_if_failed()

    assert "index=array([0, 0, 0, 0])" in failing(check)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: gg.given(x=3), "given: x is a int, not a strategy"),
        (lambda: gg.given(st.integers(), 4), "argument 1 is a int"),
        (lambda: strategies.sizes(0), "block is a positive number"),
        (lambda: find(strategies.tensors(dtypes=("float65",)), lambda x: True, settings=QUICK), "torch has no dtype 'float65'"),
    ],
)
def test_bad_arguments_are_refused(call: Any, says: str) -> None:
    with pytest.raises(gg.UsageError) as caught:
        call()
    assert says in str(caught.value)


def test_the_example_finds_what_its_fixed_input_misses() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "property_based.py")], capture_output=True, text=True, check=True, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert run.stdout.startswith("fixed input: passes")
    assert "GG105 missing-gradient" in run.stdout
    assert "x=array([1.])" in run.stdout
