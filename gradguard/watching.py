"""``watch``: training health of a loop that is the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradguard.adapters.base import Settings
from gradguard.errors import UsageError
from gradguard.finding import Check
from gradguard.health import health_rules
from gradguard.judging import check_ignores, judge
from gradguard.measurements.base import Measurement, Unavailable
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun
from gradguard.report import Report
from gradguard.rules.registry import RULES, rule_class, select_rules
from gradguard.running import run_row
from gradguard.scenarios import OBJECTIVES, Ignore, as_ignores

if TYPE_CHECKING:
    from gradguard.adapters.torch_watch import TorchWatch

__all__ = ["Watch", "watch"]

LOOP_RULES = ("GG402",)
"""Rules of the learning rate that a watched loop is enough for."""


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
        self._select, self._limits = select, limits
        self._ignores = check_ignores(as_ignores(ignore))

    def record(self, loss: Any = None, output: Any = None, labels: Any = None) -> None:
        """The loss of this batch (before or after its backward), and the outputs and labels where you have them.

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
                optimizer=seen.optimizer_facts(),
                objective=seen.objective,
                asked=seen.steps,
                source="watch",
                stale=seen.stale.share,
                cut=seen.cut,
                notes=seen.notes,
                path=seen.path,
            ),
            "passes": Passes(start=start, end=end, path=seen.path),
        }
        for name in ("leaks", "padding", "underflow", "dependence", "long_run"):
            evidence[name] = Unavailable(wanted=name, reason="a watched loop is not run again: use check_training")
        if not seen.looks:
            reason = seen.notes[0] if seen.notes else "the model itself was never called with gradients enabled"
            evidence["passes"] = Unavailable(wanted="passes", reason=reason)
        if not seen.steps:
            reason = "no optimizer step was seen" if seen.optimizers else "no optimizer was given"
            evidence["training_run"] = Unavailable(wanted="training_run", reason=reason)
        chosen = set(select_rules(self._select))
        rules = health_rules(self._select, self._limits)
        loops = LOOP_RULES if seen.recorded else ()
        rules += [
            rule_class(code)(**dict((self._limits or {}).get(code, {}))) for code in loops if code in RULES and code in chosen
        ]
        report = judge(seen, rules, Settings(steps=max(1, seen.steps)), ignores=self._ignores, evidence=evidence)
        silent = [] if seen.recorded else [c for c in LOOP_RULES if c in RULES and c in chosen]
        checks = [Check(scenario="", code=c, rule=RULES[c][0], status="skipped", reason="no loss was recorded") for c in silent]
        report = Report(report.findings, (*report.checks, *checks), report.rows)
        report.rows["runs"] = [run_row(seed=0)]
        return report


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
        model: the torch module that is trained.
        optimizer: its optimizer, or a sequence of them.
        objective: ``"supervised"``, ``"adversarial"``, ``"reinforcement"`` or ``"metric"``.
        every: norms are taken at every ``every``-th step (and at each of the first 20).
        looks_every: forward passes between two looks at units (the first three are looked at).
        units: ``"looks"``, or ``"every"`` to follow ReLU units on every step.
        select: rules by code, slug or prefix.
        ignore: accepted findings, each with its reason.
        limits: options of rules by code.

    Raises:
        UsageError: the model is no torch module or has no parameters, an optimizer is none, or an argument is out of range.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"watch takes a torch.nn.Module, got {type(model).__name__}", todo="for NumPy models use check_training"
        )
    if not any(True for _ in model.parameters()):
        raise UsageError("the model has no parameters", where=type(model).__name__)
    optimizers: Sequence[Any] = (
        [] if optimizer is None else list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    )
    for one in optimizers:
        if not isinstance(one, torch.optim.Optimizer):
            raise UsageError(f"optimizer takes a torch optimizer or a sequence of them, got {type(one).__name__}")
    if objective not in OBJECTIVES:
        raise UsageError(f"objective={objective!r} is unknown", todo=f"one of {', '.join(OBJECTIVES)}")
    for name, value in (("every", every), ("looks_every", looks_every)):
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} takes a whole number of at least 1, got {value!r}")
    if units not in ("looks", "every"):
        raise UsageError(f"units={units!r} is unknown", todo="'looks' or 'every'")
    from gradguard.adapters.torch_watch import TorchWatch

    seen = TorchWatch(model, optimizers, objective=objective, every=every, looks_every=looks_every, units=units)
    watched = Watch(seen, select, ignore, limits)
    with seen.installed():
        yield watched
