"""GG308."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.padding_base import PaddingFacts
from gradguard.errors import UsageError
from gradguard.finding import Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.padding import PaddingTrial
from gradguard.rules.base import Rule

__all__ = ["PaddingLeak"]

COUNTS = "the loss counts outputs at padded positions"


@dataclass(frozen=True, kw_only=True)
class PaddingLeak(Rule):
    """The loss depends on padded positions.

    What it does:
        Where the scenario declares ``padding(batch)``, a mask (samples, positions) that is True where a position is
        padding: takes the derivative of the loss with respect to the padded inputs (floating-point tensors, or the
        embeddings of tokens), and to the model's outputs at padded positions. Each must be 0. Where outputs are declared,
        those at real positions must not depend on the padded inputs either. The mode is the one that the model was given
        in. Where what is padded is exactly 0 (a sum that zeros do not change), the loss of one sample with and without its
        padding decides. A batch with an ``attention_mask`` is looked at without a declaration; that is at most a warning.

    Why is this bad:
        A prediction changes with the length of the longest sample in its batch, training learns from positions that are not
        there, and results differ between batch sizes.

    What to do:
        Give attention a mask, average over real positions, pack sequences, exclude padded positions from the loss
        (``ignore_index=-100``), and take no batch statistics over them.

    When it is healthy:
        Padding that means something, such as silence or a black border: do not declare it.

    Options:
        change: the largest derivative at padded positions, relative to that at real ones; and the relative change of the
            loss of one sample when its padding is cut off.

    References:
        Karpathy 2019, A recipe for training neural networks ("use backprop to chart dependencies").
    """

    code: ClassVar[str] = "GG308"
    slug: ClassVar[str] = "padding-leak"
    needs: ClassVar[tuple[str, ...]] = ("padding",)

    change: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.change < 1:
            raise UsageError(f"GG308 takes a change between 0 and 1, got {self.change!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        facts: PaddingFacts = the(evidence, PaddingTrial).facts
        trimmed = facts.trimmed
        invariant = trimmed is not None and trimmed <= self.change
        of_real = "of what real positions do"
        zeros = (0.0, 0.0) if invariant else (facts.loss_of_zeros, facts.outputs_of_zeros)
        seen = {
            f"the loss depends on padded inputs: {{}} {of_real}": larger(facts.loss, zeros[0]),
            f"outputs at real positions depend on padded inputs: {{}} {of_real}": larger(facts.outputs, zeros[1]),
            f"{COUNTS}: {{}} {of_real}": 0.0 if facts.counted_zero and invariant else facts.counted,
        }
        worst = max((value for value in seen.values() if value is not None), default=None)
        if worst is None and trimmed is not None:
            worst = 0.0 if facts.scaled else trimmed
            seen = {"the loss of a sample changes by {} of it when its padding is cut off": worst}
        if worst is None:
            reason = facts.reason or "no derivative leads to padded positions"
            return Outcome(status="inconclusive" if facts.declared else "skipped", reason=reason)
        if worst <= self.change:
            note = ""
            if facts.scaled and not invariant:
                note = "only the loss' scale depends on padding: it is divided by the padded length"
            return self.outcome([], margin=worst / self.change, reason=note)
        what = next(text for text, value in seen.items() if value is not None and value > self.change)
        unsure = not facts.declared or (what.startswith(COUNTS) and facts.counted_zero and trimmed is None)
        finding = self.finding(
            what.format(f"{seen[what]:.2g}"),
            severity="warning" if unsure else "error",
            module=facts.module,
            observed=worst,
            limit=self.change,
            count=facts.padded,
            total=facts.positions,
            evidence=self._evidence(facts),
            likely=self._likely(what, facts),
            hint="mask what is padded, in attention, means, statistics and the loss; or do not declare padding",
        )
        return self.outcome([finding], margin=worst / self.change)

    @staticmethod
    def _evidence(facts: PaddingFacts) -> str:
        parts = [
            f"{name} {value:.2g}"
            for name, value in (
                (f"d loss / d {facts.input or 'input'} at padded over real positions", larger(facts.loss, facts.loss_of_zeros)),
                ("the same of outputs at real positions", larger(facts.outputs, facts.outputs_of_zeros)),
                ("d loss / d output at padded over real positions", facts.counted),
                ("change of one sample's loss without its padding", facts.trimmed),
            )
            if value is not None
        ]
        if facts.module:
            parts.append(f"first module whose real positions change: {facts.module}")
        if not facts.declared:
            parts.append("padding as the batch's attention_mask tells it, not declared")
        return "; ".join(parts)

    @staticmethod
    def _likely(what: str, facts: PaddingFacts) -> str:
        if what.startswith(COUNTS) or not facts.module:
            return "a mean, sum or label of the loss that includes padded positions"
        return f"{facts.module} mixes positions without a mask: attention, a mean, batch statistics, or a recurrence"


def larger(a: float | None, b: float | None) -> float | None:
    """The larger of two numbers that may be unknown; None where both are."""
    known = [x for x in (a, b) if x is not None]
    return max(known, default=None)
