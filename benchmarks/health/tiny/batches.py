"""What a tiny model is made of: a class of transformers with its settings, batches, and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["CLASSES", "Tiny", "V", "audio", "classes", "denoised", "ids", "labelled", "language", "pairs", "pictures", "tokens"]

V, N, T, CLASSES = 99, 4, 16, 3
"""Vocabulary, samples, positions and classes."""


def out_loss(model: Any, batch: Any) -> Any:
    return model(**batch).loss


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A class of transformers by its name, its settings, one batch, and the loss."""

    name: str
    settings: dict[str, Any]
    batch: Callable[[], Any]
    loss: Callable[[Any, Any], Any] = field(default=out_loss)

    def model(self) -> Any:
        """The model as its own initialisation leaves it."""
        import transformers

        kind = getattr(transformers, self.name)
        return kind(kind.config_class(**self.settings))


def ids() -> torch.Tensor:
    """Token numbers, shape (N, T); the first two are kept for special tokens."""
    return torch.randint(2, V, (N, T))


def labelled() -> torch.Tensor:
    return torch.randint(0, CLASSES, (N,))


def tokens() -> dict[str, Any]:
    """Text and one class for each sample."""
    return {"input_ids": ids(), "labels": labelled()}


def language() -> dict[str, Any]:
    """Text that is its own label."""
    text = ids()
    return {"input_ids": text, "labels": text}


def denoised() -> dict[str, Any]:
    """Text of which some tokens are hidden: only they are labels."""
    text = ids()
    hidden = torch.rand(N, T) < 0.3
    hidden[:, 0] = True
    return {"input_ids": text.masked_fill(hidden, 1), "labels": text.masked_fill(~hidden, -100)}


def pairs() -> dict[str, Any]:
    """A text and another that it is turned into."""
    return {"input_ids": ids(), "labels": torch.randint(2, V, (N, T // 2))}


def pictures(size: int = 32, channels: int = 3) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(N, channels, size, size)


def classes(size: int = 32) -> Callable[[], dict[str, Any]]:
    """Pictures with one class each."""
    return lambda: {"pixel_values": pictures(size)(), "labels": labelled()}


def audio(length: int = 1000) -> Callable[[], dict[str, Any]]:
    """Sound with one class for each sample."""
    return lambda: {"input_values": torch.randn(N, length), "labels": labelled()}
