"""GG303."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradguard.adapters.idle_base import IdleOptimizer
from gradguard.adapters.training_base import ParameterFacts
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.dependence import Dependence
from gradguard.measurements.passes import Passes
from gradguard.measurements.progress import Progress, progress
from gradguard.measurements.training_run import NeverStepped, TrainingRun
from gradguard.rules.base import Rule

__all__ = ["UntrainedParameter"]

MOST = 24
"""Modules whose influence on the loss is tried."""
LONG = 100
"""Steps of the others after which predictions that are no better than guessing convict an optimizer that never stepped."""


@dataclass(frozen=True, kw_only=True)
class UntrainedParameter(Rule):
    """Parameters that should train and do not: no gradient ever reaches them, or no optimizer holds them.

    What it does:
        Follows every trainable parameter through the training run. A module none of whose parameters ever gets a gradient
        is tried: its weights are moved, and where the loss changes the graph is cut between the two, which is an error.
        So are an optimizer that holds another model's parameters while this model's are missing from it, one that holds
        only frozen parameters, a loss without a graph, gradients that are exactly 0 in every parameter at every step, and
        tensors that the loss needs and that parameters() does not list (modules in a plain list). Parameters that no
        optimizer holds, and modules without influence on the loss, are warnings, unless training fails. So is an optimizer
        of a watched loop that never steps while others do, although its parameters get gradients: its turn may come later.
        Where the predictions are no better than guessing after 100 steps, it is an error.

    Why is this bad:
        Part of the model stays as it was initialised, silently; the rest adapts to noise.

    What to do:
        Remove the detach(), .data, no_grad, .item() or numpy round trip between the module and the loss; make the
        optimizer after the last change of the model; unfreeze what should train.

    When it is healthy:
        requires_grad=False; a module that this loss does not use; target networks outside the optimizer; branches that
        are skipped at some steps; embedding rows; a bias before a normalisation, and a key bias under softmax, whose
        gradient is 0 by a theorem: a bias alone never counts (the check's reason names such biases).

    Options:
        steps: optimizer steps after which gradients of exactly 0 are a verdict.
        change: relative change of the loss from which on it depends on a module.
        losses: losses with a graph that a loop records without any optimizer step, which are a verdict.

    References:
        PyTorch, Autograd mechanics (docs).
    """

    code: ClassVar[str] = "GG303"
    slug: ClassVar[str] = "untrained-parameter"
    needs: ClassVar[tuple[str, ...]] = ("training_run",)
    optional: ClassVar[tuple[str, ...]] = ("passes",)

    steps: int = 20
    change: float = 1e-7
    losses: int = 30

    def check(self, evidence: Evidence) -> Outcome:
        """As for other rules; a loop that never steps is an error of its own."""
        found = evidence.get("training_run")
        if isinstance(found, NeverStepped) and found.losses >= self.losses:
            return self.outcome(
                [
                    self._wrong(
                        f"{found.losses} losses were recorded and no optimizer ever stepped: nothing is trained",
                        "optimizer.step() is missing, or another optimizer is stepped than the one that was given",
                        "call optimizer.step() after backward()",
                        found.losses,
                    )
                ]
            )
        return super().check(evidence)

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding for each module, and one for the optimizer."""
        run, tried = the(evidence, TrainingRun), the(evidence, Dependence)
        consequence = progress(evidence)
        silent = self._silent(run)
        findings = [*self._stray(run), *self._optimizer(run, silent, consequence), *self._idle(run, consequence)]
        waiting = {name for one in run.idle if waits(one) for name in one.blocks}
        modules = {m: facts for m, facts in self._modules(run, silent).items() if not all(f.name in waiting for f in facts)}
        for module, facts in modules.items():
            found = self._module(module, facts, run, tried, the(evidence, Passes), self._twin(facts, run, silent))
            if found is not None:
                findings.append(found)
        names = tuple(facts[0].name for facts in modules.values())[:MOST]
        requests = [Request(measurement="dependence", about=names)] if names and tried is None else []
        if any(f.severity == "warning" and f.pattern == "not in the optimizer" for f in findings):
            requests.extend(consequence.requests)
        theorem = self._theorems(run)
        reason = (
            f"gradient 0 up to rounding, as a normalisation or softmax that follows makes it: {', '.join(theorem[:6])}"
            if theorem
            else ""
        )
        return self.outcome(merge_nested(findings), requests=tuple(requests), reason=reason)

    def _stray(self, run: TrainingRun) -> list[Finding]:
        """Tensors of the model that ``parameters()`` does not list, and that the loss needs."""
        stray = run.trace.stray
        if not stray or not run.optimizer.name:
            return []
        return [
            self.finding(
                f"{len(stray)} tensors that the loss needs are no parameters of the model: "
                f"{', '.join(stray[:4])}{', ...' if len(stray) > 4 else ''}",
                count=len(stray),
                total=len(stray),
                pattern="not registered",
                location=stray[0],
                evidence="they require a gradient and get one; neither model.parameters() nor the optimizer lists them",
                likely="modules in a plain list or dict, or a tensor that is no nn.Parameter",
                hint="nn.ModuleList, nn.ModuleDict or nn.Parameter; freeze what is not meant to be trained",
            )
        ]

    def _idle(self, run: TrainingRun, consequence: Progress) -> list[Finding]:
        """Optimizers that never step, although their parameters get gradients whenever others do."""
        failed = consequence.verdict == "fails" or (run.objective == "supervised" and run.asked >= LONG and consequence.guesses)
        return [
            self.finding(
                f"optimizer {one.place} of {one.total} ({one.kind}) never stepped in {run.asked} steps of the others, although "
                f"its parameters get gradients: {', '.join(one.blocks[:4])}{', ...' if len(one.blocks) > 4 else ''}",
                severity="error" if failed else "warning",
                count=len(one.blocks),
                total=len(run.trace.blocks),
                pattern="optimizer",
                location=one.blocks[0],
                step=run.asked,
                evidence=f"their gradients were there at {one.arrived} of {one.looks} steps looked at; {consequence.text}",
                likely="a step() that is missing, or that is called on another optimizer",
                hint=f"call step() of optimizer {one.place} too; give watch only what is stepped in this stage",
            )
            for one in run.idle
            if waits(one) and run.asked >= self.steps
        ]

    @staticmethod
    def _twin(facts: list[ParameterFacts], run: TrainingRun, silent: dict[str, str]) -> bool:
        """Whether another module with the same shapes is trained: what is silent may be a target network or an average."""
        shapes = sorted(f.shape for f in facts)
        others: dict[str, list[ParameterFacts]] = {}
        for other in run.parameters:
            if other.module != facts[0].module and other.trainable and other.name not in silent:
                others.setdefault(other.module, []).append(other)
        return any(sorted(f.shape for f in found) == shapes for found in others.values())

    @staticmethod
    def _theorems(run: TrainingRun) -> list[str]:
        """Biases whose gradient is at rounding level beside that of their own module's weight."""
        if not run.trace.steps:
            return []
        largest = {
            name: float(np.nanmax(column)) if not np.isnan(column).all() else 0.0
            for name, column in zip(run.trace.blocks, run.trace.gradient.T, strict=True)
        }
        found = []
        for name, size in largest.items():
            module, _, last = name.rpartition(".")
            weight = largest.get(f"{module}.weight", 0.0)
            if last == "bias" and weight > 0 and size <= 1e-5 * weight:
                found.append(name)
        return found

    def _silent(self, run: TrainingRun) -> dict[str, str]:
        """Trainable blocks without any gradient: ``none`` came, or all were ``zero``, at every step."""
        result = {}
        if not run.trace.steps:
            return {}
        for i, name in enumerate(run.trace.blocks):
            column = run.trace.gradient[:, i]
            if np.isnan(column).all():
                result[name] = "none"
            elif not np.nansum(column) > 0 and len(column) >= self.steps:
                result[name] = "zero"
        return result

    @staticmethod
    def _modules(run: TrainingRun, silent: dict[str, str]) -> dict[str, list[ParameterFacts]]:
        """Modules all of whose trainable parameters are silent, and that have more than a bias of them."""
        by_module: dict[str, list[ParameterFacts]] = {}
        for facts in run.parameters:
            if facts.trainable and facts.name in run.trace.blocks:
                by_module.setdefault(facts.module or facts.name, []).append(facts)
        return {
            module: sorted(found, key=lambda f: -f.size)
            for module, found in by_module.items()
            if all(f.name in silent for f in found) and any(len(f.shape) >= 2 for f in found)
        }

    def _module(
        self,
        module: str,
        facts: list[ParameterFacts],
        run: TrainingRun,
        tried: Dependence | None,
        passes: Passes | None,
        twin: bool,
    ) -> Finding | None:
        name = facts[0].name
        column = run.trace.gradient[:, run.trace.blocks.index(name)]
        none = bool(np.isnan(column).all())
        change = tried.changes.get(name) if tried is not None else None
        cut = module in run.cut or (change is not None and change > self.change)
        held = any(f.group is not None for f in facts)
        called = passes is None or any(m.path == module for m in passes.start.modules) or name in passes.start.order
        severe = cut and held and (run.objective == "supervised" or not twin)
        if not none and change is None and not cut:
            return None
        where = f"module {module} ({facts[0].owner})" if facts[0].owner else f"block {name}"
        if cut:
            message = f"{module}: the loss depends on it, but no gradient reaches it in {len(column)} steps"
            likely = "detach(), .data, no_grad, .item(), a numpy round trip, or an operation without derivative after it"
        elif not called:
            message, likely = f"{module}: never called in this loss", "a branch that this loss does not use"
        else:
            message, likely = (
                f"{module}: called, but the loss does not depend on it",
                "an output that this loss does not use",
            )
        return self.finding(
            message,
            severity="error" if severe else "warning",
            module=module,
            location=name,
            count=len(facts),
            total=len(facts),
            observed=change,
            limit=self.change,
            step=len(column),
            pattern="cut" if cut else "unused",
            evidence=(
                f"{where}: gradient {'None' if none else 'exactly 0'} at all {len(column)} steps"
                + (f"; moving {name} by a tenth changes the loss by {change:.2g} of itself" if change is not None else "")
                + ("" if held else "; no optimizer holds it")
            ),
            likely=likely,
            hint="remove what cuts the graph; or set requires_grad=False where it is meant",
        )

    def _optimizer(self, run: TrainingRun, silent: dict[str, str], consequence: Progress) -> list[Finding]:
        """What is wrong with the pairing of model and optimizer."""
        held = [p for p in run.parameters if p.group is not None]
        missing = [
            p for p in run.parameters if p.trainable and p.group is None and p.name not in silent and p.name in run.trace.blocks
        ]
        trainable = [p for p in run.parameters if p.trainable]
        foreign, total = run.optimizer.foreign, run.optimizer.foreign + run.optimizer.owned
        if not run.optimizer.name:
            return []
        names = ", ".join(p.name for p in missing[:4]) + (", ..." if len(missing) > 4 else "")
        nothing = self._nothing(run, silent)
        if nothing is not None:
            return [nothing]
        if foreign and not held:
            return [
                self._wrong(
                    f"the optimizer holds {foreign} tensors of another model, none of this one",
                    "the optimizer was made before the model was copied, moved or replaced",
                    "make the optimizer from model.parameters() of the model that is trained",
                    foreign,
                    total,
                )
            ]
        alone = [p.name for p in trainable if p.group is None]
        if run.optimizer.same and alone:
            return [
                self._wrong(
                    f"two optimizers hold the same parameters, and none holds {', '.join(alone[:4])}"
                    + (", ..." if len(alone) > 4 else ""),
                    "an optimizer that was made of the wrong module's parameters",
                    "one optimizer for each part, each with its own parameters",
                    len(alone),
                    len(trainable),
                )
            ]
        if run.optimizer.replaced:
            replaced = run.optimizer.replaced
            return [
                self._wrong(
                    f"the optimizer holds {foreign} tensors of another model of the same shapes as {', '.join(replaced[:4])}"
                    + (", ..." if len(replaced) > 4 else "")
                    + ", which none holds",
                    "the optimizer was made before the model was copied, moved or replaced",
                    "make the optimizer from the parameters of the model that is trained",
                    foreign,
                    total,
                )
            ]
        if foreign and missing:
            return [
                self._wrong(
                    f"the optimizer holds {foreign} tensors of another model; {names} of this one are missing from it",
                    "a part of the model was replaced after the optimizer was made",
                    "make the optimizer after the last change of the model",
                    foreign,
                    total,
                )
            ]
        if held and not any(p.trainable for p in held):
            return [
                self._wrong(
                    f"all {len(held)} parameters in the optimizer are frozen: nothing can change",
                    "requires_grad=False on what the optimizer holds",
                    "unfreeze them, or give the optimizer the parameters that should train",
                    len(held),
                    len(held),
                )
            ]
        if missing:
            failed = consequence.verdict == "fails"
            return [
                self.finding(
                    f"{len(missing)} trainable parameters get a gradient but are in no optimizer: {names}",
                    severity="error" if failed else "warning",
                    count=len(missing),
                    total=len(trainable),
                    pattern="not in the optimizer",
                    module=missing[0].module,
                    location=missing[0].name,
                    evidence=consequence.text,
                    likely="parameters left out of the optimizer",
                    hint="give them to the optimizer, or set requires_grad=False where they are meant to stay",
                )
            ]
        return []

    def _nothing(self, run: TrainingRun, silent: dict[str, str]) -> Finding | None:
        """No parameter has a gradient, or only zeros, whenever the optimizer steps."""
        trainable = [p for p in run.parameters if p.trainable and p.name in run.trace.blocks]
        held = [p for p in trainable if p.group is not None] or trainable
        losses = np.abs([loss for loss in run.trace.losses if np.isfinite(loss)])
        if not held or not run.trace.steps or not all(p.name in silent for p in held):
            return None
        if all(silent[p.name] == "none" for p in held):
            watched = run.source == "watch"
            return self._wrong(
                "no parameter has a gradient at any step" if watched else "the loss has no graph: no parameter gets a gradient",
                "loss computed under no_grad, from .item() or .data"
                + ("; or zero_grad() between backward() and step()" if watched else ""),
                "return a loss that autograd can follow"
                + (", and clear gradients before backward()" if watched else ""),
            )
        if losses.size and not np.median(losses) > 1e-6:  # nothing is left to be learned
            return None
        return self._wrong(
            f"every gradient is exactly 0 at all {len(run.trace.steps)} steps: nothing can change",
            "zero_grad() between backward() and step(), or a product with 0 before the loss",
            "clear gradients before backward(), not after it",
            len(held),
            len(held),
        )

    def _wrong(self, message: str, likely: str, hint: str, count: int | None = None, total: int | None = None) -> Finding:
        return self.finding(message, count=count, total=total, likely=likely, hint=hint, pattern="optimizer")


def waits(one: IdleOptimizer) -> bool:
    """At most steps of the others its parameters had gradients that it could have used."""
    return 2 * one.arrived > one.looks


def merge_nested(findings: list[Finding]) -> list[Finding]:
    """Many modules behind one cut are one finding: the last of them, with the others counted."""
    cuts = [f for f in findings if f.pattern == "cut" and f.severity == "error"]
    if len(cuts) < 2:
        return findings
    from dataclasses import replace

    last = cuts[-1]
    others = ", ".join(f.module for f in cuts[:-1][:6])
    total = sum(f.count or 0 for f in cuts)
    merged = replace(last, count=total, total=total, evidence=f"{last.evidence}; the same holds for {others}")
    return [f for f in findings if f not in cuts] + [merged]
