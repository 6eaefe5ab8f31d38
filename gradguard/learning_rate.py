"""Say before training whether a learning rate will hold, and which would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradguard.adapters.base import Settings
from gradguard.adapters.rates_base import RateProblem, adapt_rates
from gradguard.errors import UsageError
from gradguard.rules.base import Rule
from gradguard.rules.limits import build_rules
from gradguard.rules.registry import RULES, rule_class, select_rules
from gradguard.running import run_row

if TYPE_CHECKING:
    from gradguard.measurements.range_test import RangeTest
    from gradguard.report import Report
    from gradguard.scenarios import Ignore, Scenario

__all__ = [
    "audit_learning_rate", "check_learning_rate", "check_width_scaling", "learning_rate_problem", "learning_rate_rules",
    "range_test",
]

CODES = ("GG401", "GG403", "GG404", "GG405")
"""The rules that a scenario is enough for; GG402 needs a watched loop, GG407 a scenario of several widths."""
STEPS = 50


def learning_rate_rules(
    select: Iterable[str] | str | None = None, limits: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Rule]:
    """The learning-rate rules that ``select`` names (None: all), with their limits.

    Raises:
        UsageError: the selection names no rule.
    """
    wanted = set(CODES) if select is None else set(select_rules(select))
    chosen = [code for code in CODES if code in wanted and code in RULES]
    return build_rules(chosen, limits or {})


def learning_rate_problem(
    scenario: Scenario,
    *,
    steps: int = STEPS,
    seed: int = 0,
    schedule: Any = None,
    clip: float | None = None,
    curvature_batches: int = 1,
) -> tuple[RateProblem, Settings]:
    """The scenario as a problem for :func:`gradguard.judging.judge`, and the settings to judge it with.

    Raises:
        UsageError: there is no optimizer, the model cannot be trained, or there is nothing to train on.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 8:
        raise UsageError(f"steps takes a whole number of at least 8, got {steps!r}", todo="steps=50")
    if not isinstance(curvature_batches, int) or curvature_batches < 1:
        raise UsageError(f"curvature_batches takes a whole number of at least 1, got {curvature_batches!r}")
    settings = Settings(seed=seed, steps=steps)
    problem = adapt_rates(scenario, settings, schedule=schedule, clip=clip)
    for group, rate in enumerate(problem.training.optimizer.lrs):
        if not 0 <= rate < math.inf:
            raise UsageError(
                f"the learning rate of parameter group {group} is {rate!r}", where="optimizer", todo="set a finite rate above 0"
            )
    problem.plan = replace(problem.plan, curvature_batches=curvature_batches)
    return problem, settings


def check_learning_rate(
    model: Any,
    batches: Any,
    *,
    loss: Any,
    optimizer: Any,
    steps: int = STEPS,
    grad: Any = None,
    seed: int = 0,
    schedule: Any = None,
    clip: float | None = None,
    curvature_batches: int = 1,
    outputs: Any = None,
    labels: Any = None,
    objective: Any = "supervised",
    select: Iterable[str] | str | None = None,
    ignore: Sequence[Ignore | str] | Ignore | str = (),
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Whether training holds at the optimizer's rates, which rate would, and what curvature says of it.

    Copies are trained, at most ten times from the state that is given, at different multiples of the rates: for ``steps``
    steps by decades, then for six times as many near the limit; nothing of the user's is changed. A verdict on what is
    finite is confirmed by one to four more runs of that length. ``loss(model, batch) -> scalar``. ``schedule`` is a function
    step -> factor on the rates, or a torch scheduler (a copy of it is followed); ``clip`` the norm that the loop clips
    gradients to. Curvature is measured on the first batch, or on ``curvature_batches`` of them, of which the sharpest
    counts. In NumPy ``grad(model, batch)`` mirrors the (nested) dict ``model``, and ``optimizer`` is ``gg.SGD``.

    The table ``learning_rate`` has a row per parameter group: ``first_step_limit``, above which the next steps overshoot (it is
    ``curvature_limit``, what curvature predicts, where the steps themselves agree), and ``training_limit`` between
    ``training_low`` and ``training_high``, observed; they are different numbers. The table ``rates`` has the runs.

    Raises:
        UsageError: no optimizer, no batches, a loss that raises or is no scalar, a model that cannot be trained, a rate that
            is not finite, no rule selected.
    """
    from gradguard.judging import check_ignores, judge
    from gradguard.scenarios import Scenario, as_ignores

    scenario = Scenario(
        model, batches, loss, optimizer=optimizer, grad=grad, outputs=outputs, labels=labels, objective=objective
    )
    ignores = check_ignores(as_ignores(ignore))
    problem, settings = learning_rate_problem(
        scenario, steps=steps, seed=seed, schedule=schedule, clip=clip, curvature_batches=curvature_batches
    )
    facts = problem.training.optimizer
    if facts.foreign and not facts.owned:
        raise UsageError(
            f"the optimizer holds none of this model's parameters ({facts.foreign} of another's)",
            where="optimizer",
            todo="make it after the model, from model.parameters()",
        )
    rules = learning_rate_rules(select, limits)
    if not rules:
        raise UsageError(
            f"none of the selected rules is judged by check_learning_rate: {select!r}",
            todo=f"select some of {', '.join(CODES)}",
        )
    report = judge(problem, rules, settings, ignores=ignores)
    report.rows["runs"] = [run_row(seed=seed)]
    return report


def audit_learning_rate(
    scenario: Scenario, settings: Settings, rules: Sequence[Rule], name: str, ignores: Sequence[Ignore]
) -> Report:
    """The learning-rate rules on a scenario; skipped, with the reason, where it has no optimizer.

    Raises:
        UsageError: the scenario cannot be trained as it is.
    """
    from gradguard.finding import Check
    from gradguard.judging import judge
    from gradguard.report import Report

    if scenario.optimizer is None:
        return Report(
            (), [Check(scenario=name, code=r.code, rule=r.slug, status="skipped", reason="no optimizer") for r in rules]
        )
    settings = replace(settings, steps=max(settings.steps, STEPS))
    problem = adapt_rates(scenario, settings)
    problem.plan = replace(problem.plan, refine=False)  # a verdict on the rate as it is needs no exact limit
    return judge(problem, rules, settings, scenario=name, ignores=ignores)


def check_width_scaling(
    build: Callable[[int], Scenario],
    widths: Sequence[int] = (32, 64, 128, 256),
    *,
    steps: int = 3,
    seeds: int = 3,
    seed: int = 0,
) -> Report:
    """Whether a model's outputs, and what a few steps add to them, keep their size as it gets wider (GG407).

    ``build(width)`` returns a fresh :class:`gradguard.Scenario` of a torch model with its optimizer; it is called for
    every width and seed.

    Raises:
        UsageError: fewer than three different widths, or a scenario that cannot be built or trained.
    """
    from gradguard.adapters.torch_widths import TorchWidths
    from gradguard.judging import judge

    if not callable(build):
        raise UsageError(f"build takes a function width -> gg.Scenario, got {type(build).__name__}", where="build")
    if len(set(widths)) < 3 or any(not isinstance(w, int) or w < 1 for w in widths):
        raise UsageError(
            f"widths takes at least three different whole numbers, got {tuple(widths)!r}", todo="widths=(32, 64, 128, 256)"
        )
    for name, value in (("steps", steps), ("seeds", seeds)):
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} takes a whole number of at least 1, got {value!r}")
    settings = Settings(seed=seed, steps=steps)
    return judge(TorchWidths(build, widths, seeds=seeds), [rule_class("GG407")()], settings)


def range_test(
    model: Any,
    batches: Any,
    *,
    loss: Any,
    optimizer: Any,
    steps: int = 20,
    grad: Any = None,
    seed: int = 0,
    schedule: Any = None,
    clip: float | None = None,
) -> RangeTest:
    """What each of 13 rates, a thousandth to a thousand times the optimizer's, gains in ``steps`` steps from this state.

    Each rate is run three times on a copy, with other orders of batches; ``points`` are the gains with their spread,
    ``suggestion`` the lowest rate that gains nine tenths of the best, of those that hold in most of their runs and in three
    more, six times as long. As text: :func:`gradguard.rendering.rates.render_rates`.

    Raises:
        UsageError: as for :func:`check_learning_rate`, every rate is 0, or a loss is not finite before training.
    """
    import numpy as np

    from gradguard.measurements.base import Unavailable
    from gradguard.measurements.range_test import RangeTest, measure
    from gradguard.scenarios import Scenario

    scenario = Scenario(model, batches, loss, optimizer=optimizer, grad=grad)
    problem, settings = learning_rate_problem(scenario, steps=steps, seed=seed, schedule=schedule, clip=clip)
    with np.errstate(all="ignore"):  # rates that are far too high are part of the test
        found = measure(problem, settings, {}, ())
    if isinstance(found, Unavailable):
        zero = not any(rate > 0 for rate in problem.training.optimizer.lrs)
        where, todo = ("optimizer", "set a rate above 0") if zero else ("loss(model, batch)", "look at that batch and the loss")
        raise UsageError(found.reason, where=where, todo=todo)
    if not isinstance(found, RangeTest):
        raise TypeError(type(found).__name__)
    return found
