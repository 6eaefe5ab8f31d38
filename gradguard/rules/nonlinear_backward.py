"""GG106."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, the
from gradguard.rules.base import Rule
from gradguard.rules.places import place_of, where_of

__all__ = ["NonlinearBackward"]


@dataclass(frozen=True, kw_only=True)
class NonlinearBackward(Rule):
    """A backward is not linear in the cotangent.

    What it does:
        Runs backward again on one forward pass' graph with the cotangent g negated, multiplied by large and small powers of
        two (exact in floating point), by zero, and added to another one; custom functions are asked one by one, on the
        cotangent that reaches them. With several outputs, each is also used alone: the gradients must add up.

    Why is this bad:
        A vector-Jacobian product is linear in its vector, whatever the function. A backward that takes ``abs`` of g, clamps
        it, drops small entries or forgets to multiply a term by it is right for the test's loss and wrong for the next.

    What to do:
        Multiply every term that backward returns by g, once. Clip gradients between backward and the optimizer's step.

    When it is healthy:
        Clipping, sign or thresholds in backward on purpose (gradient clipping layers): ignore the block, with the reason.

    Options:
        None. Powers of two are exact; the limit for sums is measured from the rounding of the same backward.
    """

    code: ClassVar[str] = "GG106"
    slug: ClassVar[str] = "nonlinear-backward"
    needs: ClassVar[tuple[str, ...]] = ("backwards",)
    optional: ClassVar[tuple[str, ...]] = ("determinism",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per function (or per model, where no function is to blame)."""
        facts = the(evidence, BackwardPasses).facts
        faults = [f for f in facts.faults if f.kind == "linearity"]
        places = list(dict.fromkeys((f.function, f.module) for f in faults))
        findings = [self._of([f for f in faults if (f.function, f.module) == place]) for place in places]
        if not findings and "linearity" in facts.skipped:
            return Outcome(status="skipped", reason=facts.skipped["linearity"])
        return self.outcome(findings)

    def _of(self, faults: list[Fault]) -> Finding:
        first = max(faults, key=lambda f: f.size)
        what = {f.what for f in faults}
        return self.finding(
            f"{place_of(first)}: backward is not linear in the cotangent: for {first.what} it is off by {first.size:.3g} "
            "of its largest entry",
            block=first.block, module=first.module, location=where_of(first), observed=first.size, limit=first.limit,
            pattern=_pattern(what), likely=_likely(what),
            evidence="; ".join(f.detail or f"{f.what}: off by {f.size:.2g} (limit {f.limit:.1g})" for f in faults),
            hint="multiply every returned term by g, once; clip between backward and the optimizer's step",
        )


def _pattern(what: set[str]) -> str:
    if "g = 0" in what:
        return "a term without the cotangent"
    if what == {"one output at a time"}:
        return "only where some outputs are not used"
    if what == {"-g"}:
        return "the sign of the cotangent is lost"
    if what == {"g + h"}:
        return "additive only where one cotangent is alone"
    large = any(w.startswith("2^") and not w.startswith("2^-") for w in what)
    small = any(w.startswith("2^-") for w in what)
    if large and small:
        return "the cotangent's size is lost"
    return "only for large cotangents" if large else "only for small cotangents" if small else ""


def _likely(what: set[str]) -> str:
    if "g = 0" in what:
        return "backward returns the derivative itself (d instead of g * d), or adds a term that is not multiplied by g"
    return {
        "only where some outputs are not used": "backward returns early, or nothing, where the cotangent of one output is None",
        "the sign of the cotangent is lost": "abs(grad_output) or grad_output ** 2 in backward",
        "additive only where one cotangent is alone": "a maximum, a norm or a comparison of entries of grad_output in backward",
        "only for large cotangents": "grad_output is clamped in backward",
        "only for small cotangents": "small entries of grad_output are dropped in backward",
        "the cotangent's size is lost": "grad_output is normalised, or only its sign is used, in backward",
    }.get(_pattern(what), "")
