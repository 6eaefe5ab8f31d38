"""``watch``: training health of a loop that is the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradguard.adapters.base import Settings
from gradguard.errors import UsageError
from gradguard.finding import Check
from gradguard.health import HEALTH
from gradguard.judging import check_ignores, judge
from gradguard.measurements.base import Measurement, Unavailable
from gradguard.measurements.modes import Modes
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import NeverStepped, TrainingRun
from gradguard.measurements.underflow import Underflow
from gradguard.report import Report
from gradguard.rules.limits import build_rules, parse_limits
from gradguard.rules.registry import RULES, select_rules
from gradguard.running import run_row
from gradguard.scenarios import OBJECTIVES, Ignore, as_ignores

if TYPE_CHECKING:
    from gradguard.adapters.observing_base import Look
    from gradguard.adapters.torch_watch import TorchWatch

__all__ = ["Watch", "watch"]

LOOP_RULES = ("GG402", "GG403")
"""Rules of the learning rate that a watched loop is enough for."""
LOSS_RULES = ("GG402",)
"""Those of them that say nothing without losses."""
LOOK_RULES = ("GG201", "GG202", "GG205", "GG206", "GG207")
"""Rules that only a look at a pass can judge."""


class Watch:
    """What is seen of a loop. Made by :func:`watch`."""

    def __init__(
        self,
        seen: TorchWatch,
        select: Iterable[str] | str | None,
        ignore: Any,
        limits: Mapping[str, Mapping[str, Any]] | None,
    ) -> None:
        self._seen = seen
        self._codes, self._limits = watched_rules(select), parse_limits(limits or {}, "limits")
        self._ignores = check_ignores(as_ignores(ignore))

    def record(self, loss: Any = None, output: Any = None, labels: Any = None) -> None:
        """The loss of this batch, and the outputs and labels where you have them.

        Before or after its backward, or its step; before, its graph still shows predictions and labels by itself.

        Nothing is transferred from the device now. Without the loss, rules that need it are skipped and say so.

        Raises:
            UsageError: the loss is no scalar.
        """
        self._seen.record(loss, output, labels)

    def report(self) -> Report:
        """What was seen so far, judged; also after an exception in the loop."""
        seen = self._seen
        start, end = seen.passes()
        evidence: dict[str, Measurement] = {
            "training_run": TrainingRun(
                trace=seen.trace(),
                parameters=seen.parameters,
                optimizer=seen.optimizer,
                objective=seen.objective,
                asked=seen.steps.count,
                source="watch",
                stale=seen.stale.share,
                cut=seen.cut,
                idle=seen.steps.idle.facts(seen.named),
                notes=seen.notes,
                path=seen.path,
            ),
            "passes": Passes(start=start, end=end, path=seen.path, reason=unseen(start, end)),
        }
        for name in ("leaks", "padding", "dependence", "long_run", "rate_observation", "overfit"):
            evidence[name] = Unavailable(wanted=name, reason="a watched loop is not run again: use check_training")
        evidence["modes"] = Modes(facts=seen.modes.facts(), path=seen.path)
        lost = seen.flushes.lost
        evidence["underflow"] = (
            Underflow(lost=lost) if lost else Unavailable(wanted="underflow", reason=f"not measured: {seen.flushes.reason}")
        )
        if seen.unlooked:
            evidence["units"] = Unavailable(wanted="units", reason=seen.unlooked)
            if not seen.something:
                evidence["passes"] = Unavailable(wanted="passes", reason=seen.unlooked)
        if not seen.steps.count:
            reason = "no optimizer step was seen" if seen.optimizers else "no optimizer was given"
            losses = seen.recorded.graphs if seen.optimizers else 0
            evidence["training_run"] = NeverStepped(wanted="training_run", reason=reason, losses=losses)
            evidence["modes"] = Unavailable(wanted="modes", reason=reason)
        recorded = seen.recorded.count > 0
        rules = build_rules([code for code in self._codes if recorded or code not in LOSS_RULES], self._limits)
        report = judge(seen, rules, Settings(steps=max(1, seen.steps.count)), ignores=self._ignores, evidence=evidence)
        silent = [] if recorded else [code for code in self._codes if code in LOSS_RULES]
        checks = [Check(scenario="", code=c, rule=RULES[c][0], status="skipped", reason="no loss was recorded") for c in silent]
        judged = [
            replace(c, status="skipped", reason=seen.unlooked)
            if seen.unlooked and c.code in LOOK_RULES and c.status == "passed"
            else c
            for c in report.checks
        ]
        report = Report(report.findings, (*judged, *checks), report.rows)
        report.rows["runs"] = [run_row(seed=0)]
        return report


def watched_rules(select: Iterable[str] | str | None) -> list[str]:
    """The codes of the selected rules that a loop can be judged by.

    Raises:
        UsageError: there are none.
    """
    own = [code for code in select_rules(select) if code.startswith(HEALTH) or code in ("GG901", *LOOP_RULES)]
    if not own:
        raise UsageError(
            f"select={select!r} leaves no rule that watch judges",
            todo=f"it judges {', '.join(f'{prefix}xx' if len(prefix) < 5 else prefix for prefix in (*HEALTH, *LOOP_RULES))}",
        )
    return own


def not_watched(model: Any) -> UsageError:
    """Something that is no module, or holds something else beside modules."""
    inside = list(model.values()) if isinstance(model, Mapping) else model
    if isinstance(inside, list | tuple) and inside:
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in inside))
        return UsageError(
            f"watch takes a torch.nn.Module, or a dict or sequence of them, got a {type(model).__name__} of {kinds}",
            todo="give the modules only; for NumPy models use check_training",
        )
    return UsageError(
        f"watch takes a torch.nn.Module, or a dict or sequence of them, got {type(model).__name__}",
        todo="for NumPy models use check_training",
    )


def wrapped_optimizer(given: Any) -> str:
    """What to give instead."""
    inner = next((name for name in ("optimizer", "base_optimizer") if hasattr(given, name)), "")
    return f"give the torch optimizer inside it: optimizer.{inner}" if inner else "optimizer=torch.optim.AdamW(...)"


def unseen(*looks: Look | None) -> str:
    """What could not be looked at, in words."""
    failures = dict.fromkeys(failure for look in looks if look is not None for failure in look.failures)
    return f"not looked at: {', '.join(failures)}" if failures else ""


@contextmanager
def watch(
    model: Any,
    *,
    optimizer: Any = None,
    objective: Any = "supervised",
    every: int = 10,
    looks_every: int = 200,
    units: str = "looks",
    select: Iterable[str] | str | None = None,
    ignore: Iterable[Ignore | str] | Ignore | str = (),
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Watch]:
    """Watch a training loop; nothing is left behind after the block, also when it raises.

    Gradients are read when the optimizer's step begins: after unscaling, clipping and accumulation, before the step changes
    them. Memory does not grow with the number of steps. Training is bitwise the same with and without ``watch``.

    Args:
        model: the torch module that is trained, or a dict or sequence of them (a GAN, actor and critic).
        optimizer: its optimizer, or a sequence or dict of them.
        objective: ``"supervised"``, ``"adversarial"``, ``"reinforcement"`` or ``"metric"``.
        every: norms are taken at every ``every``-th step (and at each of the first 20).
        looks_every: forward passes between two looks at units at most (the first three, and ever rarer ones, are looked at).
        units: ``"looks"``, or ``"every"`` to follow ReLU units on every step.
        select: rules by code, slug or prefix.
        ignore: accepted findings, each with its reason.
        limits: options of rules by code.

    Raises:
        UsageError: the model is no torch module or has no parameters, an optimizer is none, or an argument is out of range.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        raise not_watched(model)
    from gradguard.adapters.torch_watch import TorchWatch, one_model

    module = one_model(model)
    if module is None:
        raise not_watched(model)
    if not any(True for _ in module.parameters()):
        raise UsageError("the model has no parameters", where=type(model).__name__)
    if isinstance(optimizer, Mapping):
        optimizer = list(optimizer.values())
    given = [] if optimizer is None else list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    optimizers = list({id(one): one for one in given}.values())
    for one in optimizers:
        if not isinstance(one, torch.optim.Optimizer):
            raise UsageError(
                f"optimizer takes a torch optimizer or a sequence of them, got {type(one).__name__}",
                todo=wrapped_optimizer(one),
            )
    if objective not in OBJECTIVES:
        raise UsageError(f"objective={objective!r} is unknown", todo=f"one of {', '.join(OBJECTIVES)}")
    for name, value in (("every", every), ("looks_every", looks_every)):
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} takes a whole number of at least 1, got {value!r}")
    if units not in ("looks", "every"):
        raise UsageError(f"units={units!r} is unknown", todo="'looks' or 'every'")
    seen = TorchWatch(module, optimizers, objective=objective, every=every, looks_every=looks_every, units=units)
    watched = Watch(seen, select, ignore, limits)
    with seen.installed():
        yield watched
