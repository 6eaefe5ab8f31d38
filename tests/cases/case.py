"""One row of a corpus: a name, and what to pass to ``check_gradients``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Case", "Checked", "seeded"]


@dataclass(frozen=True)
class Checked:
    """The arguments of one call of ``check_gradients``."""

    f: Any
    inputs: Any
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A row: the arguments are made when they are needed, from the row's own seed."""

    name: str
    make: Callable[[], Checked]
    seed: int = 0

    def arguments(self) -> Checked:
        return seeded(self.make, self.seed)


def seeded(make: Callable[[], Any], seed: int) -> Any:
    """What ``make`` returns with torch seeded; the random state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
