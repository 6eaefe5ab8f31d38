"""watch changes nothing: bitwise the same parameters, buffers, optimizer state, losses and random state, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import gradguard as gg
from tests.health.watched_nets import Attentive, Recurrent, perceptron

STEPS = 8


class Recomputed(nn.Module):
    """Activation checkpointing calls its block again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.head(checkpoint(self.block, x, use_reentrant=False))


class Dropping(nn.Module):
    """Skips a layer at random, writes in place, and keeps a counter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.maybe, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.calls = 0
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        h = functional.relu(self.enter(x), inplace=True)
        self.average.mul_(0.9).add_(h.detach().float().mean(0), alpha=0.1)
        if torch.rand(()) < 0.5:
            h = h + torch.tanh(self.maybe(h))
        return self.head(h)


class Parts(nn.Module):
    """Never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.body(x))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "convolutional": convolutional,
    "recurrent": lambda: Recurrent("LSTM"),
    "attentive": Attentive,
    "recomputed": Recomputed,
    "dropping": Dropping,
    "parts": Parts,
    "spectral": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def called(model: nn.Module, forward: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.encode(x)) if isinstance(model, Parts) else forward(x)


def train(model: nn.Module, forward: Any, optimizer: Any, watch: Any, drawn: dict[str, Any]) -> list[torch.Tensor]:
    scaler = torch.amp.GradScaler("cpu", enabled=drawn["scaler"] and drawn["optimizer"] != "lbfgs", init_scale=2.0**16)
    data = torch.Generator().manual_seed(0)
    losses = []
    for step in range(STEPS * drawn["parts"]):
        x, y = torch.randn(16, 6, generator=data), torch.randint(0, 3, (16,), generator=data)

        def loss_of(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            with torch.autocast("cpu", dtype=drawn["autocast"], enabled=drawn["autocast"] is not None):
                return functional.cross_entropy(called(model, forward, x).float(), y)

        if drawn["optimizer"] == "lbfgs":

            def closure(loss_of: Any = loss_of) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of()
                loss.backward()
                return loss

            loss = optimizer.step(closure)
        else:
            loss = loss_of()
            scaler.scale(loss / drawn["parts"]).backward()
            if drawn["record"] == "before":
                watch.record(loss=loss)
            if step % drawn["parts"] == drawn["parts"] - 1:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=drawn["none"])
        if drawn["record"] == "after":
            watch.record(loss=loss)
        losses.append(loss.detach().clone())
    return losses


class Unwatched:
    def record(self, loss: Any) -> None:
        pass


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Every place where something could be left behind."""
    found: list[Any] = []
    for module in model.modules():
        found += [sorted(k for k in vars(module)), type(module), "forward" in vars(module)]
        found += [list(getattr(module, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        found += [list(module._forward_hooks_with_kwargs), list(module._forward_hooks_always_called)]
    for parameter in model.parameters():
        found += [list(parameter._backward_hooks or ()), list(parameter._post_accumulate_grad_hooks or ())]
    found += [list(optimizer._optimizer_step_pre_hooks), list(optimizer._optimizer_step_post_hooks), type(optimizer).step]
    return [*found, torch.overrides._get_current_function_mode_stack(), torch.is_grad_enabled()]


def numbers(value: Any) -> list[Any]:
    """The leaves of a state: tensors and what else it holds."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in numbers(one)]
    return [value.clone() if isinstance(value, torch.Tensor) else value]


def end_of(drawn: dict[str, Any], watched: bool) -> tuple[list[Any], list[Any]]:
    torch.manual_seed(drawn["seed"])
    model = MODELS[drawn["model"]]()
    optimizer = OPTIMIZERS[drawn["optimizer"]](model.parameters())
    forward: Any = model
    if drawn["compiled"]:
        torch._dynamo.reset()
        forward = torch.compile(model, backend="eager")
    torch.manual_seed(1)
    before = hooks(model, optimizer)
    if watched:
        given = forward if drawn["model"] != "parts" else model
        options = {"every": drawn["every"], "looks_every": 3, "units": drawn["units"]}
        with gg.watch(given, optimizer=optimizer, **options) as watch:
            losses = train(model, forward, optimizer, watch, drawn)
        assert watch.report().checks
        assert not watch._seen.notes or drawn["compiled"], watch._seen.notes
    else:
        losses = train(model, forward, optimizer, Unwatched(), drawn)
    state = [*numbers(model.state_dict()), *numbers(optimizer.state_dict()), *losses, torch.get_rng_state()]
    state += [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state.append(getattr(model, "calls", None))
    return state, [before, hooks(model, optimizer)]


@settings(max_examples=20, deadline=None, phases=[Phase.generate])  # to make an example smaller takes minutes
@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(sorted(MODELS)),
            "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
            "autocast": st.sampled_from([None, torch.bfloat16, torch.float16]),
            "scaler": st.booleans(),
            "parts": st.sampled_from([1, 1, 3]),
            "compiled": st.sampled_from([False] * 9 + [True]),
            "record": st.sampled_from(["before", "after", "never"]),
            "units": st.sampled_from(["looks", "every"]),
            "every": st.sampled_from([1, 3, 10]),
            "none": st.booleans(),
            "seed": st.integers(0, 3),
        }
    )
)
def test_training_is_bitwise_the_same_and_nothing_is_left_behind(drawn: dict[str, Any]) -> None:
    if drawn["model"] == "recurrent" and drawn["autocast"] == torch.float16:
        drawn["autocast"] = torch.bfloat16  # torch has no LSTM in float16 on a CPU
    plain, _ = end_of(drawn, watched=False)
    seen, (before, after) = end_of(drawn, watched=True)
    assert before == after
    assert len(plain) == len(seen)
    for a, b in zip(plain, seen, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
