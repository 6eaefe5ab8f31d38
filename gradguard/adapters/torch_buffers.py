"""Buffers of a model, put back after a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["kept_buffers"]


@contextmanager
def kept_buffers(model: torch.nn.Module) -> Iterator[None]:
    """Buffers (running statistics) restored afterwards."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if buffer.shape == value.shape:
                    buffer.copy_(value)
