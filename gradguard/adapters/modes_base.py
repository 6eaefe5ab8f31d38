"""In which mode, train or eval, a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["ModeFacts", "ModeObservable"]


@dataclass(frozen=True, kw_only=True)
class ModeFacts:
    """The root module's mode, step by step, and what depends on it.

    ``train`` and ``eval`` count the steps seen in each mode; ``tail`` the last ones without a break that were in eval mode;
    ``switch`` is the step with which these begin. ``validated``: between the last step in train mode and them the model was
    called without gradients in eval mode. ``dependent`` are modules that act differently in the two modes, ``dropout`` those
    of them that drop values at random; ``model`` is its name where several are watched; ``difference`` is how much the loss
    changes with the mode, relative (None where it was not tried).
    """

    train: int = 0
    eval: int = 0
    tail: int = 0
    switch: int | None = None
    validated: bool = False
    dependent: tuple[str, ...] = ()
    dropout: tuple[str, ...] = ()
    difference: float | None = None
    model: str = ""
    source: str = "copy"

    @property
    def matters(self) -> bool:
        """The mode changes what the model computes."""
        return self.difference > 1e-6 if self.difference is not None else bool(self.dependent)


@runtime_checkable
class ModeObservable(Protocol):
    """A problem that can be asked in which mode it is trained."""

    def modes(self, *, seed: int = 0) -> ModeFacts:
        """The mode in two calls of the loss, and how much the loss depends on it."""
        ...
