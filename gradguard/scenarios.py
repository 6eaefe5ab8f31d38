"""A scenario: a model with its data, its loss and its optimizer; and the ignores that come with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from gradguard.errors import UsageError

__all__ = ["SGD", "Ignore", "Scenario", "ScenarioFunction", "scenario"]

Objective = Literal["supervised", "adversarial", "reinforcement", "metric"]
OBJECTIVES: tuple[Objective, ...] = ("supervised", "adversarial", "reinforcement", "metric")


@dataclass(frozen=True)
class Ignore:
    """Accepts what one rule says of the blocks (or modules) that a glob matches, for a reason.

    ``gg.Ignore("GG101", block="enc.*", reason="straight-through on purpose")``; on the command line
    ``GG101:enc.*=straight-through on purpose``.
    """

    rule: str
    block: str = "*"
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.rule, str) or not self.rule:
            raise UsageError(f"Ignore takes a rule's code, got {self.rule!r}", todo="for example Ignore('GG101', reason='...')")
        if not isinstance(self.reason, str) or not self.reason.strip():
            raise UsageError(
                f"the ignore of {self.rule} for block {self.block!r} has no reason",
                todo=f"say why: gg.Ignore({self.rule!r}, block={self.block!r}, reason='...')",
            )

    @classmethod
    def parse(cls, text: str) -> Ignore:
        """An ignore from ``CODE:glob=reason`` or ``CODE=reason``; a reason is mandatory.

        Raises:
            UsageError: the text is not of that form.
        """
        head, equals, reason = text.partition("=")
        rule, _, block = head.partition(":")
        if not equals or not reason.strip() or not rule.strip():
            raise UsageError(
                f"cannot read the ignore {text!r}", todo="write CODE:glob=reason, for example GG101:enc.*=known, issue 12"
            )
        return cls(rule.strip(), block=block.strip() or "*", reason=reason.strip())


@dataclass(frozen=True)
class SGD:
    """Gradient descent for NumPy models: ``v = momentum * v + g``, ``w = w - lr * v``."""

    lr: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr >= 0:
            raise UsageError(f"SGD takes a learning rate of at least 0, got {self.lr!r}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"SGD takes a momentum in [0, 1), got {self.momentum!r}")


@dataclass(frozen=True)
class Scenario:
    """What a check needs to know: a model, batches, and ``loss(model, batch) -> scalar``.

    A batch is whatever the loss takes. ``batches`` is read again where it can be, else once. ``optimizer`` is a torch
    optimizer over the model's parameters, a callable that makes one from parameters, or ``gg.SGD`` for a NumPy model,
    whose ``model`` is a (nested) dict of arrays that ``grad(model, batch)`` mirrors. ``outputs(model, batch)`` and
    ``labels(batch)`` serve the rules on heads and labels. ``causal`` and ``independent_samples`` are declarations:
    what is not declared and cannot be known is skipped with its reason, never guessed. So is ``padding(batch)``, a mask
    (samples, positions) that is True where a position is padding: the loss may not depend on what is there.
    """

    model: Any
    batches: Iterable[Any]
    loss: Callable[[Any, Any], Any]
    optimizer: Any = field(default=None, kw_only=True)
    grad: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    activations: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    outputs: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    labels: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    wrt: Sequence[str] | str | None = field(default=None, kw_only=True)
    padding: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    causal: bool | None = field(default=None, kw_only=True)
    independent_samples: bool | None = field(default=None, kw_only=True)
    objective: Objective = field(default="supervised", kw_only=True)
    ignore: tuple[Ignore, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise UsageError(
                f"Scenario(loss=...) takes a function loss(model, batch) -> scalar, got {type(self.loss).__name__}"
            )
        for name in ("grad", "activations", "outputs", "labels", "padding"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise UsageError(f"Scenario({name}=...) takes a function, got {type(given).__name__}")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"Scenario(objective={self.objective!r}) is unknown", todo=f"one of {', '.join(OBJECTIVES)}")
        object.__setattr__(self, "ignore", as_ignores(self.ignore))


def as_ignores(ignore: Any) -> tuple[Ignore, ...]:
    """Ignores from one of them, a text of the command line's form, or a sequence of either.

    Raises:
        UsageError: one of them is neither, or has no reason.
    """
    if isinstance(ignore, Ignore | str):
        ignore = (ignore,)
    result = []
    for one in ignore:
        if isinstance(one, str):
            one = Ignore.parse(one)
        if not isinstance(one, Ignore):
            raise UsageError(
                f"ignore takes gg.Ignore objects, got {one!r}", todo="gg.Ignore('GG101', block='enc.*', reason='...')"
            )
        result.append(one)
    return tuple(result)


class ScenarioFunction:
    """A function that builds a scenario, marked so that pytest and ``gradguard report`` find it."""

    def __init__(self, function: Callable[..., Scenario], name: str) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Scenario:
        built = self.function(*args, **kwargs)
        if not isinstance(built, Scenario):
            raise UsageError(
                f"scenario {self.name!r} returned {type(built).__name__}, not a gg.Scenario",
                where=f"{self.function.__module__}.{self.function.__qualname__}",
                todo="return gg.Scenario(model=..., batches=..., loss=...)",
            )
        return built


F = TypeVar("F", bound=Callable[..., Scenario])


@overload
def scenario(function: F, /) -> ScenarioFunction: ...
@overload
def scenario(*, name: str | None = None) -> Callable[[F], ScenarioFunction]: ...


def scenario(function: Any = None, /, *, name: str | None = None) -> Any:
    """Mark a function that returns a :class:`Scenario`, so that pytest and ``gradguard report`` find it.

    Raises:
        UsageError: what is decorated is not a function.
    """

    def mark(decorated: Any) -> ScenarioFunction:
        if not callable(decorated):
            raise UsageError(f"@gg.scenario decorates a function that returns a gg.Scenario, got {type(decorated).__name__}")
        return ScenarioFunction(decorated, name or str(getattr(decorated, "__name__", "scenario")))

    return mark if function is None else mark(function)
