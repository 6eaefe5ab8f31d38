"""watch on compiled models: nothing is compiled again, and what can be seen is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

import gradguard as gg
from tests.health.test_watch_loops import sgd, train


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.norm, self.leave = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(functional.dropout(functional.relu(self.norm(self.enter(x))), 0.1))


def built(how: str, counter: Any) -> tuple[nn.Module, Any, Any]:
    """The model, what is watched, and what the loop calls."""
    model = Net()
    whole = how in ("wrapper", "inside", "whole")
    if whole:
        forward = torch.compile(model, backend=counter, fullgraph=True)
        return model, (model if how == "inside" else forward), forward
    if how == "method":
        model.compile(backend=counter, fullgraph=True)
    elif how == "part":
        model.norm = torch.compile(model.norm, backend=counter)
    elif how == "step":
        return model, model, torch.compile(lambda x: model(x), backend=counter, fullgraph=True)
    return model, model, model


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, with "part"
@pytest.mark.parametrize("how", ["wrapper", "inside", "method", "part", "step"])
def test_compiled_code_is_left_alone(how: str) -> None:
    ends = []
    for watched in (False, True):
        torch._dynamo.reset()
        counter = CompileCounter()
        model, given, forward = built(how, counter)
        optimizer = sgd(model, momentum=0.9)
        torch.manual_seed(1)
        with gg.watch(given, optimizer=optimizer, units="every", every=3, looks_every=5) as watch:
            if watched:
                train(model, optimizer, watch, 25, forward=forward)
        if not watched:
            train(model, optimizer, watch, 25, forward=forward)
        ends.append((counter.frame_count, counter.op_count, [v.clone() for v in model.state_dict().values()]))
    assert ends[0][:2] == ends[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][2], ends[1][2], strict=True))
    report = watch.report()
    assert report.ok, str(report)
    assert len(report.tables["flow"]) == 4
    assert len(report.tables["curve"]) == 25
    skipped = {c.code: c.reason for c in report.checks if c.status == "skipped"}
    assert "compiled" in skipped["GG201"]
    assert {"GG205", "GG206", "GG207"} <= set(skipped)
    assert {c.code for c in report.checks if c.status == "passed"} >= {"GG203", "GG301", "GG303", "GG304", "GG402"}


def test_head_and_loss_of_a_compiled_model_are_judged() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(Net(), nn.Softmax(1))
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = sgd(model)
    with gg.watch(compiled, optimizer=optimizer) as watch:
        for _ in range(5):
            x = torch.randn(16, 6)
            loss = functional.cross_entropy(compiled(x), (x[:, 0] > 0).long())
            watch.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [e.code for e in watch.report().errors] == ["GG501"]
