"""GG102."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.training_base import StepFacts
from gradguard.blocks import entry_name
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import BlockResult, Gradients
from gradguard.measurements.training_run import TrainingRun, nonfinite_step, overflowed
from gradguard.rules.base import Rule

__all__ = ["NonfiniteGradient"]


@dataclass(frozen=True, kw_only=True)
class NonfiniteGradient(Rule):
    """NaN or infinity in a gradient whose loss is finite.

    What it does:
        Counts the entries of every gradient that are not finite, where the output is. In a training run, names the blocks
        whose gradient is not finite at the step that ends it, unless the loss itself had grown out of all proportion first:
        then numbers overflow, which is GG401's or GG302's.

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
    optional: ClassVar[tuple[str, ...]] = ("gradients", "training_run")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block with entries that are not finite, or one for the step of a run."""
        gradients, run = the(evidence, Gradients), the(evidence, TrainingRun)
        if gradients is not None:
            return self.outcome([self._of(r) for r in gradients.results if r.verdict == "nonfinite"])
        if run is None:
            missing = evidence.get("gradients")
            return Outcome(status="skipped", reason=missing.reason if missing is not None else "no measurement 'gradients'")
        found = nonfinite_step(run)
        return self.outcome([self._step(run, *found)] if found is not None and not overflowed(run, found[0]) else [])

    def _step(self, run: TrainingRun, last: StepFacts, names: list[str]) -> Finding:
        block, total = names[-1], len(run.trace.blocks)
        return self.finding(
            f"the gradient of {block} is not finite at step {last.step}, although the loss is ({last.loss:.4g})",
            module=block.rpartition(".")[0], location=block, step=last.step, count=len(names), total=total,
            evidence=f"{len(names)} of {total} blocks: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
            likely="the derivative of a root, norm or power at 0, or a where() whose other branch is not finite",
            hint="add a small constant inside the root or norm; make the branch that is not taken finite",
        )

    def _of(self, r: BlockResult) -> Finding:
        first = entry_name(r.block.name, r.block.shape, r.first_nonfinite or 0)
        return self.finding(
            f"{first}: NaN or infinite, {r.nonfinite} of {r.block.size} entries of {r.block.name}, while the value is finite",
            block=r.block.name, module=r.block.module or "", count=r.nonfinite, total=r.block.size,
            location=f"block {r.block.name} {r.block.shape}",
            likely="sqrt, norm, log or a division at 0, or the branch of a where that is not taken",
            hint="torch.autograd.set_detect_anomaly(True) names the operation",
        )
