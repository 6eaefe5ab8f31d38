"""GG206."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.training_base import ParameterFacts
from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun
from gradguard.rules.base import Rule

__all__ = ["SymmetricUnits"]


@dataclass(frozen=True, kw_only=True)
class SymmetricUnits(Rule):
    """All units of a layer are identical.

    What it does:
        Looks for trainable weight matrices that the pass uses and all of whose rows are the same (within 1e-6 of the
        largest entry): in a hidden layer before any step, elsewhere still after the training run. Matrices of zeros
        count only where no gradient ever reached them in at least ``steps`` steps: nothing will break their symmetry.

    Why is this bad:
        Identical units get identical gradients and stay identical: the layer is one unit wide for ever.

    What to do:
        Initialise at random: torch.nn.init.kaiming_normal_ or xavier_uniform_.

    When it is healthy:
        A head or the last matrix of a residual branch that starts at 0, LoRA's B, ReZero: their gradient is not
        symmetric, and the first step makes them different.

    Options:
        steps: optimizer steps after which a matrix of zeros without gradient is a verdict.

    References:
        Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4.
    """

    code: ClassVar[str] = "GG206"
    slug: ClassVar[str] = "symmetric-units"
    needs: ClassVar[tuple[str, ...]] = ("passes",)
    optional: ClassVar[tuple[str, ...]] = ("training_run",)

    steps: int = 20

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding: the first matrix, the others named with it."""
        passes, run = the(evidence, Passes), the(evidence, TrainingRun)
        first = set(passes.start.identical_rows) - set(passes.start.zero_blocks)
        hidden = set(passes.start.matrices[:-1])
        still = (set(passes.start.identical_rows) & set(passes.last.identical_rows)) | (first & hidden)
        shapes = {p.name: p for p in run.parameters} if run is not None else {}
        findings = []
        for name in passes.last.matrices:
            if name not in still or "Embedding" in getattr(shapes.get(name), "owner", ""):
                continue
            zero = name in passes.last.zero_blocks
            if zero and not (run is not None and len(run.trace.steps) >= self.steps and self._never_reached(run, name)):
                continue
            if name not in passes.last.identical_rows and not self._wide(shapes.get(name)):
                continue
            units = shapes[name].shape[0] if name in shapes else None
            findings.append(
                self.finding(
                    f"{name}: all {units or ''} units are identical{' (all zero)' if zero else ''}".replace("  ", " "),
                    module=name.rpartition(".")[0] or name,
                    location=name,
                    count=units,
                    total=units,
                    pattern="zero" if zero else "constant",
                    step=len(run.trace.steps) if run is not None else 0,
                    evidence="rows differ by at most 1e-6 of the largest entry"
                    + (
                        f", before{' and after' if name in passes.last.identical_rows else ''} {len(run.trace.steps)} steps"
                        if run is not None
                        else ""
                    ),
                    likely="constant initialisation",
                    hint="initialise at random: torch.nn.init.kaiming_normal_(weight)",
                )
            )
        if len(findings) > 1:  # one initialisation, one bug
            others = ", ".join(f.location for f in findings[1:6])
            findings = [replace(findings[0], evidence=f"{findings[0].evidence}; the same in {others}")]
        return self.outcome(findings)

    @staticmethod
    def _wide(facts: ParameterFacts | None) -> bool:
        """Its units see several inputs each, the same ones: not a depthwise convolution, not a scale."""
        return facts is not None and len(facts.shape) >= 2 and facts.shape[1] > 1

    @staticmethod
    def _never_reached(run: TrainingRun, name: str) -> bool:
        if name not in run.trace.blocks:
            return False
        return not np.nansum(run.trace.gradient[:, run.trace.blocks.index(name)]) > 0
