"""watch: bitwise the same trajectory, nothing left behind, gradients read where they are right."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg
from gradguard.adapters import torch_watch_steps
from gradguard.adapters.torch_watch_looks import KEPT_LOOKS
from gradguard.adapters.torch_watch_losses import ENTRIES, KEPT
from tests.health.watched_nets import Attentive, Recurrent, perceptron


def data(n: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)) for _ in range(n)]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": perceptron,
    "gru": lambda: Recurrent("GRU"),
    "attention": Attentive,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "foreach": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
}


def loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, watch: Any = None, *, steps: int = 25, amp: bool = False
) -> list[Any]:
    scaler = torch.amp.GradScaler("cpu", enabled=amp)
    losses = []
    batches = data()
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            loss = functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if watch is not None:
            watch.record(loss=loss)
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_trajectory_is_bitwise_the_same_and_nothing_is_left(kind: str, optimizer: str, amp: bool) -> None:
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = MODELS[kind]()
        chosen = OPTIMIZERS[optimizer](model.parameters())
        torch.manual_seed(1)
        if watched:
            with gg.watch(model, optimizer=chosen, every=3, looks_every=5, units="every") as watch:
                losses = loop(model, chosen, watch, amp=amp)
            assert watch.report().checks
        else:
            losses = loop(model, chosen, amp=amp)
        ends.append((losses, [v.clone() for v in model.state_dict().values()], torch.get_rng_state()))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters())
        assert not chosen._optimizer_step_pre_hooks
        assert not chosen._optimizer_step_post_hooks
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))
    assert torch.equal(ends[0][2], ends[1][2])


def test_an_exception_of_the_users_propagates_and_the_report_is_there() -> None:
    model = MODELS["mlp"]()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    watched = gg.watch(model, optimizer=optimizer)

    def mine() -> None:
        with watched as watch:
            kept.append(watch)
            loop(model, optimizer, watch, steps=6)
            raise KeyError("mine")

    kept: list[Any] = []
    with pytest.raises(KeyError, match="mine"):
        mine()
    watch = kept[0]
    assert len(watch.report().tables["curve"]) == 6
    assert not any(m._forward_hooks for m in model.modules())


def test_an_exception_inside_a_look_leaves_nothing() -> None:
    model = MODELS["mlp"]()
    with pytest.raises(RuntimeError), gg.watch(model) as watch:
        model(torch.randn(4, 7))
    assert watch.report() is not None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


CLEARING: dict[str, tuple[Callable[[Any, Any], None], bool]] = {
    "zero_grad": (lambda m, o: o.zero_grad(), False),
    "in place": (lambda m, o: o.zero_grad(set_to_none=False), False),
    "model": (lambda m, o: m.zero_grad(), False),
    "by hand": (lambda m, o: [p.grad.data.zero_() for p in m.parameters() if p.grad is not None] and None, False),
    "never": (lambda m, o: None, True),
}  # fmt: skip


@pytest.mark.parametrize("how", CLEARING)
def test_stale_gradients(how: str) -> None:
    clear, stale = CLEARING[how]
    model = MODELS["mlp"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gg.watch(model, optimizer=optimizer, select="GG304") as watch:
        for x, y in data() * 2:
            clear(model, optimizer)
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert watch.report().ok is not stale


def test_accumulation_is_not_stale() -> None:
    model = MODELS["mlp"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gg.watch(model, optimizer=optimizer, select="GG304") as watch:
        for step, (x, y) in enumerate(data() * 4):
            functional.cross_entropy(model(x), y).backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert watch.report().ok


def test_two_optimizers_of_a_gan_are_not_stale() -> None:
    generator, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    both = nn.ModuleList([generator, judge])
    first, second = torch.optim.Adam(generator.parameters(), 1e-3), torch.optim.Adam(judge.parameters(), 1e-3)
    with gg.watch(both, optimizer=(first, second), objective="adversarial") as watch:
        for x, _ in data() * 4:
            fake = generator(torch.randn(16, 4))
            second.zero_grad()
            loss = functional.softplus(-judge(x)).mean() + functional.softplus(judge(fake.detach())).mean()
            loss.backward()
            second.step()
            first.zero_grad()
            functional.softplus(-judge(fake)).mean().backward()
            first.step()
            watch.record(loss=loss)
    report = watch.report()
    assert report.ok, str(report)


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("optimized", [True, False])
def test_memory_does_not_grow_with_the_number_of_steps(optimized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_watch_steps, "ROWS", 64)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before, alive = tensors_alive(), []
    with gg.watch(model, optimizer=optimizer if optimized else None, every=1, looks_every=20) as watch:
        for _ in range(3):
            loop(model, optimizer, watch, steps=120)
            alive.append(tensors_alive())
        seen = watch._seen
    assert all(count - before < 65 * 8 + 100 for count in alive)  # loss, and three norms of two tensors, in each row
    assert len(seen.steps.rows) <= 65
    assert len(seen.looks.kept) <= KEPT_LOOKS
    assert len(seen.recorded.latest) <= KEPT
    assert watch.report().ok, str(watch.report())


def test_batches_that_come_in_turns_are_no_rise_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_watch_steps, "ROWS", 64)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0 + 1e-6)
    with gg.watch(model, optimizer=optimizer, select="GG402") as watch:
        for step in range(400):  # every eighth step, of which the kept ones are, has a batch that is harder
            loss = (model(torch.ones(4, 1)) - (9.0 if step % 8 == 0 else 1.0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.record(loss=loss)
    assert watch.report().ok, str(watch.report())


def test_large_predictions_are_kept_in_part() -> None:
    model = nn.Linear(6, 3000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gg.watch(model, optimizer=optimizer) as watch:
        for _ in range(3):
            out = model(torch.randn(500, 6))
            loss = functional.cross_entropy(out, torch.randint(0, 3000, (500,)))
            watch.record(loss=loss)
            watch.record(loss=loss, output=out, labels=torch.randint(0, 3000, (500,)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    kept = [one[0] if isinstance(one, tuple) else one.predicted for one in watch._seen.recorded.latest]
    assert kept
    assert all(k.untyped_storage().nbytes() <= 4 * ENTRIES for k in kept)
    assert watch.report().ok


def test_a_nan_is_named_although_it_comes_late() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(x)

    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), Root(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gg.watch(model, optimizer=optimizer, select="GG203") as watch:
        loop(model, optimizer, watch, steps=10)
        model[1] = nn.Identity()
        x, y = data()[0]
        watch.record(loss=functional.cross_entropy(model(x), y))
    (error,) = watch.report().errors
    assert error.module == "2"


def test_a_cut_graph_is_seen_in_the_loop() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(functional.relu(self.trunk(x)).detach())

    model = Cut()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gg.watch(model, optimizer=optimizer, select="GG303") as watch:
        loop(model, optimizer, watch)
    (error,) = watch.report().errors
    assert error.module == "trunk"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"model": 3}, "watch takes a torch.nn.Module"),
        ({"model": nn.ReLU()}, "the model has no parameters"),
        ({"optimizer": 3}, "optimizer takes a torch optimizer"),
        ({"objective": "x"}, "objective='x' is unknown"),
        ({"every": 0}, "every takes a whole number"),
        ({"units": "all"}, "units='all' is unknown"),
    ],
)
def test_bad_input_is_a_clear_error(given: dict[str, Any], text: str) -> None:
    model = given.pop("model", nn.Linear(2, 2))
    with pytest.raises(gg.UsageError, match=text), gg.watch(model, **given):
        pass
