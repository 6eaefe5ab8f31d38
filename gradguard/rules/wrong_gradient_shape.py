"""GG112."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, the
from gradguard.rules.base import Rule
from gradguard.rules.places import place_of, where_of

__all__ = ["WrongGradientShape"]


@dataclass(frozen=True, kw_only=True)
class WrongGradientShape(Rule):
    """A custom backward returns a gradient of another shape or dtype than its argument, too few of them, or raises.

    What it does:
        Looks at what every custom function's backward returns before the engine broadcasts, sums or casts it, and at the
        exception where it raises.

    Why is this bad:
        The engine sums what it can, in silence: a bias gradient of shape (B, n) becomes right by accident, one that is
        broadcast becomes wrong by a factor, and the same kernel called without the engine fails.

    What to do:
        Reduce over the axes along which the argument was broadcast, and return one gradient per argument of forward.

    When it is healthy:
        A gradient of another dtype, which the engine casts, is a warning.

    Options:
        None.
    """

    code: ClassVar[str] = "GG112"
    slug: ClassVar[str] = "wrong-gradient-shape"
    needs: ClassVar[tuple[str, ...]] = ("backwards",)
    optional: ClassVar[tuple[str, ...]] = ("determinism",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per function and argument."""
        facts = the(evidence, BackwardPasses).facts
        return self.outcome([self._of(f) for f in facts.faults if f.kind in ("shape", "dtype", "raised")])

    def _of(self, fault: Fault) -> Finding:
        columns: dict[str, Any] = {
            "block": fault.block, "module": fault.module, "location": where_of(fault), "evidence": fault.detail,
        }
        if fault.kind == "raised":
            return self.finding(
                f"{place_of(fault)}: backward raises {fault.detail}", **columns, pattern="backward raises",
                hint="run loss.backward() on the same inputs to see the traceback",
            )
        if fault.kind == "dtype":
            return self.finding(
                f"{place_of(fault)}: {fault.detail}", severity="warning", **columns,
                likely="backward computes in another dtype than its argument's", hint="return gradient.to(argument.dtype)",
            )
        return self.finding(
            f"{place_of(fault)}: {fault.detail}", **columns, pattern="sum missing over batch or broadcast dimension",
            likely="the sum over the batch, or over the axes along which the argument was broadcast, is missing",
            hint="reduce it in backward; the engine's own reduction hides it",
        )
