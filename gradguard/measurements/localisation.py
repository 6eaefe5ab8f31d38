"""Where a gradient is wrong: module, block, entries, pattern. Only after a mismatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.base import Problem, Settings
from gradguard.measurements.base import Evidence, Measurement

__all__ = ["Localisation", "Place", "measure"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is known of one wrong block, or of a module that returns a wrong input gradient."""

    block: str
    module: str = ""
    location: str = ""
    entry: str = ""
    analytical: float = float("nan")
    numerical: float = float("nan")
    error_bar: float = float("nan")
    z: float = float("nan")
    extent: str = ""
    count: int | None = None
    pattern: str = ""
    likely: str = ""
    evidence: str = ""
    guilty: bool = False


@dataclass(frozen=True, kw_only=True)
class Localisation(Measurement):
    """The places; ``inputs`` are modules whose parameters are right and whose input gradient is wrong."""

    name: ClassVar[str] = "localisation"
    places: tuple[Place, ...] = ()
    inputs: tuple[Place, ...] = ()
    downstream: tuple[str, ...] = ()

    def of(self, block: str) -> Place | None:
        """What is known of a block."""
        return next((p for p in self.places if p.block == block), None)

    def carried(self, block: str) -> bool:
        """Whether the block's own module is right, and it only carries another's error."""
        return block in self.downstream


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``localisation``, about the wrong blocks."""
    return Localisation()
