"""GG407."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.width_scale import Exponent, WidthScale
from gradguard.rules.base import Rule

__all__ = ["WidthDependentScale"]

FOLLOWS = "a rate or initialisation that does not follow the width"


@dataclass(frozen=True, kw_only=True)
class WidthDependentScale(Rule):
    """Outputs of a module, or what a few steps add to them, grow or shrink with the model's width.

    What it does:
        Builds the scenario at several widths, trains each for a few steps with several seeds, and fits the power of width with
        which the mean magnitude of each module's output, and of its change, grows (muP's coordinate check, which is otherwise
        judged by eye). Growth beyond the limit and its error bar is an error, and so is an output that is not finite after
        these steps; shrinking is a warning.

    Why is this bad:
        A learning rate that is tuned on a narrow model then diverges on a wide one, or trains it too slowly.

    What to do:
        Scale initialisation and rate per layer as in muP: hidden rates as 1 / width for Adam, the output layer's weights as
        1 / width.

    When it is healthy:
        Outputs of the last layer and attention scores that shrink with width before training; models that are not meant to
        share a rate across widths: do not ask for this check.

    Options:
        growth: the largest power of width.
        shrink: the smallest, below zero.

    References:
        Yang et al. 2022, Tensor Programs V (arXiv:2203.03466), appendix D.1.
    """

    code: ClassVar[str] = "GG407"
    slug: ClassVar[str] = "width-dependent-scale"
    needs: ClassVar[tuple[str, ...]] = ("width_scale",)

    growth: float = 0.3
    shrink: float = 0.5

    def __post_init__(self) -> None:
        if not (self.growth > 0 and self.shrink > 0):
            raise UsageError(f"{self.code} takes growth > 0 and shrink > 0, got {self.growth!r} and {self.shrink!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per module that grows, or shrinks; the change counts before the level."""
        scale: WidthScale = the(evidence, WidthScale)
        lost = self._lost(scale)
        if lost is not None:
            return self.outcome([lost], margin=math.inf)
        findings = [found for module in scale.modules if (found := self._module(scale, module)) is not None]
        worst = max(
            (scale.exponent(m, "change").value for m in scale.modules if math.isfinite(scale.exponent(m, "change").value)),
            default=math.nan,
        )
        return self.outcome(findings, margin=worst / self.growth if math.isfinite(worst) else None)

    def _module(self, scale: WidthScale, module: str) -> Finding | None:
        for what, text in (("change", f"what {scale.steps} steps add to its output"), ("after", "its output")):
            power = scale.exponent(module, what)
            grows = power.value - power.error_bar > self.growth
            shrinks = power.value + power.error_bar < -self.shrink
            if grows or (shrinks and what == "after"):
                return self._finding(scale, module, text, power, grows)
        return None

    def _lost(self, scale: WidthScale) -> Finding | None:
        """What is no number any more has no power of width, and has grown most."""
        lost = sorted({size.width for size in scale.sizes if not math.isfinite(size.after)})
        if not lost:
            return None
        everywhere = len(lost) == len({size.width for size in scale.sizes})
        return self.finding(
            f"outputs are not finite after {scale.steps} steps at width {', '.join(map(str, lost))}",
            observed=math.inf, limit=self.growth, count=len(lost), total=len({size.width for size in scale.sizes}),
            likely="a rate that diverges at every width" if everywhere else FOLLOWS,
            hint="muP, or a lower rate: check_learning_rate at one width says which holds there",
        )

    def _finding(self, scale: WidthScale, module: str, text: str, power: Exponent, grows: bool) -> Finding:
        widths = sorted({size.width for size in scale.sizes})
        return self.finding(
            f"{module}: {text} {'grows' if grows else 'shrinks'} as width^{power.value:.2f} +- {power.error_bar:.2f}",
            severity="error" if grows else "warning", module=module, observed=power.value,
            limit=self.growth if grows else -self.shrink,
            evidence=f"widths {', '.join(map(str, widths))}, {len({s.seed for s in scale.sizes})} seeds",
            likely="a rate or initialisation of this layer that does not follow its width",
            hint="muP: hidden rate as 1 / width for Adam, output weights as 1 / width",
        )
