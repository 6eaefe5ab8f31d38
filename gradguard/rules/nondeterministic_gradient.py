"""GG104."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradguard.adapters.backward_base import Fault
from gradguard.finding import Finding, Outcome
from gradguard.measurements.backwards import BackwardPasses
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.determinism import Determinism
from gradguard.rules.base import Rule

__all__ = ["NondeterministicGradient"]


@dataclass(frozen=True, kw_only=True)
class NondeterministicGradient(Rule):
    """The same call twice, from the same random state, gives another value or gradient.

    What it does:
        Runs forward and backward twice with random states, buffers and attributes restored, and compares.

    Why is this bad:
        A backward that draws its own mask is the gradient of another function than the forward; a value that depends on a
        hidden state cannot be checked or reproduced.

    What to do:
        Save the mask (or the random state) in forward and use it in backward; keep state in buffers.

    When it is healthy:
        Differences at the level of rounding (parallel sums) are allowed for.

    Options:
        roundings: how many units of rounding the two may differ by, relative to the largest magnitude.
    """

    code: ClassVar[str] = "GG104"
    slug: ClassVar[str] = "nondeterministic-gradient"
    needs: ClassVar[tuple[str, ...]] = ("determinism",)
    optional: ClassVar[tuple[str, ...]] = ("backwards",)

    roundings: float = 1e4

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding, for the value if that differs, else for the gradient."""
        found = the(evidence, Determinism)
        limit = self.roundings * found.epsilon
        value, gradient = found.identity.value_difference, found.identity.gradient_difference
        margin = max(value, gradient) / limit
        cause = found.identity.cause
        passes = the(evidence, BackwardPasses)
        drawn = [f for f in passes.facts.faults if f.kind == "draws"] if passes is not None else []
        first = f"; {cause} differs first" if cause else ""
        if value > limit:
            finding = self.finding(
                f"the value changes from call to call, by {value:.2g} of its largest entry, with the random state restored"
                + first,
                observed=value,
                limit=limit,
                evidence="two forward passes from the same state",
                module=cause.partition(" (")[0],
                location=cause,
                likely="a random source of its own (os.urandom, a generator, the time), or state outside of buffers",
            )
        elif gradient > limit:
            finding = self.finding(
                f"{found.identity.block}: its gradient changes from call to call, by {gradient:.2g} of its largest entry; "
                f"the value does not{first}",
                block=found.identity.block,
                observed=gradient,
                limit=limit,
                location=cause,
                evidence="two forward and backward passes from the same state",
                likely="backward draws random numbers of its own, or reads memory that it does not own",
            )
        elif drawn:
            finding = self._drawn(drawn[0])
        else:
            return Outcome(status="passed", margin=margin)
        return self.outcome([finding], margin=margin)

    def _drawn(self, fault: Fault) -> Finding:
        where = f"; random numbers are drawn by {fault.detail}" if fault.detail else ""
        return self.finding(
            f"backward draws random numbers: from another random state the gradient of {fault.block or 'a block'} differs by "
            f"{fault.size:.2g} of its largest entry{where}",
            observed=fault.size,
            limit=fault.limit,
            location=fault.detail,
            module=fault.detail.partition(" (")[0],
            evidence="two backward passes on one graph, from two random states",
            likely="backward recomputes dropout with another mask (a checkpoint with preserve_rng_state=False)",
            hint="save the mask, or restore the random state before recomputing",
        )
