"""watch in loops as people write them: parts that are called by themselves, several optimizers, closures, schedules, casts."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg


def batch(i: int, n: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(i % 5))
    return x, (x[:, 0] > 0).long()


def net(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def train(model: Any, optimizer: Any, watch: Any, steps: int = 25, **options: Any) -> None:
    """A plain loop; ``forward`` in place of the model's call, ``after`` a step."""
    forward, after = options.get("forward", model), options.get("after", lambda: None)
    for i in range(steps):
        x, y = batch(i)
        loss = functional.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        watch.record(loss=loss)


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


class Parts(nn.Module):
    """Has no forward: the loop calls ``encode`` and ``decode``; ``bias`` kills the units of the second hidden layer."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.enter, self.code = nn.Linear(6, 16), nn.Linear(16, 4)
        self.body, self.leave = nn.Linear(4, 16), nn.Linear(16, 3)
        nn.init.constant_(self.body.bias, bias)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(functional.relu(self.enter(x)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.leave(functional.relu(self.body(z)))


@pytest.mark.parametrize("dead", [False, True])
def test_methods_that_call_parts_are_looked_at_with_their_functional_activations(dead: bool) -> None:
    torch.manual_seed(0)
    model = Parts(-20.0 if dead else 0.0)
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch, forward=lambda x: model.decode(model.encode(x)))
    report = watch.report()
    assert set(report.tables["units"]["layer"]) == {"relu"}
    assert list(dict.fromkeys(report.tables["flow"]["block"])) == ["enter.weight", "code.weight", "body.weight", "leave.weight"]
    assert [(e.code, e.module) for e in report.errors] == ([("GG201", "body")] if dead else [])


def gan(dead: bool) -> tuple[Any, list[Any], Callable[[Any], None]]:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
    judge = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    if dead:
        nn.init.constant_(made[0].bias, -30.0)
    first, second = torch.optim.Adam(made.parameters(), 1e-3), torch.optim.Adam(judge.parameters(), 1e-3)

    def run(watch: Any) -> None:
        for i in range(25):
            x, z = batch(i)[0], torch.randn(32, 4)
            with torch.no_grad():
                fake = made(z)
            second.zero_grad()
            (functional.softplus(-judge(x)).mean() + functional.softplus(judge(fake)).mean()).backward()
            second.step()
            first.zero_grad()
            loss = functional.softplus(-judge(made(z))).mean()
            loss.backward()
            first.step()
            watch.record(loss=loss)

    return {"made": made, "judge": judge}, [first, second], run


@pytest.mark.parametrize("container", [dict, list, nn.ModuleList, nn.ModuleDict])
@pytest.mark.parametrize("dead", [False, True])
def test_nets_in_a_container_that_is_never_called(container: Any, dead: bool) -> None:
    nets, optimizers, run = gan(dead)
    model = container(nets if container in (dict, nn.ModuleDict) else list(nets.values()))
    with gg.watch(model, optimizer=optimizers, objective="adversarial") as watch:
        run(watch)
    report = watch.report()
    assert len(set(report.tables["units"]["layer"])) == 2
    name = "made.0" if container in (dict, nn.ModuleDict) else "0.0"
    assert [(e.code, e.module) for e in report.errors] == ([("GG201", name)] if dead else [])
    updates = report.tables["flow"].set_index(["block", "step"])["update_ratio"]
    assert dead or (updates > 0).all()  # every optimizer's steps are sampled, also where they come in turns


def test_a_part_that_is_called_late_is_looked_at_when_it_comes() -> None:
    nets = nn.ModuleList([net(), net()])
    nn.init.constant_(nets[1][0].bias, -30.0)
    optimizer = sgd(nets)
    with gg.watch(nets, optimizer=optimizer, select="GG201") as watch:
        train(nets, optimizer, watch, 30, forward=nets[0])
        train(nets, optimizer, watch, 30, forward=nets[1])
    (error,) = watch.report().errors
    assert error.module == "1.0"


@pytest.mark.parametrize("cut", ["detach", "data", "view", "copy", ""])
def test_a_cut_in_the_loop_itself(cut: str) -> None:
    cuts: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "detach": lambda h: h.detach(),
        "data": lambda h: h.data,
        "view": lambda h: h.detach().reshape(-1, 4, 4).flatten(1) * 2,
        "copy": lambda h: torch.from_numpy(h.detach().numpy()),
        "": lambda h: h,
    }
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(6, 16), nn.Tanh()), "head": nn.Linear(16, 3)})
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer, select="GG303") as watch:
        train(model, optimizer, watch, forward=lambda x: model["head"](cuts[cut](model["body"](x))))
    assert [e.module for e in watch.report().errors] == (["body.0"] if cut else [])


def test_a_detached_value_elsewhere_does_not_make_an_unused_layer_an_error() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.pooler = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.body(x))
            self.pooler(h)
            return self.head(h) + self.head(h.detach())

    model = Model()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer, select="GG303") as watch:
        train(model, optimizer, watch)
    report = watch.report()
    assert report.ok
    assert [f.module for f in report.findings] == ["pooler"]


@pytest.mark.parametrize("kind", ["lbfgs", "sgd"])
@pytest.mark.parametrize("clears", [True, False])
def test_closures(kind: str, clears: bool) -> None:
    model = net()
    optimizer: Any = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3) if kind == "lbfgs" else sgd(model)
    x, y = batch(0)

    def closure() -> torch.Tensor:
        if clears:
            optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with gg.watch(model, optimizer=optimizer) as watch:
        for _ in range(8):
            watch.record(loss=optimizer.step(closure))
    report = watch.report()
    assert bool((report.tables["curve"]["grad_norm"] > 0).all())
    assert [e.code for e in report.errors] == ([] if clears else ["GG304"])


def test_one_step_of_a_closure_is_no_missing_gradient() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters())
    x, y = batch(0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with gg.watch(model, optimizer=optimizer) as watch:
        optimizer.step(closure)
    assert watch.report().ok


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_loss_scaler_skips_are_no_steps(fused: bool) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    skipped = 0
    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(40):
            x, y = batch(i)
            with torch.autocast("cpu", dtype=torch.float16):
                loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            before = scaler.get_scale()
            scaler.update()
            skipped += scaler.get_scale() < before
            watch.record(loss=loss)
    report = watch.report()
    assert skipped > 10
    assert len(report.tables["curve"]) == 40 - skipped
    assert report.ok, str(report)
    assert report.tables["curve"]["grad_norm"].max() < 100  # without the scale


class Nested(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Failing(torch.optim.SGD):
    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        if self.calls % 5 == 0:
            raise OSError("mine")
        return super().step(closure)


def test_an_optimizer_that_calls_the_step_of_its_base_steps_once() -> None:
    torch.optim.Adam(net().parameters())  # its step has hooks from here on
    model = net()
    optimizer = Nested(model.parameters(), 1e-2)
    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch)
    assert len(watch.report().tables["curve"]) == 25


def test_a_step_that_raises_is_no_step() -> None:
    model = net()
    optimizer = Failing(model.parameters(), 0.1)
    with gg.watch(model, optimizer=optimizer) as watch:
        for _ in range(5):
            with pytest.raises(OSError, match="mine"):
                train(model, optimizer, watch, 5)
    report = watch.report()
    assert len(report.tables["curve"]) == 20
    assert report.ok


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.relu(self.enter(x))
        for block in self.blocks:
            h = h + functional.relu(block(h)) if torch.rand(()) < 0.5 else h
        return self.leave(h)


@pytest.mark.parametrize("make", [net, Branches])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}, {"momentum": 0.9, "nesterov": True}])
def test_healthy_loops_are_silent(make: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = make()
    optimizer = sgd(model, **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(30):
            for part in range(3):
                x, y = batch(i + part)
                loss = functional.cross_entropy(model(x), y) / 3
                loss.backward()
                watch.record(loss=loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            scheduler.step()
    report = watch.report()
    assert report.ok, str(report)
    assert not report.findings, str(report)


@pytest.mark.parametrize("steps", [20, 25, 40, 55, 200])
def test_a_warm_up_from_a_rate_of_0_is_silent(steps: int) -> None:
    model = net(64)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, 0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch, steps, after=scheduler.step)
    assert not watch.report().findings, str(watch.report())


def test_layers_that_are_unfrozen_and_given_to_the_optimizer_in_the_loop() -> None:
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch)
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        train(model, optimizer, watch)
    assert not watch.report().findings, str(watch.report())


def test_layers_that_are_frozen_once_the_loop_runs_are_intent() -> None:
    model = net()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer) as watch:
        model[0].requires_grad_(False)
        train(model, optimizer, watch)
    assert not watch.report().findings, str(watch.report())


def test_a_loss_recorded_before_or_after_the_step_belongs_to_it() -> None:
    curves = []
    for before in (True, False):
        model = net()
        optimizer = sgd(model)
        with gg.watch(model, optimizer=optimizer) as watch:
            for i in range(6):
                x, y = batch(i)
                loss = functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                if before:
                    watch.record(loss=loss)
                optimizer.step()
                if not before:
                    watch.record(loss=loss.item())
        curves.append(watch.report().tables["curve"]["loss"].round(5).tolist())
    assert curves[0] == curves[1]
    assert len(set(curves[0])) == 6


def test_limits_by_block_reach_the_watched_rules() -> None:
    model = Parts(-20.0)
    optimizer = sgd(model)
    limits = {
        "GG201": {"blocks": {"body": {"dead": 1.0, "warn": 1.0}}},
        "GG402": {"patience": 5, "blocks": {"x": {"level": 1.0}}},
    }
    with gg.watch(model, optimizer=optimizer, limits=limits, select=["GG201", "GG402"]) as watch:
        train(model, optimizer, watch, forward=lambda x: model.decode(model.encode(x)))
    assert {c.code for c in watch.report().checks} == {"GG201", "GG402"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"limits": {"GG402": {"nothing": 1}}}, "has no option 'nothing'"),
        ({"limits": {"GG999": {}}}, "GG999"),
        ({"select": "GG101"}, "leaves no rule that watch judges"),
        ({"model": [nn.Linear(2, 2), 3]}, "got a list of Linear, int"),
        ({"model": {}}, "or a dict or sequence of them, got dict"),
        ({"model": {"a.b": nn.Linear(2, 2)}}, "names without dots, got 'a.b'"),
        ({"model": [nn.LazyLinear(2)]}, "is not initialised"),
        ({"optimizer": [sgd(nn.Linear(2, 2)), "adam"]}, "got str"),
    ],
)
def test_bad_input_is_a_clear_error_at_once(given: dict[str, Any], text: str) -> None:
    model = given.pop("model", nn.Linear(2, 2))
    with pytest.raises(gg.UsageError, match=text), gg.watch(model, **given):
        pass


def test_what_is_recorded_must_be_a_number() -> None:
    with gg.watch(nn.Linear(2, 2)) as watch, pytest.raises(gg.UsageError, match="takes a scalar, got str"):
        watch.record(loss="low")


def test_snapshots_of_the_model_in_the_loop_are_models_of_their_own() -> None:
    model = net()
    optimizer = sgd(model)
    copies: list[Any] = []
    with gg.watch(model, optimizer=optimizer, units="every") as watch:
        for _ in range(4):
            train(model, optimizer, watch, 2)
            stored = io.BytesIO()
            torch.save(model, stored)
            stored.seek(0)
            copies += [copy.deepcopy(model), torch.load(stored, weights_only=False)]
        before = watch._seen.looks.forwards
        ends = [[p.clone() for p in one.parameters()] for one in copies]
        train(model, optimizer, watch, 2)
        for one in copies:
            one(batch(0)[0]).sum().backward()
        assert watch._seen.looks.forwards == before + 2
    assert all(
        torch.equal(a, b) for one, end in zip(copies, ends, strict=True) for a, b in zip(one.parameters(), end, strict=True)
    )
    assert watch.report().ok


def test_a_teacher_and_a_stopped_gradient_are_healthy() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(8, 8), "teacher": copy.deepcopy(encoder)})
    optimizer = torch.optim.SGD([*encoder.parameters(), *model["head"].parameters()], 0.05)
    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(30):
            x = batch(i)[0]
            with torch.no_grad():
                target = model["teacher"](x)
            a, b = encoder(x), encoder(x + 0.1)
            loss = -functional.cosine_similarity(model["head"](a), b.detach()).mean()
            loss = loss - functional.cosine_similarity(model["head"](b), target).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.record(loss=loss)
    report = watch.report()
    assert report.ok, str(report)
    assert {f.message for f in report.findings} == {f"teacher.{i}: never called in this loss" for i in (0, 3)}


def test_watches_of_one_model_do_not_disturb_each_other() -> None:
    model = net()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer) as first, gg.watch(model, optimizer=optimizer) as second:
        train(model, optimizer, first)
    one, other = first.report(), second.report()
    for name in ("units", "flow"):
        assert one.tables[name].astype(str).equals(other.tables[name].astype(str))


@pytest.mark.parametrize("default", [False, True])
def test_devices_that_come_and_go_around_a_part(default: bool) -> None:
    model = Parts()
    optimizer = sgd(model)

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.device("cpu"):
            z = model.encode(x)
        torch.set_default_device("cpu" if default else None)
        result = model.decode(z)
        torch.set_default_device(None)
        return result

    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch, forward=forward)
    assert not torch.overrides._get_current_function_mode_stack()
    assert len(watch.report().tables["units"]) == 4


def test_per_sample_gradients_by_transforms_are_left_alone() -> None:
    model = net()
    optimizer = sgd(model)

    def loss(parameters: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    with gg.watch(model, optimizer=optimizer) as watch:
        for i in range(6):
            parameters = {name: p.detach() for name, p in model.named_parameters()}
            each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, *batch(i))
            for name, parameter in model.named_parameters():
                parameter.grad = each[name].mean(0)
            optimizer.step()
    report = watch.report()
    assert report.ok, str(report)
    assert len(report.tables["flow"]) == 4


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(6, 8, dtype=torch.cfloat)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x.to(torch.cfloat) @ self.weight).abs())


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table((x.abs() * 10).long().clamp(max=49)).mean(1))


@pytest.mark.parametrize("make", [Complex, Rows])
def test_parameters_and_gradients_that_are_no_dense_real_numbers(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer) as watch:
        train(model, optimizer, watch)
    report = watch.report()
    assert report.ok, str(report)
    assert not watch._seen.notes
    assert bool((report.tables["curve"]["grad_norm"][:20] > 0).all())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("whole", [True, False])
def test_scripted_models_take_no_hooks(whole: bool) -> None:
    model: Any = torch.jit.script(net()) if whole else nn.Sequential(torch.jit.script(nn.Linear(6, 6)), *net())
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer, units="every") as watch:
        train(model, optimizer, watch)
    report = watch.report()
    assert report.ok, str(report)
    assert (report.checks[0].status == "skipped") is whole


def test_units_that_die_in_a_short_loop_are_seen() -> None:
    model = net()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer, select="GG201") as watch:
        for i in range(60):
            x, y = batch(i, 128)
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i == 30:
                with torch.no_grad():
                    model[0].bias.fill_(-20.0)
    (error,) = watch.report().errors
    assert (error.module, error.pattern) == ("0", "died by step 60")


class Experts(nn.Module):
    """One expert for each batch: a look at one batch says nothing of how many are used."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores = torch.zeros(len(x), 4)
        scores[:, self.calls % 4] = 1.0
        return self.head(x + self.table(scores.argmax(dim=-1)))


def test_choices_are_counted_over_several_looks() -> None:
    torch.manual_seed(0)
    model = Experts()
    optimizer = sgd(model)
    with gg.watch(model, optimizer=optimizer, looks_every=3, select="GG207") as watch:
        train(model, optimizer, watch, 60)
    assert watch.report().ok, str(watch.report())
