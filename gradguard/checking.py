"""The library's front door: ``check_gradients`` and ``audit``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gradguard.adapters.base import Differentiable, Settings
from gradguard.adapters.variants import Variant, variants_of
from gradguard.errors import UsageError
from gradguard.finding import Check
from gradguard.health import HEALTH, audit_health
from gradguard.judging import check_ignores, judge
from gradguard.learning_rate import CODES as RATES
from gradguard.learning_rate import audit_learning_rate
from gradguard.progress import Bar
from gradguard.report import Report, merge
from gradguard.rules.base import Rule
from gradguard.rules.limits import build_rules
from gradguard.rules.registry import RULES, select_rules
from gradguard.rules.triage import triage
from gradguard.running import run_row
from gradguard.scenarios import Ignore, Scenario, as_ignores
from gradguard.varying import varied

__all__ = ["Family", "audit", "check_gradients", "gradient_rules"]

MOST_BATCHES = 50
"""Batches that are kept of an iterator that can be read only once."""
METHODS = ("directional", "entrywise")
PRECISIONS = ("auto", "float64", "native")


def gradient_rules(
    select: Iterable[str] | str | None = None, limits: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Rule]:
    """The selected rules that judge gradients at a point, with their options."""
    chosen = set(select_rules(select))
    codes = [code for code in sorted(RULES) if code.startswith(("GG1", "GG9")) and code in chosen]
    return build_rules(codes, limits or {})


def check_gradients(
    f: Any,
    inputs: Any,
    *,
    loss: Callable[[Any], Any] | None = None,
    grad: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    batched: bool | Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | str | None = None,
    reference: Any = None,
    order: int = 1,
    method: str = "directional",
    precision: str = "auto",
    vary: bool = False,
    seed: int = 0,
    select: Iterable[str] | str | None = None,
    ignore: Iterable[Ignore | str] | Ignore | str = (),
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Compare a gradient with vectorised finite differences.

    Args:
        f: a torch module, a function on torch tensors, or a function on NumPy arrays.
        inputs: one array or tensor, a tuple (positional) or a dict (keyword); nested containers are allowed.
        loss: ``loss(output) -> scalar``; without it a random signed cotangent over all differentiable outputs.
        grad: for NumPy, the gradient under test: ``grad(*inputs)`` of a scalar-valued ``f``.
        vjp: for NumPy, the product under test: ``vjp(cotangent, *inputs)``.
        batched: for NumPy, True where ``f`` also takes its differentiated inputs with a leading axis, or a function that
            does: entries are then evaluated together. It is verified before it is believed.
        kwargs: constants passed on to ``f``.
        wrt: globs over block names; without it the parameters and inputs that require a gradient.
        reference: a plain implementation (of a module: a module with the same parameters, whose values are copied into a
            copy of it). Its error in the same low precision is what ``f`` is measured by, in GG111.
        order: 2 also compares the gradient of the gradient (double backward) with differences of the gradient.
        method: ``"directional"`` (cost independent of the number of parameters) or ``"entrywise"`` (every entry).
        precision: ``"auto"``, ``"float64"`` (lifted, or an error) or ``"native"``.
        vary: also check variants of the inputs (exact zeros, ties, whole numbers, the other sign, repeated indices, batches
            of 1 and 3, sizes one more and one less); a variant that ``f`` does not take is skipped, and said.
        seed: of tangents, cotangents, and of the random numbers that the model draws.
        select: rules by code, slug or prefix.
        ignore: accepted findings, each with its reason.
        limits: options of rules by code.

    Returns:
        The report; nothing is raised for a wrong gradient.

    Raises:
        UsageError: the check could not be made as asked: what, where, and what to do.
    """
    _one_of("method", method, METHODS)
    _one_of("precision", precision, PRECISIONS)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UsageError(f"seed takes an integer, got {seed!r}", todo="seed=0")
    if order not in (1, 2):
        raise UsageError(f"order={order!r} is unknown", todo="1, or 2 to check the gradient of the gradient, too")
    if not isinstance(kwargs, Mapping | None):
        raise UsageError(f"kwargs takes a dict, got {type(kwargs).__name__}", todo="kwargs={'name': value}")
    if not isinstance(vary, bool):
        raise UsageError(f"vary takes True or False, got {vary!r}", todo="vary=True")
    settings = Settings(seed=seed, order=order, method=method, precision=precision, vary=vary)
    ignores = check_ignores(as_ignores(ignore))
    rules = gradient_rules(select, limits)
    options = {"loss": loss, "grad": grad, "vjp": vjp, "batched": batched, "kwargs": kwargs, "wrt": wrt}

    def run(inputs: Any) -> Report:
        yardstick = _reference(reference, f, inputs, options, settings)
        with Bar() as bar, _adapt(f, inputs, **options, settings=settings) as problem:
            report = judge(problem, rules, replace(settings, progress=bar, reference=yardstick), ignores=ignores)
            report.rows["runs"] = [run_row(seed=seed, dtype=problem.path)]
        return report

    report = run(inputs)
    return varied(report, _variants(f, inputs), run) if vary else report


def _variants(f: Any, inputs: Any) -> Iterator[Variant]:
    if is_torch(f, inputs):
        from gradguard.adapters.torch_variants import torch_variants

        return torch_variants(inputs)
    import numpy as np

    return variants_of(inputs, lambda value: isinstance(value, np.ndarray), np.array, lambda new, like: new.astype(like.dtype))


def _reference(reference: Any, f: Any, inputs: Any, options: Mapping[str, Any], settings: Settings) -> Any:
    """The reference's gradients in the native precision; None without one.

    Raises:
        UsageError: it is no torch function or module, or its parameters are others.
    """
    if reference is None:
        return None
    if not is_torch(f, inputs) or not callable(reference):
        raise UsageError("reference takes a torch module or a function on tensors", todo="reference=plain_implementation")
    from gradguard.adapters.torch_adapt import reference_gradients

    return reference_gradients(
        reference, f, inputs, loss=options["loss"], kwargs=options["kwargs"], wrt=options["wrt"], seed=settings.seed
    )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    from gradguard.blocks import nearest

    if value not in allowed:
        raise UsageError(f"{name}={value!r} is unknown.{nearest(str(value), allowed)}", todo=f"one of {', '.join(allowed)}")


def is_torch(f: Any, inputs: Any) -> bool:
    """Whether torch is meant: a module, or a tensor among the inputs; torch is asked for, never imported uninvited."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(f, torch.nn.Module):
        return True
    from gradguard.adapters.nesting import flatten

    return any(isinstance(leaf.value, torch.Tensor) for leaf in flatten(inputs, ""))


def _adapt(
    f: Any, inputs: Any, *, loss: Any, grad: Any, vjp: Any, batched: Any, kwargs: Any, wrt: Any, settings: Settings
) -> AbstractContextManager[Differentiable]:
    if is_torch(f, inputs):
        if grad is not None or vjp is not None:
            raise UsageError(
                "grad= and vjp= are for NumPy functions; in torch, autograd's gradient is the one under test",
                todo="leave them out, or pass NumPy arrays as inputs",
            )
        from gradguard.adapters.torch_adapt import adapt_torch

        return adapt_torch(f, inputs, loss=loss, kwargs=kwargs, wrt=wrt, precision=settings.precision, seed=settings.seed)
    if not callable(f):
        raise UsageError(
            f"check_gradients takes a module or a function, got {type(f).__name__}",
            todo="pass the function itself, not its result",
        )
    if loss is not None:
        raise UsageError("loss= is for torch; a NumPy function with grad= returns the loss itself", todo="compose them in f")
    from gradguard.adapters.numpy_adapt import adapt_numpy

    return nullcontext(adapt_numpy(f, inputs, grad=grad, vjp=vjp, kwargs=kwargs, wrt=wrt, seed=settings.seed, batched=batched))


def audit(
    scenario: Scenario,
    *,
    select: Iterable[str] | str | None = None,
    ignore: Iterable[Ignore | str] | Ignore | str = (),
    executor: Any = None,
    seed: int = 0,
    method: str = "directional",
    precision: str = "auto",
    steps: int = 20,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    name: str = "",
) -> Report:
    """Every selected rule on one scenario: gradients at the point, then a short training run on a copy.

    ``limits`` are options of rules by code; ``progress(done, total, what)`` is called between families of rules;
    ``executor`` (of ``concurrent.futures``) runs the families side by side, each on its own.

    Raises:
        UsageError: the scenario cannot be audited as it is: what, where, and what to do.
    """
    if not isinstance(scenario, Scenario):
        raise UsageError(
            f"audit takes a gg.Scenario, got {type(scenario).__name__}", todo="gg.audit(gg.Scenario(model=..., ...))"
        )
    _one_of("method", method, METHODS)
    _one_of("precision", precision, PRECISIONS)
    settings = Settings(seed=seed, method=method, precision=precision, steps=steps, progress=progress)
    ignores = check_ignores((*scenario.ignore, *as_ignores(ignore)))
    codes = set(select_rules(select))
    if isinstance(scenario.batches, Iterator):  # it can be read once, and every family reads it
        scenario = replace(scenario, batches=list(islice(scenario.batches, max(steps, MOST_BATCHES))))
    families = [family for family in FAMILIES if any(code.startswith(family.prefixes) for code in codes)]
    reports: list[Report] = []
    for done, family in enumerate(families):
        if progress is not None:
            progress(done, len(families), family.name)
        rules = build_rules([code for code in sorted(codes) if code.startswith(family.prefixes)], limits or {})
        reports.append(family.run(scenario, settings, rules, name, ignores))
    report = merge(reports)
    report.checks += tuple(
        Check(scenario=name, code=code, rule=RULES[code][0], status="skipped", reason=reason)
        for code, reason in ELSEWHERE.items()
        if code in codes and code in RULES
    )
    report.rows["runs"] = [run_row(seed=seed)]
    return Report(triage(report.findings), report.checks, report.rows)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Rules that are judged on one problem: how their codes begin, and how they are run on a scenario."""

    name: str
    prefixes: tuple[str, ...]
    run: Callable[[Scenario, Settings, Sequence[Rule], str, Sequence[Ignore]], Report]


def audit_gradients(
    scenario: Scenario, settings: Settings, rules: Sequence[Rule], name: str, ignores: Sequence[Ignore]
) -> Report:
    """The gradient rules on ``loss(model, first batch)`` of a scenario."""
    with scenario_problem(scenario, settings, name=name) as problem:
        return judge(problem, rules, settings, scenario=name, ignores=ignores)


FAMILIES: tuple[Family, ...] = (
    Family(name="gradients", prefixes=("GG1", "GG9"), run=audit_gradients),
    Family(name="health", prefixes=HEALTH, run=audit_health),
    Family(name="learning rate", prefixes=RATES, run=audit_learning_rate),
)
"""The families of rules, in the order in which they run."""

ELSEWHERE = {
    "GG402": "it judges the user's own loop: gradguard.watch",
    "GG407": "it needs a scenario of several widths: check_width_scaling",
}
"""Rules that a scenario is not enough for."""


def scenario_problem(scenario: Scenario, settings: Settings, *, name: str = "") -> AbstractContextManager[Differentiable]:
    """The problem ``loss(model, batch)`` on a scenario's first batch.

    Raises:
        UsageError: there is no batch, or the model is neither a torch module nor a dict of arrays with ``grad``.
    """
    batch = first_batch(scenario, name)
    where = f"scenario {name}: loss(model, batch)" if name else "loss(model, batch)"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(scenario.model, torch.nn.Module):
        from gradguard.adapters.torch_adapt import adapt_torch

        return adapt_torch(
            lambda batch: scenario.loss(scenario.model, batch),
            (batch,),
            wrt=scenario.wrt,
            precision=settings.precision,
            seed=settings.seed,
            modules=[("", scenario.model)],
            scalar=True,
            where=where,
            constant_inputs=True,
        )
    if scenario.grad is None:
        raise UsageError(
            f"the model is a {type(scenario.model).__name__} and the scenario has no grad",
            where=where,
            todo="give a torch module, or a dict of arrays with grad=lambda model, batch: ... that mirrors it",
        )
    from gradguard.adapters.numpy_adapt import adapt_numpy_scenario

    return nullcontext(adapt_numpy_scenario(scenario, batch, seed=settings.seed))


def first_batch(scenario: Scenario, name: str = "") -> Any:
    """The first batch of a scenario.

    Raises:
        UsageError: there is none.
    """
    if not hasattr(scenario.batches, "__iter__") and not hasattr(scenario.batches, "__getitem__"):
        raise UsageError(
            f"batches is a {type(scenario.batches).__name__} that cannot be iterated",
            where=f"scenario {name}".rstrip(),
            todo="give a list of batches or a DataLoader",
        )
    with ExitStack() as kept:
        if "torch" in sys.modules:
            from gradguard.adapters.torch_untouched import preserved_generators, preserved_rng

            kept.enter_context(preserved_rng())  # a DataLoader draws a seed when it is read
            kept.enter_context(preserved_generators(scenario.batches))
        for batch in scenario.batches:
            return batch
    raise UsageError("there are no batches", where=f"scenario {name}".rstrip(), todo="give at least one batch")
