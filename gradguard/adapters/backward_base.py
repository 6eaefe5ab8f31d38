"""What an adapter offers to the checks that need no differences: what a backward pass does besides returning a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from gradguard.adapters.base import Differentiable

__all__ = ["BackwardFacts", "Backwards", "Fault", "Relayable", "TwiceDifferentiable", "TwoModed"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that a backward (or a forward) does and must not do.

    ``kind``: ``linearity``, ``layout``, ``write``, ``second``, ``shape``, ``dtype``, ``raised`` or ``refused``. ``what``: the
    experiment that showed it, or what was written into. ``function`` is the custom autograd function, ``module`` the
    path of the module that called it, ``location`` the line of the call, ``block`` the parameter or input concerned.
    ``size`` and ``limit`` are differences relative to the block's largest entry. ``detail`` says more, in one line.
    """

    kind: str
    what: str
    function: str = ""
    module: str = ""
    location: str = ""
    block: str = ""
    size: float = float("nan")
    limit: float = float("nan")
    detail: str = ""
    harmless: bool = False
    """It changes no result: a write that leaves the value of a second call as it was, a layout that is refused aloud."""


@dataclass(frozen=True, kw_only=True)
class BackwardFacts:
    """The faults that were found, the custom functions that were looked at, and what could not be tried."""

    faults: tuple[Fault, ...] = ()
    functions: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    skipped: dict[str, str]
    """What could not be tried, and why: by kind."""


@runtime_checkable
class Backwards(Protocol):
    """A problem whose backward can be run again with other cotangents and in other layouts."""

    def backward_facts(self, *, writes_only: bool = False) -> BackwardFacts:
        """Experiments on one forward pass' graph: the cotangent scaled, negated, added to, expanded and transposed.

        ``writes_only``: no experiments, only what forward (in NumPy also the backward) writes into.
        """
        ...


@runtime_checkable
class Relayable(Protocol):
    """A problem whose inputs can be given in another memory order."""

    def layout_faults(self) -> tuple[tuple[Fault, ...], str]:
        """What changes when every input comes in another memory order; and what could not be tried."""
        ...


@runtime_checkable
class TwiceDifferentiable(Protocol):
    """A problem whose gradient has a gradient."""

    def second_order(self) -> Differentiable | str:
        """The problem whose value is <w, gradient> for a fixed random w; or why there is none."""
        ...


@runtime_checkable
class TwoModed(Protocol):
    """A problem in which functions may define forward mode, too."""

    def forward_mode_faults(self) -> tuple[tuple[Fault, ...], int, str]:
        """The functions whose two modes disagree, how many were compared, and why the others were not."""
        ...
