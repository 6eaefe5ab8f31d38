"""GG108."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome, Severity
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, the
from gradguard.rules.base import Rule
from gradguard.rules.places import place_of, where_of

__all__ = ["MutatedInput"]


@dataclass(frozen=True, kw_only=True)
class MutatedInput(Rule):
    """Forward or backward writes into inputs, parameters, the cotangent, or tensors saved for backward.

    What it does:
        Compares inputs and parameters with what they were after a forward pass, and, around every custom function's
        backward, its grad_output and saved tensors. Runs backward twice on one graph: the second must equal the first.

    Why is this bad:
        The next use of that memory (another branch, a second backward, the next epoch) reads something else.

    What to do:
        Work on a copy, or write into a fresh tensor. In backward never write into grad_output or ``ctx.saved_tensors``.

    When it is healthy:
        A write that changes no result when the call is repeated (``ReLU(inplace=True)`` on the input, an embedding's
        ``max_norm``) is a warning. A scenario's loss may write into its batch, which a loop makes anew each time; what a
        module's forward writes into is told.

    Options:
        None.
    """

    code: ClassVar[str] = "GG108"
    slug: ClassVar[str] = "mutated-input"
    needs: ClassVar[tuple[str, ...]] = ("backwards",)
    optional: ClassVar[tuple[str, ...]] = ("determinism",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per thing that was written into."""
        facts = the(evidence, BackwardPasses).facts
        return self.outcome([self._of(f) for f in facts.faults if f.kind in ("write", "second", "overwritten")])

    def _of(self, fault: Fault) -> Finding:
        severity: Severity = "warning" if fault.harmless else "error"
        columns: dict[str, Any] = {
            "block": fault.block, "module": fault.module, "location": where_of(fault), "evidence": fault.detail,
        }
        if fault.kind == "overwritten":
            return self.finding(
                "forward writes into a tensor that was saved for backward: backward raises", severity="error", **columns,
                likely="an in-place operation (+=, mul_, relu_) on an activation that another operation needs",
                hint="torch.autograd.set_detect_anomaly(True) names the operation; write into a new tensor",
            )
        if fault.kind == "second":
            return self.finding(
                f"{place_of(fault)}: a second backward on the same graph gives another gradient, off by {fault.size:.3g} "
                "of its largest entry", severity="error", **columns, observed=fault.size, limit=fault.limit,
                pattern="only in the second backward", likely="backward writes into what forward kept for it",
                hint="write into a fresh tensor",
            )
        if fault.function:
            return self.finding(
                f"{place_of(fault)}: backward writes into its {fault.what}", severity="error", **columns,
                likely="an in-place operation in backward (mul_, a kernel that reuses memory)",
                hint="others still read this memory: write into a fresh tensor",
            )
        return self.finding(
            f"{fault.what} is written into", severity=severity, **columns, observed=fault.size, limit=fault.limit,
            likely="an in-place operation (+=, mul_, clamp_) on the argument itself",
            hint="the caller's data is changed: work on a copy",
        )
