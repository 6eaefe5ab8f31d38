"""GG309."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.modes_base import ModeFacts
from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.modes import Modes
from gradguard.rules.base import Rule

__all__ = ["WrongMode"]

LASTING = 20
"""Steps in eval mode that are no passing state."""


@dataclass(frozen=True, kw_only=True)
class WrongMode(Rule):
    """The model is trained in eval mode.

    What it does:
        Sees the mode of the model itself at every optimizer step. An error where steps in train mode were followed by a
        validation (calls without gradients in eval mode) and then by steps in eval mode to the end: nobody switched back.
        The same where the loss function leaves the model in eval mode. A warning where all steps are in eval mode, as in an
        audit of a model that was given so, or where no validation came before the switch; without one it is an error where
        the model holds dropout and was trained in train mode at first, and then in eval mode on more than half of all
        steps and on 20 at least. Nothing where no module depends
        on the mode, which is tried where the loss can be called again. The mode of parts alone is never judged: batch
        normalisation that is frozen on purpose is in eval mode while the model is in train mode.

    Why is this bad:
        Dropout is off and batch normalisation uses, and does not update, the statistics of earlier batches: the rest of the
        training is another one than was asked for, and overfits or stalls.

    What to do:
        Call model.train() at the beginning of every epoch, or after every validation.

    When it is healthy:
        Fine-tuning with every layer frozen to its evaluation behaviour on purpose: ignore it, with that reason. Statistics
        are frozen by putting the normalisations alone into eval mode, and dropout is ended by a probability of 0.

    Options:
        steps: fewer last steps in eval mode than this are not judged.

    References:
        PyTorch, torch.nn.Module.train; Goodfellow et al. 2016, Deep Learning, section 7.12.
    """

    code: ClassVar[str] = "GG309"
    slug: ClassVar[str] = "wrong-mode"
    needs: ClassVar[tuple[str, ...]] = ("modes",)

    steps: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"GG309 takes steps of at least 1, got {self.steps!r}")

    def judge(self, evidence: Evidence) -> Outcome:
        """At most one finding."""
        facts: ModeFacts = the(evidence, Modes).facts
        if not facts.eval:
            return self.outcome([])
        if not facts.matters:
            return self.outcome([], reason="nothing in this model depends on the mode")
        if facts.train and facts.tail:
            least = self.steps if facts.source == "watch" else 1
            return self.outcome([self._switched(facts)] if facts.tail >= least else [])
        return self.outcome([self._never(facts)] if not facts.train else [])

    def _switched(self, facts: ModeFacts) -> Finding:
        total = facts.train + facts.eval
        watched = facts.source == "watch"
        model = facts.model or "the model"
        message = (
            f"from step {facts.switch} on {model} is trained in eval mode: the last {facts.tail} of {total} steps"
            if watched
            else "the loss leaves the model in eval mode: every step after the first is one in eval mode"
        )
        return self.finding(
            message,
            severity="error" if facts.validated or _abandoned(facts) else "warning",
            module=facts.model,
            step=facts.switch,
            observed=float(facts.tail),
            limit=float(self.steps),
            count=facts.tail,
            total=total,
            evidence=self._evidence(facts, validated=watched and facts.validated),
            likely="model.eval() for a validation, and no model.train() after it",
            hint="call model.train() at the beginning of every epoch",
        )

    def _never(self, facts: ModeFacts) -> Finding:
        return self.finding(
            "every step is one in eval mode"
            if facts.source == "watch"
            else "the model is trained in eval mode, as it was given",
            severity="warning",
            module=facts.model,
            observed=float(facts.eval),
            count=facts.eval,
            total=facts.eval,
            evidence=self._evidence(facts, validated=False),
            likely="a model as it was loaded, or as an evaluation left it",
            hint="call model.train() before it is trained",
        )

    @staticmethod
    def _evidence(facts: ModeFacts, *, validated: bool) -> str:
        parts = []
        if validated:
            parts.append("before them it was called without gradients in eval mode")
        if facts.difference is not None:
            parts.append(f"the loss changes by {facts.difference:.2g} of it with the mode")
        if facts.dependent:
            more = f" and {len(facts.dependent) - 3} more" if len(facts.dependent) > 3 else ""
            parts.append(f"depends on the mode: {', '.join(facts.dependent[:3])}{more}")
        return "; ".join(parts)


def _abandoned(facts: ModeFacts) -> bool:
    """Dropout that was on, and is off for most of the training: nobody builds it in for the first steps alone.

    Batch normalisation alone says less: a whole model in eval mode is also how its statistics are frozen.
    """
    return bool(facts.dropout) and facts.tail >= LASTING and 2 * facts.tail > facts.train + facts.eval
