"""The table of rules. Codes never change meaning; a rule is added by writing its file and one row here."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import import_module

from gradguard.blocks import nearest
from gradguard.errors import UsageError
from gradguard.rules.base import Rule

__all__ = ["RULES", "all_rules", "find", "rule_class", "select_rules"]

RULES: dict[str, tuple[str, str]] = {
    # code: (slug, module under gradguard.rules and class)
    "GG101": ("gradient-mismatch", "gradient_mismatch:GradientMismatch"),
    "GG102": ("nonfinite-gradient", "nonfinite_gradient:NonfiniteGradient"),
    "GG103": ("nondifferentiable-point", "nondifferentiable_point:NondifferentiablePoint"),
    "GG104": ("nondeterministic-gradient", "nondeterministic_gradient:NondeterministicGradient"),
    "GG105": ("missing-gradient", "missing_gradient:MissingGradient"),
    "GG106": ("nonlinear-backward", "nonlinear_backward:NonlinearBackward"),
    "GG107": ("layout-dependent-gradient", "layout_dependent_gradient:LayoutDependentGradient"),
    "GG108": ("mutated-input", "mutated_input:MutatedInput"),
    "GG109": ("second-order-mismatch", "second_order_mismatch:SecondOrderMismatch"),
    "GG110": ("forward-mode-mismatch", "forward_mode_mismatch:ForwardModeMismatch"),
    "GG111": ("precision-loss", "precision_loss:PrecisionLoss"),
    "GG112": ("wrong-gradient-shape", "wrong_gradient_shape:WrongGradientShape"),
    "GG113": ("detached-gradient", "detached_gradient:DetachedGradient"),
    "GG201": ("dead-units", "dead_units:DeadUnits"),
    "GG202": ("saturated-units", "saturated_units:SaturatedUnits"),
    "GG203": ("nonfinite-activation", "nonfinite_activation:NonfiniteActivation"),
    "GG204": ("constant-output", "constant_output:ConstantOutput"),
    "GG205": ("attention-collapse", "attention_collapse:AttentionCollapse"),
    "GG206": ("symmetric-units", "symmetric_units:SymmetricUnits"),
    "GG207": ("unused-capacity", "unused_capacity:UnusedCapacity"),
    "GG301": ("vanishing-gradient", "vanishing_gradient:VanishingGradient"),
    "GG302": ("exploding-gradient", "exploding_gradient:ExplodingGradient"),
    "GG303": ("untrained-parameter", "untrained_parameter:UntrainedParameter"),
    "GG304": ("stale-gradient", "stale_gradient:StaleGradient"),
    "GG305": ("sample-leak", "sample_leak:SampleLeak"),
    "GG306": ("future-leak", "future_leak:FutureLeak"),
    "GG307": ("gradient-underflow", "gradient_underflow:GradientUnderflow"),
    "GG308": ("padding-leak", "padding_leak:PaddingLeak"),
    "GG309": ("wrong-mode", "wrong_mode:WrongMode"),
    "GG401": ("diverging-learning-rate", "diverging_learning_rate:DivergingLearningRate"),
    "GG402": ("diverging-loss", "diverging_loss:DivergingLoss"),
    "GG403": ("stalled-training", "stalled_training:StalledTraining"),
    "GG404": ("unexpected-initial-loss", "unexpected_initial_loss:UnexpectedInitialLoss"),
    "GG405": ("cannot-overfit", "cannot_overfit:CannotOverfit"),
    "GG406": ("no-better-than-prior", "no_better_than_prior:NoBetterThanPrior"),
    "GG407": ("width-dependent-scale", "width_dependent_scale:WidthDependentScale"),
    "GG501": ("head-contradicts-loss", "head_contradicts_loss:HeadContradictsLoss"),
    "GG502": ("unscaled-data", "unscaled_data:UnscaledData"),
    "GG503": ("unscaled-weights", "unscaled_weights:UnscaledWeights"),
    "GG901": ("unused-ignore", "unused_ignore:UnusedIgnore"),
    "GG902": ("vacuous-check", "vacuous_check:VacuousCheck"),
}


def rule_class(code: str) -> type[Rule]:
    """The class of a rule by its code."""
    module, _, name = RULES[code][1].partition(":")
    found = getattr(import_module(f"gradguard.rules.{module}"), name)
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise TypeError(f"{code}: {RULES[code][1]} is not a Rule")
    return found


def all_rules() -> list[type[Rule]]:
    """Every rule, by code."""
    return [rule_class(code) for code in sorted(RULES)]


def find(name: str) -> str:
    """The code of a rule given by code or slug, in any case.

    Raises:
        UsageError: there is no such rule; names the nearest.
    """
    wanted = name.strip()
    for code, (slug, _) in RULES.items():
        if wanted.upper() == code or wanted.lower() == slug:
            return code
    known = [*RULES, *(slug for slug, _ in RULES.values())]
    raise UsageError(
        f"there is no rule {wanted!r}.{nearest(wanted, known)}",
        todo="`gradguard rules` lists them; a code, a slug or a prefix such as GG1",
    )


def select_rules(select: Iterable[str] | str | None) -> list[str]:
    """The codes that a selection names: codes, slugs, prefixes (``GG1``), globs (``GG1*``); None is all.

    Raises:
        UsageError: one of them names no rule.
    """
    if select is None:
        return sorted(RULES)
    wanted = select.split(",") if isinstance(select, str) else list(select)
    chosen: set[str] = set()
    for name in wanted:
        name = name.strip()
        prefix = name.upper()
        matches = {code for code in RULES if prefix.startswith("GG") and (code.startswith(prefix) or fnmatchcase(code, prefix))}
        chosen |= matches or {find(name)}
    if not chosen:
        raise UsageError("the selection names no rule", todo="`gradguard rules` lists them")
    return sorted(chosen)
