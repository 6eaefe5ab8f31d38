"""What a held-out program is, and the lists of a draw: by decorated builders, or by rows put together from parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Batch = tuple[Any, ...]
Net = Callable[[], Any]
Data = Callable[[int], list[Batch]]
Loss = Callable[[Any, Batch], Tensor]
Body = Callable[[Any, Any, int, Any], None]


@dataclass
class Setup:
    """What ``check_training`` takes; or ``loop``, a user's own loop that is given ``gg.watch``."""

    model: Any
    batches: Any = None
    loss: Any = None
    optimizer: Any = None
    more: dict[str, Any] = field(default_factory=dict)
    loop: Callable[[Any], None] | None = None
    way: str = "training"  # "audit": the gradient rules belong to the question
    steps: int = 20


@dataclass(frozen=True)
class Program:
    """One program of a draw; ``codes`` are the acceptable first codes, empty where the program is healthy."""

    name: str
    build: Callable[[int], Setup]
    codes: frozenset[str]
    note: str


class Draw:
    """A list of programs; used as a decorator on their builders."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def __call__(self, *codes: str) -> Callable[[Callable[[int], Setup]], Callable[[int], Setup]]:
        def add(build: Callable[[int], Setup]) -> Callable[[int], Setup]:
            self.programs.append(Program(build.__name__, build, frozenset(codes), (build.__doc__ or "").strip()))
            return build

        return add


class Table:
    """The rows of a draw."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def case(self, name: str, codes: str, net: Net, data: Data, loss: Loss, optimizer: Any = None, *, steps: int = 20, **more: Any) -> None:
        """A program for ``check_training`` and ``audit``; ``codes`` are the acceptable first codes, separated by blanks."""

        def build(seed: int) -> Setup:
            return Setup(net(), data(seed), loss, optimizer, more=more, steps=steps)

        self.programs.append(Program(name.replace(" ", "_"), build, frozenset(codes.split()), name))

    def loop(self, name: str, codes: str, net: Net, body: Body, optimizer: Callable[[Any], Any], *, holds: Callable[[Any], Any] | None = None, **more: Any) -> None:
        """A program for ``watch``: ``body(model, optimizer, seed, watch)`` is the user's own loop; ``holds(model)`` goes to the optimizer."""

        def build(seed: int) -> Setup:
            model = net()
            chosen = optimizer(holds(model) if holds else model.parameters())
            return Setup(model, optimizer=chosen, loop=lambda watch: body(model, chosen, seed, watch), more=more)

        self.programs.append(Program(name.replace(" ", "_"), build, frozenset(codes.split()), name))


class HealthyTable:
    """The rows of a draw of healthy programs: as in ``Table``, without codes."""

    def __init__(self) -> None:
        self._table = Table()
        self.programs = self._table.programs

    def case(self, name: str, net: Any, data: Data, loss: Any, optimizer: Any, **more: Any) -> None:
        self._table.case(name, "", net, data, loss, optimizer, **more)

    def loop(self, name: str, net: Any, body: Any, optimizer: Any, **more: Any) -> None:
        self._table.loop(name, "", net, body, optimizer, **more)
