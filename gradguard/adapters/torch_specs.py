"""A scenario for a torch model of which only the input's shape is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradguard.errors import UsageError
from gradguard.scenarios import Scenario

__all__ = ["scenario_of_model"]


def scenario_of_model(factory: Callable[[], Any], shape: tuple[int, ...], seed: int) -> Scenario:
    """A model from its factory, one batch of standard normal inputs, and a fixed random projection as its loss.

    The projection is signed and has the size of a mean, so that every output matters and no sum over the batch drowns the
    rest. The random state of the process is left as it was.

    Raises:
        UsageError: the factory does not make a module, or its output holds no floating-point tensor.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory()
        inputs = torch.randn(shape)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"the model spec's factory made a {type(model).__name__}, not a torch module")

    def loss(model: Any, batch: Tensor) -> Tensor:
        outputs = [leaf for leaf in _leaves(model(batch)) if leaf.is_floating_point()]
        if not outputs:
            raise UsageError("the model's output holds no floating-point tensor")
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros((), dtype=outputs[0].dtype, device=outputs[0].device)
        for output in outputs:
            weights = torch.randn(output.shape, generator=generator).to(output)
            total = total + (weights * output).mean()
        return total

    return Scenario(model=model, batches=[inputs], loss=loss)


def _leaves(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _leaves(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _leaves(value)
