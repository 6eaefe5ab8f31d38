"""The learning-rate rules on programs: faulty ones fail with the right code, healthy ones pass, nothing of the user's changes."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradguard as gg

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tests.learning_rate.programs import (  # noqa: E402  (they need torch and scikit-learn)
    FAULTY,
    HEALTHY,
    Program,
    adam,
    digits,
    entropy,
    mlp,
    two_layers,
)


def judged(program: Program, seed: int = 0) -> gg.Report:
    torch.manual_seed(seed)
    scenario = program.make()
    return gg.check_learning_rate(
        scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer, **program.keywords
    )


@pytest.mark.parametrize("program", FAULTY, ids=lambda p: p.name)
def test_faulty_program_fails_with_its_code_first(program: Program) -> None:
    report = judged(program)
    assert not report.ok
    assert report.findings[0].code in program.codes
    with pytest.raises(gg.GradGuardError, match=report.findings[0].code):
        report.raise_if_failed()


@pytest.mark.parametrize("program", HEALTHY, ids=lambda p: p.name)
def test_healthy_program_has_no_error(program: Program) -> None:
    report = judged(program)
    assert report.ok, str(report)
    assert not report.inconclusive, str(report)
    assert {check.code for check in report.checks} == {"GG401", "GG403", "GG404", "GG405"}


def test_diverging_rate_names_one_that_holds() -> None:
    torch.manual_seed(0)
    scenario = two_layers(30.0)
    report = gg.check_learning_rate(scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer)
    (finding,) = [f for f in report.findings if f.code == "GG401"]
    assert finding.message.startswith("SGD at lr 30 diverges: ")
    assert " holds" in finding.message
    assert "lambda_1 = " in finding.evidence
    assert "the training limit is between " in finding.evidence
    row = report.tables["learning_rate"].iloc[0]
    assert row.training_low <= row.training_limit <= row.training_high < 30.0
    assert row.curvature_limit == pytest.approx(2.0 / row.lambda_max, rel=1e-6)
    assert row.first_step_limit > 2 * row.curvature_limit  # relu units die on the way, and curvature with them
    shown = (Path(__file__).parents[2] / "docs" / "learning-rate.md").read_text()  # this finding is the page's example
    for text in (f"lambda_1 = {row.lambda_max:.3g} +- ", f"overshoot above lr {row.first_step_limit:.3g} "):
        assert text in shown
        assert text in finding.evidence
    held = gg.check_learning_rate(
        scenario.model, scenario.batches, loss=scenario.loss, optimizer=torch.optim.SGD(scenario.model.parameters(), row.training_low)
    )
    assert held.ok


def test_tables_of_a_healthy_run() -> None:
    torch.manual_seed(0)
    scenario = adam(1e-3)
    report = gg.check_learning_rate(scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer)
    tables = report.tables
    row = tables["learning_rate"].iloc[0]
    assert row.optimizer == "Adam"
    assert row.lr == pytest.approx(1e-3)
    assert 0 < row.error_bar < 0.02 * row.lambda_max
    assert row.lambda_min < row.lambda_max
    assert row.evaluations <= 2 * 60 + 30
    rates = tables["rates"]
    assert 5 <= len(rates) <= 10
    assert (rates.loss_before > 0).all()
    assert set(rates.verdict.str.split(":").str[0]) <= {"holds", "diverged"}


def test_nothing_of_the_users_changes() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 10))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batches = digits(64)[:6]
    entropy(model, batches[0]).backward()
    optimizer.step()
    model.eval()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    gg.check_learning_rate(model, batches, loss=entropy, optimizer=optimizer, steps=10)
    drawn = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())
    after = (model.state_dict(), optimizer.state_dict())
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name])
    assert str(before[1]) == str(after[1])
    assert all(torch.equal(p.grad, grads[name]) for name, p in model.named_parameters())
    assert not model.training


def test_same_seed_same_report() -> None:
    torch.manual_seed(0)
    scenario = two_layers(0.1)
    keywords: dict[str, Any] = {"loss": scenario.loss, "optimizer": scenario.optimizer, "steps": 12, "select": "GG401"}
    first = gg.check_learning_rate(scenario.model, scenario.batches, **keywords)
    second = gg.check_learning_rate(scenario.model, scenario.batches, **keywords)
    assert first.table_rows("rates") == second.table_rows("rates")
    assert first.table_rows("learning_rate") == second.table_rows("learning_rate")


def test_an_optimizer_with_a_closure_is_observed_without_curvature() -> None:
    model = torch.nn.Linear(4, 1)
    x = torch.linspace(-1, 1, 32)[:, None].repeat(1, 4)
    report = gg.check_learning_rate(
        model, [(x, x[:, :1])], loss=lambda m, b: (m(b[0]) - b[1]).square().mean(),
        optimizer=torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=2), steps=8,
    )
    assert report.ok
    row = report.table_rows("learning_rate")[0]
    assert "lambda_max" not in row
    assert row["training_low"] > 0
    (cost,) = [r for r in report.table_rows("measurements") if r["measurement"] == "curvature"]
    assert cost["reason"].startswith("the optimizer's step cannot be taken alone: ")


def test_limits_are_taken() -> None:
    model = torch.nn.Linear(4, 1)
    x = torch.linspace(-1, 1, 32)[:, None].repeat(1, 4)
    arguments: dict[str, Any] = {
        "loss": lambda m, b: (m(b[0]) - b[1]).square().mean(), "optimizer": torch.optim.SGD(model.parameters(), 0.1), "steps": 10
    }
    report = gg.check_learning_rate(model, [(x, x[:, :1])], limits={"GG401": {"worse": 0.2}}, **arguments)
    assert report.ok
    assert len(report.table_rows("runs")) == 1
    with pytest.raises(gg.UsageError, match="GG401 takes worse > 0, got 0"):
        gg.check_learning_rate(model, [(x, x[:, :1])], limits={"GG401": {"worse": 0}}, **arguments)


def test_a_scheduler_is_followed() -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 400 else 5000.0)
    report = gg.check_learning_rate(model, digits(64)[:8], loss=entropy, optimizer=optimizer, schedule=scheduler)
    info = [f for f in report.findings if f.code == "GG401" and "schedule" in f.message]
    assert [f.severity for f in info] == ["info"]
    assert "50 at step 400" in info[0].message
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert scheduler.last_epoch == 0


def test_a_schedule_whose_peak_is_seen_and_diverges() -> None:
    model = mlp(64, 64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = gg.check_learning_rate(
        model, digits(32), loss=entropy, optimizer=optimizer, schedule=lambda step: 1.0 if step < 10 else 5000.0, select="GG401"
    )
    assert [f.code for f in report.errors] == ["GG401"]


def test_spread_of_curvature_over_batches_is_told() -> None:
    torch.manual_seed(0)
    scenario = two_layers(30.0)
    report = gg.check_learning_rate(
        scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer, curvature_batches=3, select="GG401"
    )
    assert " over 3 batches; " in report.findings[0].evidence


def test_numpy_model_gets_the_same() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((120, 6))
    y = x @ generator.standard_normal(6)

    def loss(model: Any, batch: Any) -> float:
        return float(np.mean((batch[0] @ model["w"] - batch[1]) ** 2))

    def gradient(model: Any, batch: Any) -> Any:
        return {"w": 2 * batch[0].T @ (batch[0] @ model["w"] - batch[1]) / len(batch[1])}

    batches = [(x[i : i + 40], y[i : i + 40]) for i in (0, 40, 80)]
    limit = 2.0 / np.linalg.eigvalsh(2 * x[:40].T @ x[:40] / 40)[-1]
    held = gg.check_learning_rate({"w": np.zeros(6)}, batches, loss=loss, grad=gradient, optimizer=gg.SGD(0.3 * limit))
    assert held.ok, str(held)
    row = held.table_rows("learning_rate")[0]
    assert row["first_step_limit"] == pytest.approx(limit, rel=0.01)
    assert row["training_limit"] == pytest.approx(limit, rel=1.0)
    failed = gg.check_learning_rate({"w": np.zeros(6)}, batches, loss=loss, grad=gradient, optimizer=gg.SGD(3 * limit))
    assert [f.code for f in failed.errors] == ["GG401"]


def test_adversarial_objective_is_judged_by_finiteness_alone() -> None:
    torch.manual_seed(0)
    scenario = two_layers(30.0)
    keywords: dict[str, Any] = {"loss": scenario.loss, "optimizer": scenario.optimizer, "select": "GG401"}
    assert not gg.check_learning_rate(scenario.model, scenario.batches, **keywords).ok
    report = gg.check_learning_rate(scenario.model, scenario.batches, objective="adversarial", **keywords)
    assert report.ok
    assert "adversarial" in report.checks[0].reason


def test_loss_that_is_not_finite_at_once_is_not_the_rates_fault() -> None:
    model = mlp(64, 8, 10)
    bad = [(torch.full((4, 64), float("nan")), torch.zeros(4, dtype=torch.long))]
    report = gg.check_learning_rate(model, bad, loss=entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    (check,) = [c for c in report.checks if c.code == "GG401"]
    assert check.status == "skipped"
    assert check.reason == "the loss of batch 0 is not finite before training: that is not the rate's fault"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": None}, "there is no optimizer, so there is no learning rate to judge"),
        ({"batches": []}, "batches is empty: there is nothing to train on"),
        ({"loss": lambda model, batch: model(batch[0])}, "the loss returned a tensor of shape (8, 10), not a scalar tensor"),
        ({"loss": lambda model, batch: 1 / 0}, "the loss raised ZeroDivisionError: division by zero"),
        ({"steps": 0}, "steps takes a whole number of at least 8, got 0"),
        ({"curvature_batches": 0}, "curvature_batches takes a whole number of at least 1, got 0"),
        ({"clip": -1.0}, "clip takes the norm that gradients are clipped to, got -1.0"),
        ({"schedule": 3}, "schedule takes a function step -> factor or a torch scheduler, got int"),
        ({"schedule": lambda step: float("nan")}, "the schedule returned nan at step 0"),
        ({"model": [1, 2]}, "cannot train a list"),
        ({"select": "GG9999"}, "there is no rule 'GG9999'."),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_bad_input_says_what_and_what_to_do(changes: dict[str, Any], message: str) -> None:
    model = mlp(64, 8, 10)
    arguments: dict[str, Any] = {
        "model": model, "batches": digits(8)[:2], "loss": entropy, "optimizer": torch.optim.SGD(model.parameters(), 0.1), **changes
    }
    with pytest.raises(gg.UsageError) as caught:
        gg.check_learning_rate(arguments.pop("model"), arguments.pop("batches"), **arguments)
    assert caught.value.what.startswith(message)


@pytest.mark.parametrize(
    "kind", ["mup", "standard"], ids=["muP is flat", "standard parametrisation with Adam grows with width"]
)
def test_width_scaling(kind: str) -> None:
    def build(width: int) -> gg.Scenario:
        x = torch.randn(32, 16)
        y = torch.randint(0, 4, (32,))
        model = torch.nn.Sequential(
            torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 4)
        )
        rates = [0.01, 0.01, 0.01]
        if kind == "mup":
            rates = [0.01, 0.01 * 32 / width, 0.01 * 32 / width]
            with torch.no_grad():
                model[4].weight.mul_((32 / width) ** 0.5)
        groups = [{"params": list(model[i].parameters()), "lr": rate} for i, rate in zip((0, 2, 4), rates, strict=True)]
        return gg.Scenario(model, [(x, y)], lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), optimizer=torch.optim.Adam(groups))

    report = gg.check_width_scaling(build, (32, 64, 128, 256), steps=3, seeds=2)
    failed = {f.module for f in report.errors}
    assert failed == (set() if kind == "mup" else failed | {"2", "4"})
    assert len(report.tables["units"]) > 0


@pytest.mark.parametrize(
    ("build", "widths", "message"),
    [
        (None, (8, 16, 32), "build takes a function width -> gg.Scenario, got NoneType"),
        (lambda width: None, (8, 16), "widths takes at least three different whole numbers, got (8, 16)"),
        (lambda width: None, (8, 16, 32), "build(8) returned NoneType, not a gg.Scenario"),
    ],
)
def test_bad_widths(build: Any, widths: Any, message: str) -> None:
    with pytest.raises(gg.UsageError) as caught:
        gg.check_width_scaling(build, widths)
    assert caught.value.what == message


def test_accumulation_in_a_watched_loop_has_no_error() -> None:
    torch.manual_seed(0)
    scenario = two_layers(0.05, 0.9)
    with gg.watch(scenario.model, optimizer=scenario.optimizer) as watch:
        for step, batch in enumerate(digits(8)[:160]):
            loss = entropy(scenario.model, batch) / 4
            loss.backward()
            watch.record(loss=loss)
            if step % 4 == 3:
                scenario.optimizer.step()
                scenario.optimizer.zero_grad()
    report = watch.report()
    assert report.ok, str(report)
    assert next(check for check in report.checks if check.code == "GG402").status == "passed"


@pytest.mark.parametrize(
    ("rate", "keywords", "text"),
    [
        (float("nan"), {}, "the learning rate of parameter group 0 is nan"),
        (float("inf"), {}, "the learning rate of parameter group 0 is inf"),
        (0.1, {"select": "GG402"}, "none of the selected rules is judged by check_learning_rate: 'GG402'"),
    ],
)
def test_what_cannot_be_judged_is_refused(rate: float, keywords: dict[str, Any], text: str) -> None:
    scenario = two_layers(rate)
    with pytest.raises(gg.UsageError, match=text):
        gg.check_learning_rate(scenario.model, scenario.batches, loss=scenario.loss, optimizer=scenario.optimizer, **keywords)
