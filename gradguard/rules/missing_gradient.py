"""GG105."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import BlockResult, Gradients
from gradguard.measurements.detached import Detached
from gradguard.measurements.localisation import Localisation
from gradguard.rules.base import Rule

__all__ = ["MissingGradient"]


@dataclass(frozen=True, kw_only=True)
class MissingGradient(Rule):
    """A parameter that requires a gradient gets none, or exactly zero, where the numerical slope is not zero.

    What it does:
        Moves the blocks whose gradient is None or exactly zero, and measures the slope.

    Why is this bad:
        The parameter takes part in the loss and is never trained.

    What to do:
        Return its gradient from backward (in the position of the argument), and list it in save_for_backward.

    When it is healthy:
        A parameter that the loss does not depend on has slope 0 and passes. One behind a ``detach`` is GG113.

    Options:
        z: slopes above this many error bars count as not zero.
    """

    code: ClassVar[str] = "GG105"
    slug: ClassVar[str] = "missing-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    optional: ClassVar[tuple[str, ...]] = ()

    z: float = 20.0

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per block without a gradient that moves the loss."""
        gradients = the(evidence, Gradients)
        detached = the(evidence, Detached)
        explained = detached.explained if detached is not None else ()
        absent = [r for r in gradients.wrong if (r.missing or r.analytical == 0.0) and r.z > self.z]
        places = the(evidence, Localisation)
        return self.outcome([self._of(r, places) for r in absent if r.block.name not in explained])

    def _of(self, r: BlockResult, places: Localisation | None) -> Finding:
        cause = places.cause(r.block.name) if places is not None else None
        root = self.finding("", block=cause.block) if cause is not None else None
        what = "no gradient (None)" if r.missing else "a gradient of exactly zero"
        return self.finding(
            f"{r.block.name}: gets {what}, but moves the value: numerical slope {r.numerical:.6g} +- {r.error_bar:.1g}",
            block=r.block.name,
            module=r.block.module or "",
            observed=r.z,
            limit=self.z,
            total=r.block.size,
            location=f"block {r.block.name} {r.block.shape}"
            + (f"; module {r.block.module} ({r.block.owner})" if r.block.module else ""),
            evidence=f"z = {r.z:.2g} (limit {self.z:g})",
            caused_by=replace(root, code="GG101").fingerprint if root is not None else "",
            likely="backward returns None or zeros for it" if r.missing else "backward returns zeros for it",
        )
