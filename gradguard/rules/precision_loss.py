"""GG111."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gradguard.adapters.precision_base import PLAIN, BlockPrecision, PrecisionFacts
from gradguard.blocks import entry_name
from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.precision import Precision
from gradguard.rules.base import Rule

__all__ = ["PrecisionLoss"]


@dataclass(frozen=True, kw_only=True)
class PrecisionLoss(Rule):
    """The low-precision gradient is further from float64 than rounding explains.

    What it does:
        Runs forward and backward once more in the user's own precision (float32, bfloat16, float16, autocast) and compares
        each block's gradient with the lifted one. An error that is large is compared with that of the lifted model with
        every operation's result rounded, and what is left with that of kernels that lose nothing but the rounding of their
        results: an error that only the framework's own kernels make is an info. The rest is looked at again at points nearby.
        With ``reference=``, the yardstick is the error of that plain implementation in the same precision.

    Why is this bad:
        The logic is right and the kernel is not: it overflows, cancels, or accumulates in too few bits. Training in that
        precision follows another gradient, or NaN.

    What to do:
        Keep sums, exponentials and normalisations in float32 inside the kernel; use the stable form of the formula.

    When it is healthy:
        A gradient that is nothing but rounding (a bias before a normalisation) is as far off when it is rounded faithfully,
        and passes.

    Options:
        roundings: an error counts above this many times what rounding explains. worse: and with a reference, above this many
        times its error.
    """

    code: ClassVar[str] = "GG111"
    slug: ClassVar[str] = "precision-loss"
    needs: ClassVar[tuple[str, ...]] = ("precision",)
    optional: ClassVar[tuple[str, ...]] = ("determinism",)

    roundings: float = 10.0
    worse: float = 4.0

    def __post_init__(self) -> None:
        if not self.roundings > 0 or not self.worse > 0:
            raise UsageError(f"GG111: roundings and worse must be positive, got {self.roundings:g} and {self.worse:g}")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block whose native gradient is lost, or one where the value itself is."""
        facts = the(evidence, Precision).facts
        if facts.drawn:
            return Outcome(status="skipped", reason="random numbers come out differently in float64: nothing to compare with")
        if facts.value_nonfinite:
            finding = self.finding(
                f"the value is NaN or infinite in {facts.dtype} ({facts.value_nonfinite} entries), and finite in float64",
                observed=float(facts.value_nonfinite), limit=0.0, pattern="only in low precision",
                likely="an exponential, a square or a sum that leaves the range of the precision", evidence="one pass in each",
            )
            return self.outcome([finding])
        found = [self._of(block, facts) for block in facts.blocks]
        margins = [b.error / self._limit(b, facts.dtype) for b in facts.blocks if b.size > 0]
        margin = max((m for m in margins if m == m), default=None)
        return self.outcome([f for f in found if f is not None], margin=margin)

    def _limit(self, block: BlockPrecision, dtype: str) -> float:
        if block.reference is not None:
            return max(self.worse * block.reference, 4 * EPSILON[dtype] * block.size)
        explained = self.roundings * block.rounding if block.rounding == block.rounding else 0.0
        return max(PLAIN[dtype] * block.size, explained)

    def _of(self, b: BlockPrecision, facts: PrecisionFacts) -> Finding | None:
        columns: dict[str, Any] = {
            "block": b.block, "module": b.module, "pattern": "only in low precision", "location": f"block {b.block} {b.shape}",
        }
        if b.nonfinite:
            return self.finding(
                **columns,
                message=f"{entry_name(b.block, b.shape, b.first)}: NaN or infinite in {facts.dtype}, {b.nonfinite} entries of "
                f"{b.block}, and finite in float64",
                observed=float(b.nonfinite), limit=0.0, count=b.nonfinite,
                likely="exp, a square or a division in backward leaves the range of the precision (exp(x) / (1 + exp(x)))",
                hint="use the stable form, or compute this part in float32", evidence="one backward pass in each precision",
            )
        limit = self._limit(b, facts.dtype)
        size = max(b.size, 1e-300)
        if not b.error > limit or (not b.persistent and b.reference is None):
            if not b.kernels > limit or b.error > limit:
                return None
            return self.finding(
                **columns,
                severity="info",
                message=f"{b.block}: gradient in {facts.dtype} is off by {b.kernels / size:.2g} of its norm, in the "
                f"framework's own kernels: with faithful ones by {b.error / size:.2g}",
                observed=b.kernels / size, limit=limit / size,
                likely="a sum in too few bits inside an operator of the framework", hint="compute this part in float32",
            )
        against = (
            f"the reference is off by {b.reference / size:.2g}" if b.reference is not None
            else f"rounding every operation explains {b.rounding / size:.2g}"
        )
        return self.finding(
            **columns,
            message=f"{b.block}: gradient in {facts.dtype} is off by {b.error / size:.2g} of its norm; {against}",
            observed=b.error / size, limit=limit / size, evidence=f"the value is off by {facts.value_error:.2g}",
            likely="backward returns None in this precision" if b.missing
            else "a sum in too few bits, a cancellation, or a cast to a lower precision in backward",
            hint="accumulate in float32, or use the stable form of the formula",
        )


EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
