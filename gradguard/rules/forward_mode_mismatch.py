"""GG110."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.forward_mode import ForwardMode
from gradguard.rules.base import Rule
from gradguard.rules.places import place_of, where_of

__all__ = ["ForwardModeMismatch"]


@dataclass(frozen=True, kw_only=True)
class ForwardModeMismatch(Rule):
    """A custom function's ``jvp`` and ``backward`` are derivatives of different functions.

    What it does:
        For every custom function that defines both, compares <J u, v> (forward mode) with <u, J' v> (reverse mode) for random
        u and v, on the arguments that it had in the model. They are equal to rounding; no differences are taken.

    Why is this bad:
        Whoever uses the other mode (Hessian-vector products, ``torch.func.jvp``) gets another derivative. One is wrong.

    What to do:
        GG101 says whether backward is the wrong one; if it passes, jvp is.

    When it is healthy:
        Never. Functions without ``jvp`` are skipped.

    Options:
        None. The limit is rounding, relative to the magnitudes of the products.
    """

    code: ClassVar[str] = "GG110"
    slug: ClassVar[str] = "forward-mode-mismatch"
    needs: ClassVar[tuple[str, ...]] = ("forward_mode",)
    optional: ClassVar[tuple[str, ...]] = ("backwards",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per function and module."""
        found = the(evidence, ForwardMode)
        margins = [f.size / f.limit for f in found.faults]
        return self.outcome([self._of(f) for f in found.faults], margin=max(margins, default=None), reason=found.reason)

    def _of(self, fault: Fault) -> Finding:
        return self.finding(
            f"{place_of(fault)}: jvp and backward disagree, by {fault.size:.3g} of the products' size",
            block=fault.block, module=fault.module, location=where_of(fault), observed=fault.size, limit=fault.limit,
            evidence=fault.detail, likely="a factor or a term that one of the two lacks",
            hint="if GG101 passes, backward is right and jvp is wrong",
        )
