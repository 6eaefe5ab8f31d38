"""What is the user's, and is as it was afterwards: random states, gradients, buffers, modes; and names without wrappers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["clean", "preserved_generators", "preserved_rng", "untouched"]


def clean(name: str) -> str:
    """A parameter's or module's name without what torch.compile and data-parallel wrappers add to it."""
    return ".".join(part for part in name.removeprefix("module.").split(".") if part != "_orig_mod")


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Every global random state restored afterwards; seeded inside, where a seed is given."""
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def preserved_generators(batches: Any) -> Iterator[None]:
    """The generators of a DataLoader, its sampler and its batch sampler, restored afterwards."""
    held = []
    for owner in (
        batches,
        getattr(batches, "sampler", None),
        getattr(getattr(batches, "batch_sampler", None), "sampler", None),
    ):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            held.append((generator, generator.get_state()))
    try:
        yield
    finally:
        for generator, state in held:
            generator.set_state(state)


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """``.grad``, buffers and training flags of the user's model restored afterwards, whatever the loss reaches."""
    grads = [(p, p.grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if buffer.shape == value.shape and not torch.equal(buffer, value):
                    buffer.copy_(value)
