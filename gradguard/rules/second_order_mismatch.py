"""GG109."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import BlockResult
from gradguard.measurements.second_order import SecondOrder
from gradguard.rules.base import Rule

__all__ = ["SecondOrderMismatch"]


@dataclass(frozen=True, kw_only=True)
class SecondOrderMismatch(Rule):
    """The gradient of the gradient is wrong.

    What it does:
        Contracts the analytical gradient with a fixed random vector, moves all blocks along random tangents, and compares
        the slope by differences, with its error bar, with double backward (``create_graph=True``). Only with ``order=2``.

    Why is this bad:
        Gradient penalties, meta-learning, influence functions and Hessian-vector products use it. A backward that keeps a
        detached intermediate is right once and silently wrong twice.

    What to do:
        In a custom function, save tensors with ``save_for_backward`` and compute backward from them with differentiable
        operations; or mark it ``once_differentiable``, so that it raises.

    When it is healthy:
        A function marked ``once_differentiable`` raises: the check is inconclusive, and says so.

    Options:
        z: differences above this many error bars count.
    """

    code: ClassVar[str] = "GG109"
    slug: ClassVar[str] = "second-order-mismatch"
    needs: ClassVar[tuple[str, ...]] = ("second_order",)

    z: float = 20.0

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block whose second derivative is wrong."""
        second = the(evidence, SecondOrder)
        if not second.results and second.reason.startswith("right once"):
            return Outcome(status="passed", reason=second.reason)
        if not second.results:
            return Outcome(status="inconclusive", reason=f"there is no double backward: {second.reason}")
        limit = max(self.z, second.limit) if second.limit > 20.0 else min(self.z, second.limit)
        wrong = [r for r in second.results if r.verdict == "fail" and r.z > limit]
        bad = [r for r in second.results if r.verdict == "nonfinite"]
        outcome = self.outcome([*(self._of(r, limit) for r in wrong), *(self._nonfinite(r) for r in bad)])
        unclear = [r for r in second.results if r.verdict == "inconclusive"]
        if outcome.status == "passed" and unclear:
            names = ", ".join(r.block.name for r in unclear[:3])
            return Outcome(status="inconclusive", reason=f"{len(unclear)} of the blocks ({names}): {unclear[0].reason}")
        return outcome

    def _of(self, r: BlockResult, limit: float) -> Finding:
        none = r.missing or r.analytical == 0.0
        return self.finding(
            f"{r.block.name}: the gradient of the gradient is {'missing' if none else 'wrong'}: analytical {r.analytical:.6g}, "
            f"numerical {r.numerical:.6g} +- {r.error_bar:.1g}",
            block=r.block.name, module=r.block.module or "", observed=r.z, limit=limit, total=r.block.size,
            location=f"block {r.block.name} {r.block.shape}", pattern="only in the second order",
            evidence=f"z = {r.z:.2g} (limit {limit:g})",
            likely="backward uses a tensor that is detached from its input (kept on ctx, .data, no_grad)" if none
            else "backward is computed by an operation whose own backward is wrong, or from a tensor that is partly detached",
            hint="save inputs with save_for_backward and compute backward with differentiable operations",
        )

    def _nonfinite(self, r: BlockResult) -> Finding:
        return self.finding(
            f"{r.block.name}: the gradient of the gradient is NaN or infinite in {r.nonfinite} of {r.block.size} entries",
            severity="warning", block=r.block.name, module=r.block.module or "", count=r.nonfinite, total=r.block.size,
            location=f"block {r.block.name} {r.block.shape}", pattern="only in the second order",
            likely="a square root, norm or power at 0 in backward",
        )
