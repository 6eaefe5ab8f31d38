"""Losses, optimizers and loops for the held-out programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_batches import rows
from benchmarks.health.heldout_programs import Batch, Body, Data, Loss, Net, Setup

Step = Callable[[int, Batch], Tensor]

# ---- losses ---------------------------------------------------------------------------------------------------------------


def ce(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def mse(model: Any, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def by(function: Callable[..., Tensor], **more: Any) -> Loss:
    """``function(model(x), y)``."""
    return lambda model, batch: function(model(batch[0]), batch[1], **more)


def per_letter(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of every position of a sequence."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def binary(model: Any, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1].float())


def itself(model: Any, batch: Batch) -> Tensor:
    """Reconstruction of the input."""
    return F.mse_loss(model(batch[0]), batch[0])


def own(model: Any, batch: Batch) -> Tensor:
    """The model's own loss of a batch."""
    loss: Tensor = model.loss(*batch)
    return loss


# ---- optimizers -----------------------------------------------------------------------------------------------------------


def adam(lr: float = 1e-3, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, **more)


def sgd(lr: float, momentum: float = 0.0, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **more)


def use(name: str, lr: float, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """An optimizer of ``torch.optim`` by its name."""
    return partial(getattr(torch.optim, name), lr=lr, **more)


# ---- loops ----------------------------------------------------------------------------------------------------------------


def cycle(batches: list[Batch], steps: int) -> Iterator[Batch]:
    """As many batches as there are steps, from the first again after the last."""
    for i in range(steps):
        yield batches[i % len(batches)]


def descend(model: Any, optimizer: Any, batch: Batch, loss: Loss = ce) -> Tensor:
    """One step of training as everybody writes it; gives the loss."""
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    return value


def learn(watch: Any, optimizer: Any, loss: Tensor) -> None:
    """What follows a loss in a loop under ``watch``: record it, clear, go back, step."""
    watch.record(loss=loss)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def scheduled(model: Any, optimizer: Any, schedule: Any) -> Step:
    """A step of training, and one of its schedule."""

    def step(i: int, batch: Batch) -> Tensor:
        loss = descend(model, optimizer, batch)
        schedule.step()
        return loss

    return step


def compete(generator: Any, critic: Any, for_generator: Any, for_critic: Any, real: Tensor) -> Tensor:
    """A step of the critic and one of the generator, 32 points of four numbers each; gives the generator's loss."""
    bce = F.binary_cross_entropy_with_logits
    fake = generator(torch.randn(32, 4))
    for_critic.zero_grad()
    (bce(critic(real), torch.ones(32, 1)) + bce(critic(fake.detach()), torch.zeros(32, 1))).backward()
    for_critic.step()
    for_generator.zero_grad()
    loss = bce(critic(fake), torch.ones(32, 1))
    loss.backward()
    for_generator.step()
    return loss


def watched(net: Any, batches: list[Batch], optimizer: Any, step: Step, steps: int = 90, *, loss: Any = None, **more: Any) -> Setup:
    """A loop of the user's own: ``step(i, batch)`` trains and gives the loss that is recorded."""

    def loop(watch: Any) -> None:
        for i, batch in enumerate(cycle(batches, steps)):
            watch.record(loss=step(i, batch))

    return Setup(net, batches, loss, optimizer, more, loop=loop)


def stepped(seed: int, net: Any, data: tuple[Tensor, Tensor], optimizer: Any, step: Step, steps: int = 80, size: int = 32) -> Setup:
    """The same over batches of a table."""
    return watched(net, rows(*data, size, seed), optimizer, step, steps, loss=ce)


def steps(
    data: Data,
    loss: Loss,
    count: int = 150,
    *,
    clear: str = "first",
    schedule: Callable[[Any], Any] | None = None,
    clip: Callable[[Any], Any] | None = None,
    accumulate: int = 1,
    step: bool = True,
    before: Callable[[Any, int], Any] | None = None,
    after: Callable[[Any, int], Any] | None = None,
) -> Body:
    """The loop that everybody writes; ``clear`` is where it clears the gradients: first, after (the backward pass), never."""

    def body(model: Any, optimizer: Any, seed: int, watch: Any) -> None:
        source, scheduler = cycle(data(seed), count * accumulate), schedule(optimizer) if schedule else None
        for i in range(count):
            if before:
                before(model, i)
            if clear == "first":
                optimizer.zero_grad()
            for _ in range(accumulate):
                value = loss(model, next(source)) / accumulate
                watch.record(loss=value)
                value.backward()
            if clear == "after":
                optimizer.zero_grad()
            if clip:
                clip(model.parameters())
            if step:
                optimizer.step()
            if scheduler:
                scheduler.step()
            if after:
                after(model, i)

    return body


def trained(net: Net, data: Data, loss: Any, count: int = 200, lr: float = 3e-3) -> Any:
    """The net after plain training."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for batch in cycle(data(7), count):
        descend(model, optimizer, batch, loss)
    return model
