"""GG107."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.layouts import Layouts
from gradguard.rules.base import Rule
from gradguard.rules.places import place_of, where_of

__all__ = ["LayoutDependentGradient"]


@dataclass(frozen=True, kw_only=True)
class LayoutDependentGradient(Rule):
    """The gradient (or the value) changes with the strides of an input or of the cotangent.

    What it does:
        Gives backward the same cotangent expanded from one number (as ``sum().backward()`` makes it) and in another memory
        order, and the model the same inputs in another memory order (channels last in 4-D), and compares.

    Why is this bad:
        A kernel that reads memory as if it were contiguous is right in its own test and wrong behind a transposition, a
        slice or a ``sum``.

    What to do:
        Call ``.contiguous()`` on grad_output and on the inputs before handing their memory to a kernel, or use the strides.

    When it is healthy:
        A function that refuses a layout aloud (it raises) is reported as a warning: nothing wrong is returned.

    Options:
        None. The limit is measured from the rounding of the same backward.
    """

    code: ClassVar[str] = "GG107"
    slug: ClassVar[str] = "layout-dependent-gradient"
    needs: ClassVar[tuple[str, ...]] = ("backwards",)
    optional: ClassVar[tuple[str, ...]] = ("layouts", "determinism")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per function and layout."""
        facts = the(evidence, BackwardPasses).facts
        layouts = the(evidence, Layouts)
        faults = [f for f in facts.faults if f.kind in ("layout", "refused")]
        faults += layouts.faults if layouts is not None else ()
        kept: dict[tuple[str, str, str], Fault] = {}
        for fault in faults:
            key = (fault.kind, fault.function or fault.block, fault.module)
            if key not in kept or fault.size > kept[key].size:
                kept[key] = fault
        findings = [self._of(fault) for fault in kept.values()]
        inputs = layouts.reason if layouts is not None else "inputs were not compared"
        reason = "; ".join(dict.fromkeys(part for part in (facts.skipped.get("layout", ""), inputs) if part))
        if not findings and inputs and "layout" in facts.skipped:
            return Outcome(status="skipped", reason=reason)
        return self.outcome(findings, reason=reason)

    def _of(self, fault: Fault) -> Finding:
        if fault.kind == "refused" and fault.what not in ("expanded", "transposed"):
            return self.finding(
                f"{place_of(fault)}: inputs {fault.what} are refused", severity="warning", module=fault.module,
                location=where_of(fault), evidence=fault.detail, hint="call .contiguous() on the inputs, or use reshape",
            )
        if fault.kind == "refused":
            return self.finding(
                f"{place_of(fault)}: backward raises for a cotangent that is {fault.what}", severity="warning",
                block=fault.block, module=fault.module, location=where_of(fault), evidence=fault.detail,
                likely="view instead of reshape, or an assertion that grad_output is contiguous",
                hint="autograd promises no layout of grad_output: call .contiguous() or .reshape()",
            )
        whose = "cotangent" if fault.what in ("expanded", "transposed") else "input"
        if whose == "cotangent":
            pattern = "only with a non-contiguous cotangent"
        elif fault.what == "contiguous":  # the user's own input has another layout: that one is the suspect
            pattern = "only with inputs in the layout that they have; contiguous ones give another gradient"
        else:
            pattern = f"only with inputs {fault.what}"
        return self.finding(
            f"{place_of(fault)}: the same {whose} {fault.what} gives another "
            f"{'value' if 'value' in fault.detail else 'gradient'}, off by {fault.size:.3g} of its largest entry",
            block=fault.block, module=fault.module, location=where_of(fault), observed=fault.size, limit=fault.limit,
            pattern=pattern,
            evidence=fault.detail or f"off by {fault.size:.2g} (limit {fault.limit:.1g})",
            likely=f"the memory of the {whose} is read as if it were contiguous",
            hint="call .contiguous() before memory is read, or use the strides",
        )
