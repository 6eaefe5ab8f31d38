"""The conformance matrix: every rule on every kind of problem, right and wrong.

A rule that is added to the registry joins by itself. Right: no rule reports an error, and each either judged or says why
it did not. Wrong, by a factor of 1.01 in one backward: GG101 names the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradguard as gg
from gradguard.blocks import matching
from gradguard.checking import gradient_rules
from tests.cases.case import seeded
from tests.cases.faulty import Fault, FaultyLinear, LinearFunction


@dataclass(frozen=True)
class Kind:
    """One kind of problem: ``check(factor)`` with its backward times that factor, and the block that is then wrong."""

    name: str
    check: Callable[..., gg.Report]
    block: str


def layers(factor: float) -> nn.Sequential:
    model = seeded(lambda: nn.Sequential(FaultyLinear(4, 5), nn.Tanh(), FaultyLinear(5, 3)), 0)
    if factor != 1.0:
        model[0].fault = Fault(f"block x{factor}", "weight")
    return model


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def numpy_dicts(factor: float, **options: Any) -> gg.Report:
    rng = np.random.default_rng(0)
    params = {"layers": [{"W": rng.normal(size=shape), "b": rng.normal(size=shape[0])} for shape in ((5, 4), (3, 5))]}
    x = rng.normal(size=(6, 4))

    def forward(params: Any) -> Any:
        first, second = params["layers"]
        h = np.tanh(x @ first["W"].T + first["b"])
        return h, h @ second["W"].T + second["b"]

    def grad(params: Any) -> Any:
        h, y = forward(params)
        delta = 2 * y / y.size
        below = (delta @ params["layers"][1]["W"]) * (1 - h**2)
        return {"layers": [{"W": factor * (below.T @ x), "b": below.sum(0)}, {"W": delta.T @ h, "b": delta.sum(0)}]}

    return gg.check_gradients(lambda params: np.mean(forward(params)[1] ** 2), (params,), grad=grad, **options)


def tensors(factor: float, **options: Any) -> gg.Report:
    fault = Fault(f"block x{factor}", "weight") if factor != 1.0 else None
    inputs = [features(6, 4), features(3, 4), features(3)]

    def f(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return LinearFunction.apply(x, weight, bias, fault).tanh()

    return gg.check_gradients(f, tuple(t.requires_grad_() for t in inputs), **options)


def closure(factor: float, **options: Any) -> gg.Report:
    model = layers(factor)
    return gg.check_gradients(lambda x: model(x).square().mean(), features(6, 4), **options)


def module(factor: float, **options: Any) -> gg.Report:
    return gg.check_gradients(layers(factor), features(6, 4), loss=lambda out: out.square().mean(), **options)


@dataclass
class ModelOutput:
    loss: torch.Tensor
    logits: torch.Tensor
    cache: object = None


class WithOutput(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = layers(factor)

    def forward(self, *, tokens: torch.Tensor, labels: torch.Tensor) -> ModelOutput:
        logits = self.body(nn.functional.one_hot(tokens, 4).to(self.body[0].weight.dtype))
        return ModelOutput(nn.functional.cross_entropy(logits, labels), logits, cache=object())


def keywords(factor: float, **options: Any) -> gg.Report:
    inputs = {"tokens": torch.tensor([0, 3, 1, 2]), "labels": torch.tensor([0, 2, 1, 1])}
    return gg.check_gradients(WithOutput(factor), inputs, loss=lambda output: output.loss, **options)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.factor * 3 * x.conj() ** 2 * g, None


def custom_function(factor: float, **options: Any) -> gg.Report:
    return gg.check_gradients(lambda x: Cube.apply(x, factor), features(5, 3).double().requires_grad_(), **options)


def complex_numbers(factor: float, **options: Any) -> gg.Report:
    z = torch.complex(features(5, 3).double(), features(3, 5).double().T).requires_grad_()
    return gg.check_gradients(lambda z: Cube.apply(z, factor), z, **options)


def scenario(factor: float, **options: Any) -> gg.Report:
    batches = [(features(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))]
    found = gg.Scenario(layers(factor), batches, lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))
    return gg.audit(found, **{"select": [rule.code for rule in gradient_rules()], **options})


KINDS = [
    Kind("NumPy with dicts", numpy_dicts, "params.layers[0].W"),
    Kind("function on tensors", tensors, "weight"),
    Kind("closure over a module", closure, "*0.weight"),
    Kind("module", module, "0.weight"),
    Kind("module with keywords and an output object", keywords, "body.0.weight"),
    Kind("custom Function", custom_function, "x"),
    Kind("complex", complex_numbers, "z"),
    Kind("scenario", scenario, "0.weight"),
]
RULES = [rule.code for rule in gradient_rules()]

kinds = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


@kinds
def test_right_every_rule_judges_or_says_why_not(kind: Kind) -> None:
    report = kind.check(1.0)
    assert not report.errors, str(report)
    assert [check.code for check in report.checks] == RULES
    for check in report.checks:
        assert check.status in ("passed", "skipped"), check
        assert check.reason or check.status == "passed", check
    assert {c.status for c in report.checks if c.code in ("GG101", "GG102", "GG104", "GG105", "GG902")} == {"passed"}


@kinds
def test_wrong_the_block_is_named_and_the_others_are_left_alone(kind: Kind) -> None:
    report = kind.check(1.01)
    blocks = [finding.block for finding in report.errors if finding.code == "GG101"]
    assert len(blocks) == 1, str(report)
    assert matching(blocks[0], [kind.block]), str(report)
    with pytest.raises(gg.GradGuardError, match="GG101 gradient-mismatch"):
        report.raise_if_failed()


@kinds
@pytest.mark.parametrize("code", RULES)
def test_each_rule_alone(kind: Kind, code: str) -> None:
    report = kind.check(1.0, select=code)
    assert [check.code for check in report.checks] == [code]
    assert not report.errors, str(report)


@kinds
def test_entrywise_agrees(kind: Kind) -> None:
    right, wrong = kind.check(1.0, method="entrywise"), kind.check(1.01, method="entrywise")
    assert not right.errors, str(right)
    assert matching(next(f.block for f in wrong.errors if f.code == "GG101"), [kind.block]), str(wrong)


@kinds
def test_an_ignore_with_a_reason_accepts_it(kind: Kind) -> None:
    report = kind.check(1.01, ignore=gg.Ignore("GG101", block=kind.block, reason="on purpose, in this test"))
    assert not report.errors, str(report)
    assert any("on purpose, in this test" in check.reason for check in report.checks)


@kinds
def test_the_tables_have_a_row_per_block(kind: Kind) -> None:
    table = kind.check(1.0).tables["gradients"]
    assert len(table) >= 1
    assert set(table["verdict"]) == {"pass"}
    assert (table["resolution"] < 1e-4).all()
