"""GG203."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.observing_base import Nonfinite
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["NonfiniteActivation"]


@dataclass(frozen=True, kw_only=True)
class NonfiniteActivation(Rule):
    """NaN or infinity in a layer's output; names the first bad module.

    What it does:
        Runs every batch through the model as it is, and again where the training run stopped, and names the first module
        whose output is not finite although its inputs are; or the input's rows; or the parameter; or the loss.

    Why is this bad:
        One value that is not finite makes the loss, every gradient and, after one step, every weight not finite.

    What to do:
        By place. Input: clean or drop the rows. Module: look at divisions, roots, logarithms and exponentials. Loss:
        take log_softmax or logsigmoid of logits instead of log(softmax), or clamp before the logarithm.

    When it is healthy:
        Never, in an output. Values that become infinite because training diverges are GG401's or GG402's.

    Options:
        growth: a gradient norm or loss that grew by this factor before marks divergence, not birth in a module.

    References:
        PyTorch, Numerical accuracy (docs).
    """

    code: ClassVar[str] = "GG203"
    slug: ClassVar[str] = "nonfinite-activation"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("training_run",)

    growth: float = 10.0

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding: the first place."""
        passes, run = the(evidence, Passes), the(evidence, TrainingRun)
        born = passes.start.nonfinite
        if born is not None:
            return self.outcome([self._finding(born, 0, "before any step", "error")])
        later = passes.end.nonfinite if passes.end is not None else None
        if later is None:
            return self.outcome([])
        step = later.step if later.step is not None else len(run.trace.steps) if run is not None else None
        diverged = run is not None and self._diverged(run)
        severity = "info" if diverged else "error"
        when = (
            "after the loss or the gradients had blown up"
            if diverged
            else "in training, while loss and gradients were moderate"
        )
        return self.outcome([self._finding(later, step, when, severity)])

    def _diverged(self, run: TrainingRun) -> bool:
        losses = [abs(x) for x in run.trace.losses if math.isfinite(x)]
        norms = [s.grad_norm for s in run.trace.steps if math.isfinite(s.grad_norm) and s.grad_norm > 0]
        grew = bool(losses) and max(losses) > self.growth * max(losses[0], 1e-12)
        thrown = any(s.update_ratio > 0.5 for s in run.trace.steps)
        return grew or thrown or (bool(norms) and max(norms) > self.growth * norms[0])

    def _finding(self, found: Nonfinite, step: int | None, when: str, severity: str) -> Finding:
        rows = f", rows {', '.join(map(str, found.rows))}" if found.rows else ""
        place, likely, hint = {
            "input": (
                f"the input{f' of {found.module}' if found.module else ''} of batch {found.batch}{rows}",
                "missing or overflowing values in the data",
                "clean or drop those rows before training",
            ),
            "parameter": (
                f"parameter {found.module}",
                "an initialisation or a checkpoint that is not finite",
                "initialise it again",
            ),
            "output": (
                f"the output of {found.module or 'the model'} ({found.owner}) in batch {found.batch}",
                "a division by 0, a root or logarithm at 0 or below, or an exponential that overflows",
                "guard that operation: clamp, or add a small constant inside it",
            ),
            "loss": (
                f"the loss of batch {found.batch}; every module's output is finite",
                "log(0) in a hand-written loss, or a division by an empty count",
                "use cross_entropy or log_softmax on logits, or clamp before the logarithm",
            ),
            "gradient": (
                f"the gradient of {found.module or 'the model'}, the last in the pass; every module's output is finite",
                "log(0) in the loss, or the derivative of a root, norm or power at 0",
                "record the loss, which tells the two apart; add a small constant inside the root or logarithm",
            ),
        }[found.where]
        return self.finding(
            f"NaN or infinity in {place}, {when}",
            severity="error" if severity == "error" else "info",
            module=found.module,
            step=step,
            pattern=found.where,
            evidence=f"modules before it, all finite: {', '.join(m for m in found.before if m) or 'none'}",
            likely=likely,
            hint=hint,
        )
