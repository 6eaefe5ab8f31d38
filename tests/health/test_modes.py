"""GG309 end to end: a model that somebody left in eval mode, in a copy and in the user's own loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg


def batches(n: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16 * n, 6, generator=generator)
    return list(zip(x.split(16), (x[:, 0] > 0).long().split(16), strict=True))


def net(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), *middle, nn.ReLU(), nn.Linear(12, 2))


def ce(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b[0]), b[1])


def checked(model: nn.Module, loss: Any = ce, optimizer: Any = torch.optim.Adam) -> gg.Report:
    return gg.check_training(model, batches(), loss=loss, optimizer=optimizer, steps=5, select="GG309")


@pytest.mark.parametrize("middle", [nn.Dropout(0.2), nn.BatchNorm1d(12)])
def test_a_model_given_in_eval_mode_is_a_warning(middle: nn.Module) -> None:
    report = checked(net(middle).eval())
    assert report.ok
    (finding,) = report.findings
    assert (finding.code, finding.severity, "1" in finding.evidence) == ("GG309", "warning", True)
    assert checked(net(middle)).findings == ()


class OwnDropout(nn.Module):
    """Acts on the mode, and is none of torch's modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand_like(x) > 0.3) if self.training else x


def test_a_module_of_the_user_that_acts_on_the_mode_is_seen() -> None:
    assert [f.severity for f in checked(net(OwnDropout()).eval()).findings] == ["warning"]


@pytest.mark.parametrize("middle", [nn.Dropout(0.0), nn.LayerNorm(12), nn.BatchNorm1d(12, track_running_stats=False)])
def test_a_mode_without_effect_is_silent(middle: nn.Module) -> None:
    assert checked(net(middle).eval()).findings == ()


def test_without_an_optimizer_nothing_is_trained() -> None:
    assert checked(net(nn.Dropout(0.2)).eval(), optimizer=None).findings == ()


def test_frozen_batch_normalisation_is_intent() -> None:
    model = net(nn.BatchNorm1d(12))
    model[1].eval()
    assert checked(model).findings == ()


def test_a_loss_that_leaves_the_model_in_eval_mode() -> None:
    def loss(m: Any, b: Any) -> torch.Tensor:
        value = ce(m, b)
        m.eval()
        with torch.no_grad():
            m(b[0]).argmax(1)
        return value

    model = net(nn.Dropout(0.2))
    (finding,) = checked(model, loss).errors
    assert finding.message.startswith("the loss leaves the model in eval mode")
    assert model.training

    def careful(m: Any, b: Any) -> torch.Tensor:
        m.train()
        value = loss(m, b)
        m.train()
        return value

    assert checked(net(nn.Dropout(0.2)), careful).findings == ()
    assert checked(net(nn.Dropout(0.2)).eval(), careful).findings == ()


Switch = Callable[[nn.Module, int], None]


def watched(model: nn.Module, start: Switch, validate: bool = True, epochs: int = 4) -> gg.Report:
    """Epochs of eight steps; ``start`` sets the mode, and a validation in eval mode ends each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gg.watch(model, optimizer=optimizer, select="GG309") as watch:
        for epoch in range(epochs):
            start(model, epoch)
            for x, y in batches():
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                watch.record(loss=loss)
            if validate:
                model.eval()
                with torch.no_grad():
                    model(batches()[0][0])
    return watch.report()


def once(model: nn.Module, epoch: int) -> None:
    if epoch == 0:
        model.train()


def always(model: nn.Module, epoch: int) -> None:
    model.train()


def frozen(model: nn.Module, epoch: int) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and epoch > 0:
            module.eval()


def late(model: nn.Module, epoch: int) -> None:
    model.train(epoch < 2)


def test_a_validation_that_nobody_switched_back_from() -> None:
    report = watched(net(nn.BatchNorm1d(12), nn.Dropout(0.1)), once)
    (finding,) = report.errors
    assert (finding.code, finding.step, finding.count, finding.total) == ("GG309", 8, 24, 32)


@pytest.mark.parametrize("start", [always, frozen])
def test_a_loop_that_switches_back_is_silent(start: Switch) -> None:
    assert watched(net(nn.BatchNorm1d(12), nn.Dropout(0.1)), start).findings == ()


def test_a_loop_without_anything_that_depends_on_the_mode_is_silent() -> None:
    assert watched(net(nn.LayerNorm(12)), once).findings == ()


def test_a_switch_without_a_validation_may_be_intent() -> None:
    assert [f.severity for f in watched(net(nn.Dropout(0.1)), late, validate=False).findings] == ["warning"]


@pytest.mark.parametrize(("middle", "severity"), [(nn.Dropout(0.1), "error"), (nn.BatchNorm1d(12), "warning")])
def test_a_model_that_soon_stays_in_eval_mode_has_lost_its_dropout(middle: nn.Module, severity: str) -> None:
    """Statistics may be frozen on purpose in that way; dropout is not built in for the first eight steps."""
    report = watched(net(middle), lambda m, epoch: m.train(epoch < 1), validate=False)
    assert [(f.severity, f.step, f.count) for f in report.findings] == [(severity, 8, 24)]


def test_a_loop_in_eval_mode_from_the_start_may_be_intent() -> None:
    report = watched(net(nn.Dropout(0.1)).eval(), lambda m, e: None)
    assert [f.severity for f in report.findings] == ["warning"]


@pytest.mark.parametrize("back", [True, False])
def test_of_several_models_each_has_its_mode(back: bool) -> None:
    """Critic steps that end the loop, with the generator in eval mode, are no steps of the generator."""
    torch.manual_seed(0)
    generator, critic = net(nn.BatchNorm1d(12)), nn.Linear(2, 1)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.01) for m in (generator, critic))
    with gg.watch({"generator": generator, "critic": critic}, optimizer=[ours, theirs], select="GG309") as watch:
        for _ in range(3):
            for x, _ in batches():
                if back:
                    generator.train()
                ours.zero_grad()
                (-critic(generator(x)).mean()).backward()
                ours.step()
                generator.eval()
                for _ in range(3):
                    with torch.no_grad():
                        fake = generator(x)
                    theirs.zero_grad()
                    critic(fake).mean().backward()
                    theirs.step()
    report = watch.report()
    assert [f.module for f in report.errors] == ([] if back else ["generator"])
    assert report.ok is back
