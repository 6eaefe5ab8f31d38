"""GG113."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.finding import Finding, Outcome, Severity
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import BlockResult, Gradients
from gradguard.measurements.detached import Detached
from gradguard.rules.base import Rule

__all__ = ["DetachedGradient"]


@dataclass(frozen=True, kw_only=True)
class DetachedGradient(Rule):
    """The gradient is right once detached values are held fixed; names the line of the cut.

    What it does:
        Where a gradient differs from the slopes, runs the function again with every value that left the graph
        (``detach``, ``.data``, ``no_grad``, ``item``) held at what it is at the point. If the gradient agrees then, it is
        not wrong but cut. A custom function whose value is a staircase (rounding, sign, spikes) has the derivative 0, so that
        a backward that is not 0 is meant: it is replaced by what its backward says, f(x0) + J (x - x0).

    Why is this bad:
        A cut in the wrong place stops training of everything before it, without a sign.

    What to do:
        Remove the detach; or, where it is meant, ignore the block with the reason.

    When it is healthy:
        Straight-through estimators, truncated recurrences, targets that are not to be trained: a warning. It is an error
        where a block that the loss depends on loses all of its gradient by ``detach`` or the like; a block that is only
        used under ``no_grad`` (a target network) is a warning, too.

    Options:
        partial_is_error: count a cut that leaves part of the gradient as an error, too.

    References:
        Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons (arXiv:1308.3432); Neftci et al.
        2019, Surrogate gradient learning in spiking neural networks (arXiv:1901.09948).
    """

    code: ClassVar[str] = "GG113"
    slug: ClassVar[str] = "detached-gradient"
    severity: ClassVar[Severity] = "warning"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    partial_is_error: bool = False

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block that the cut explains; errors where nothing is left."""
        gradients = the(evidence, Gradients)
        detached = the(evidence, Detached)
        if detached is None:
            return Outcome(status="passed")
        explained = [r for r in gradients.wrong if r.block.name in detached.explained]
        lost = [r for r in explained if r.missing or r.analytical == 0.0]
        # A target network under no_grad is meant; a loss that no block reaches is not.
        declared = all(c.declared for c in detached.cuts) and any(r.verdict == "pass" for r in gradients.results)
        findings = [self._of(r, detached, "warning" if declared else "error") for r in lost]
        rest = [r for r in explained if r not in lost]
        if rest:
            findings.append(self._of(rest[0], detached, "error" if self.partial_is_error else "warning", len(rest)))
        return self.outcome(findings)

    def _of(self, r: BlockResult, detached: Detached, severity: Severity, count: int = 1) -> Finding:
        lost = r.missing or not r.analytical
        fitting = [c for c in detached.cuts if bool(c.surrogate) != lost]
        cut = next(iter((*fitting, *detached.cuts)), None)
        where = f"{cut.location} ({cut.operation})" if cut is not None else ""
        others = [f"{c.location} ({c.operation})" for c in detached.cuts if c is not cut][:3]
        further = f"; further cuts at {', '.join(others)}" if others else ""
        loss = "loses all of its gradient" if lost else "loses part of its gradient"
        blocks = r.block.name if count == 1 else f"{r.block.name} and {count - 1} more"
        if cut is not None and cut.surrogate:
            return self.finding(
                f"{blocks}: its gradient passes {cut.surrogate}, whose value is a staircase: that backward is no derivative",
                severity=severity, block=r.block.name, module=r.block.module or "", location=cut.location, observed=r.z,
                count=count, pattern="surrogate",
                evidence="small moves of its argument do not change its value; with the function that its backward belongs to "
                f"in its place, the gradient agrees{further}",
                likely="a surrogate or straight-through gradient",
                hint="nothing, where it is meant: then ignore the block with the reason",
            )
        return self.finding(
            f"{blocks}: {loss} where a value leaves the graph, at {where}",
            severity=severity, block=r.block.name, module=r.block.module or "", location=where, observed=r.z, count=count,
            pattern="detached", evidence=f"the gradient agrees once the detached values are held fixed{further}",
            likely="a detach, .data, .item() or no_grad between the block and the loss",
            hint="remove it; or, where it is meant, ignore the block with the reason",
        )
