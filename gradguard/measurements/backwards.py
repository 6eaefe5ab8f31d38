"""What backward does besides returning a gradient: experiments with cotangents, layouts and repeated calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gradguard.adapters.backward_base import BackwardFacts, Backwards
from gradguard.adapters.base import Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.determinism import Determinism

__all__ = ["CHANGES", "BackwardPasses", "changes", "measure"]

CHANGES = "value or gradient change from call to call, so that calls cannot be compared (GG104)"


def changes(evidence: Evidence) -> bool:
    """Whether the same call twice gives something else, as far as that is known."""
    found = the(evidence, Determinism)
    if found is None:
        return False
    limit = 1e4 * found.epsilon
    return bool(found.identity.value_difference > limit or found.identity.gradient_difference > limit)


@dataclass(frozen=True, kw_only=True)
class BackwardPasses(Measurement):
    """The faults that a few backward passes showed; ``facts.skipped`` says what could not be tried, by kind."""

    name: ClassVar[str] = "backwards"
    facts: BackwardFacts


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``backwards``."""
    if not isinstance(problem, Backwards):
        return Unavailable(wanted="backwards", reason="this problem's backward cannot be run with other cotangents")
    if changes(evidence):
        facts = problem.backward_facts(writes_only=True)
        return BackwardPasses(facts=replace(facts, skipped={"linearity": CHANGES, "layout": CHANGES}), reason=CHANGES)
    facts = problem.backward_facts()
    return BackwardPasses(facts=facts, path=", ".join(facts.tried), reason="; ".join(dict.fromkeys(facts.skipped.values())))
