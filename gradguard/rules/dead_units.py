"""GG201."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.gentler_run import GentlerRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import LONGER, progress
from gradguard.measurements.training_run import TrainingRun
from gradguard.measurements.units import LayerState, UnitStates
from gradguard.rules.base import Rule

__all__ = ["DeadUnits"]

CHANCE = 1e-3
"""A unit whose input hardly varies is dead at birth with a chance of one half: a layer of a few units may be, by chance."""
SAME = 1e-4
"""Relative spread of the outputs over samples below which they are the same for all."""


@dataclass(frozen=True, kw_only=True)
class DeadUnits(Rule):
    """Units through which no gradient passes, for any sample seen.

    What it does:
        Takes per unit the largest derivative of its activation over all samples and all positions seen (exactly 0 for
        ReLU and its kind; below 1e-3 for smooth activations), before and after the training run. A whole dead layer is
        an error, and so is one of ten units or more that loses most of them (``lost``) in the run. Half of a layer, or all
        of a layer of fewer than ten units (which may be chance) that has a way around it, is an error where training fails.
        Where half of a layer was alive and died, and the loss has not fallen by half (of what guessing gives, where that is
        known), the same training at a tenth of the rate decides: an error where it ends lower by more than ``harm`` of what
        it gains. Pruned units (all incoming weights exactly 0) do not count.

    Why is this bad:
        A dead unit never learns again: its gradient is 0, and so is that of everything that acts through it alone.

    What to do:
        Dead at birth: He initialisation, biases at 0, inputs of mean 0, a normalisation or residual connections in deep
        nets. Died in training: a lower learning rate, warm-up, clipping; or LeakyReLU, GELU.

    When it is healthy:
        Trained nets have up to a quarter of a layer silent on a batch of 32, and up to a sixth over all samples; a sparse
        layer up to 40 %. The fraction of zeros (25 to 60 %) says nothing.

    Options:
        dead: share of a layer's units that is an error, with the conditions above.
        lost: share that is an error whatever the loss does, where half of the layer was alive at the start.
        warn: share that is a warning.
        samples: values per unit without which a share is no verdict.
        harm: how much lower a tenth of the rate must end, as a share of what it gains, for units that died to be an error.

    References:
        Lu et al. 2019, Dying ReLU and initialization; Sokar et al. 2023, The dormant neuron phenomenon (arXiv:2302.12902).
    """

    code: ClassVar[str] = "GG201"
    slug: ClassVar[str] = "dead-units"
    needs: ClassVar[tuple[str, ...]] = ("units",)
    optional: ClassVar[tuple[str, ...]] = ("training_run", "passes")

    dead: float = 0.5
    lost: float = 0.8
    warn: float = 0.2
    samples: int = 64
    harm: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.warn <= self.dead <= 1:
            raise UsageError(f"GG201 takes 0 < warn <= dead <= 1, got warn={self.warn}, dead={self.dead}")
        if not 0 < self.lost <= 1:
            raise UsageError(f"GG201 takes 0 < lost <= 1, got lost={self.lost}")
        if not self.harm > 0:
            raise UsageError(f"GG201 takes harm > 0, got harm={self.harm}")

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding: the first layer that is wrong, the others named with it; without one, a warning for each layer."""
        states = the(evidence, UnitStates)
        consequence = progress(evidence)
        gentler: GentlerRun | None = the(evidence, GentlerRun)
        harm = gentler.behind if gentler is not None else math.nan
        failed: list[LayerState] = []
        warned: list[LayerState] = []
        unsure, killed = False, False
        worst = 0.0
        for state in states.last:
            if not state.units or state.samples < 8:
                continue
            share = state.dead / state.units
            worst = max(worst, share)
            enough = state.samples >= self.samples
            whole = state.dead == state.units and (enough or state.units > 1)
            died = state.dead - state.born_dead >= self.dead * state.units
            hinders = consequence.verdict == "fails" or (died and not consequence.strong and harm > self.harm)
            many = 0.5**state.units < CHANCE
            certain = died or many or not _around(state, evidence)
            partly = share >= self.dead and (hinders or (many and died and share >= self.lost))
            if (whole and (certain or hinders)) or (partly and enough):
                failed.append(state)
            elif share >= self.warn and (enough or whole):
                warned.append(state)
                unsure = unsure or (share >= self.dead and not consequence.strong)
                killed = killed or (died and not consequence.strong)
        requests = (LONGER,) if unsure and not consequence.longest else ()
        again = (Request(measurement=GentlerRun.name),) if killed and gentler is None else ()
        text = consequence.text
        if harm > self.harm:
            text += f"; a tenth of the rate ends lower, by {harm:.2g} of what it gains"
        if failed:
            first = next((s for s in failed if s.dead == s.units), failed[0])
            return self.outcome(
                [self._finding(first, failed, text, "error")], margin=worst / self.dead, requests=(*requests, *again)
            )
        findings = [self._finding(state, [state], text, "warning") for state in warned]
        return self.outcome(findings, margin=worst / self.dead, requests=(*requests, *again))

    def _finding(self, state: LayerState, layers: list[LayerState], consequence: str, severity: str) -> Finding:
        born = state.born_dead >= 0.5 * state.dead
        when = "at birth" if born else f"died by step {state.step}"
        upper = 3.84 / (state.samples + 3.84)
        return self.finding(
            f"{state.name}: {state.dead} of {state.units} units dead, {when}",
            severity="error" if severity == "error" else "warning",
            module=state.module or state.layer,
            location=state.block,
            step=state.step,
            observed=state.dead / state.units,
            limit=self.dead,
            count=state.dead,
            total=state.units,
            pattern=when,
            evidence=(
                f"no gradient passes for any of {state.samples} values per unit "
                f"(true rate below {100 * upper:.2g} % with 95 % confidence); "
                f"{consequence}" + self._others(state, layers)
            ),
            likely=(
                "biases far below 0, inputs or weights on a wrong scale, or depth without normalisation or residual connections"
                if born
                else "steps too large: the learning rate, a spike in the gradient, or a missing warm-up"
            ),
            hint=(
                "He initialisation with biases at 0, a normalisation before the activation, or a residual connection"
                if born
                else "a lower learning rate, warm-up, gradient clipping; or LeakyReLU or GELU"
            ),
        )

    @staticmethod
    def _others(state: LayerState, layers: list[LayerState]) -> str:
        others = [f"{s.name} {s.dead} of {s.units}" for s in layers if s is not state]
        return f"; also {', '.join(others[:6])}{', ...' if len(others) > 6 else ''}" if others else ""


def _around(state: LayerState, evidence: Evidence) -> bool:
    """Whether the model has a way around a dead layer: without one all outputs are the same, and nothing before it learns."""
    passes = the(evidence, Passes)
    if passes is None:
        return False
    if passes.last.outputs is not None:
        return bool(passes.last.outputs.spread > SAME)
    run = the(evidence, TrainingRun)
    order = passes.last.order
    if run is None or state.block not in order or not len(run.trace.gradient):
        return False
    largest = dict(zip(run.trace.blocks, np.nanmax(run.trace.gradient, axis=0).tolist(), strict=True))
    return any(largest.get(block, 0.0) > 0 for block in order[: order.index(state.block)])
