"""Training health: ``check_training``, and the health rules on a scenario."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gradguard.adapters.base import Settings
from gradguard.adapters.training_base import adapt_training
from gradguard.errors import UsageError
from gradguard.judging import check_ignores, judge
from gradguard.learning_rate import audit_learning_rate
from gradguard.report import Report, merge
from gradguard.rules.base import Rule
from gradguard.rules.limits import build_rules
from gradguard.rules.registry import RULES, select_rules
from gradguard.rules.triage import triage
from gradguard.running import run_row
from gradguard.scenarios import Ignore, Scenario, as_ignores

__all__ = ["HEALTH", "audit_health", "check_training", "health_rules"]

RATES = ("GG401", "GG403", "GG404")
"""The rules of the learning rate that go with every training check."""
LONGEST = 50

HEALTH = ("GG2", "GG3", "GG406", "GG5")
"""How the codes of the health rules begin."""


def health_rules(
    select: Iterable[str] | str | None = None, limits: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Rule]:
    """The selected rules that judge training health, with their options."""
    chosen = set(select_rules(select))
    codes = [code for code in sorted(RULES) if code in chosen and (code.startswith(HEALTH) or code in ("GG102", "GG901"))]
    return build_rules(codes, limits or {})


def audit_health(scenario: Scenario, settings: Settings, rules: Sequence[Rule], name: str, ignores: Sequence[Ignore]) -> Report:
    """The health rules on a scenario: looks at its passes, and a short training run on a copy.

    Raises:
        UsageError: the scenario cannot be trained as it is.
    """
    return judge(adapt_training(scenario, settings), rules, settings, scenario=name, ignores=ignores)


def check_training(
    model: Any,
    batches: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    steps: int = 20,
    grad: Callable[[Any, Any], Any] | None = None,
    activations: Callable[[Any, Any], Any] | None = None,
    outputs: Callable[[Any, Any], Any] | None = None,
    labels: Callable[[Any], Any] | None = None,
    objective: Any = "supervised",
    causal: bool | None = None,
    independent_samples: bool | None = None,
    padding: Callable[[Any], Any] | None = None,
    seed: int = 0,
    select: Iterable[str] | str | None = None,
    ignore: Iterable[Ignore | str] | Ignore | str = (),
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Train a copy for a short while with the user's own loss, optimizer and data, and judge its health on the way.

    The user's model, optimizer, random states and DataLoader are untouched. At most ``steps`` batches are read; a longer
    run begins again with the first. Where a symptom is seen and its consequence is not clear, a longer run (at most 300
    steps or 20 seconds) decides.

    Args:
        model: a torch module, or for NumPy a (nested) dict of arrays.
        batches: batches, each whatever ``loss`` takes.
        loss: ``loss(model, batch) -> scalar``.
        optimizer: a torch optimizer over the model, a function that makes one from parameters, ``gg.SGD`` for NumPy;
            None: only the checks at the point.
        steps: optimizer steps.
        grad: for NumPy, ``grad(model, batch)``, which mirrors the model.
        activations: for NumPy, ``activations(model, batch)`` -> layer name -> array (N, U).
        outputs: ``outputs(model, batch)``, where the loss' graph does not show the predictions.
        labels: ``labels(batch)``, where the loss' graph does not show the labels.
        objective: ``"supervised"``, ``"adversarial"``, ``"reinforcement"`` or ``"metric"``.
        causal: a declaration: outputs may not depend on later positions (the input's second axis).
        independent_samples: a declaration: outputs may not depend on other samples of the batch (the input's first axis).
        padding: a declaration: ``padding(batch)`` -> mask (samples, positions), True where a position is padding; the loss
            may not depend on what is there.
        seed: of the random numbers that the model draws.
        select: rules by code, slug or prefix.
        ignore: accepted findings, each with its reason.
        limits: options of rules by code.

    Returns:
        The report; nothing is raised for a finding.

    Raises:
        UsageError: the check could not be made as asked: what, where, and what to do.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UsageError(f"steps takes a number of at least 1, got {steps!r}", todo="steps=20")
    if isinstance(batches, Iterator):  # it can be read once, and two families of rules read it
        batches = list(itertools.islice(batches, max(steps, LONGEST)))
    scenario = Scenario(
        model,
        batches,
        loss,
        optimizer=optimizer,
        grad=grad,
        activations=activations,
        outputs=outputs,
        labels=labels,
        objective=objective,
        causal=causal,
        independent_samples=independent_samples,
        padding=padding,
    )
    settings = Settings(seed=seed, steps=steps)
    ignores = check_ignores(as_ignores(ignore))
    chosen = set(select_rules(select))
    reports = [audit_health(scenario, settings, health_rules(select, limits), "", ignores)]
    rates = build_rules([code for code in RATES if code in RULES and code in chosen], limits or {})
    if rates:
        reports.append(audit_learning_rate(scenario, settings, rates, "", ignores))
    merged = merge(reports)
    merged.rows["runs"] = [run_row(seed=seed)]
    return Report(triage(merged.findings), merged.checks, merged.rows)
