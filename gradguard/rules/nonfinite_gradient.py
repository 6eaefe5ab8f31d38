"""GG102."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.blocks import entry_name
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.gradients import BlockResult, Gradients
from gradguard.rules.base import Rule

__all__ = ["NonfiniteGradient"]


@dataclass(frozen=True, kw_only=True)
class NonfiniteGradient(Rule):
    """NaN or infinity in a gradient whose loss is finite.

    What it does:
        Counts the entries of every gradient that are not finite, where the output is.

    Why is this bad:
        One step writes NaN into the parameters, and nothing trains any more.

    What to do:
        Look for a square root, norm, logarithm or division at 0 whose result is not used (``where`` takes the gradient of
        both branches): make the argument safe before the operation, not after it.

    When it is healthy:
        Never.

    Options:
        None.
    """

    code: ClassVar[str] = "GG102"
    slug: ClassVar[str] = "nonfinite-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block with entries that are not finite."""
        gradients = the(evidence, Gradients)
        return self.outcome([self._of(r) for r in gradients.results if r.verdict == "nonfinite"])

    def _of(self, r: BlockResult) -> Finding:
        first = entry_name(r.block.name, r.block.shape, r.first_nonfinite or 0)
        return self.finding(
            f"{first}: NaN or infinite, {r.nonfinite} of {r.block.size} entries of {r.block.name}, while the value is finite",
            block=r.block.name, module=r.block.module or "", count=r.nonfinite, total=r.block.size,
            location=f"block {r.block.name} {r.block.shape}",
            likely="sqrt, norm, log or a division at 0, or the branch of a where that is not taken",
            hint="torch.autograd.set_detect_anomaly(True) names the operation",
        )
