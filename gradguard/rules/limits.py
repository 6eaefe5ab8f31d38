"""Rules with other limits than their defaults: for all blocks, or for those that a glob matches.

``[tool.gradguard.limits.GG201] dead = 0.7`` and ``[tool.gradguard.limits.GG201.blocks."enc.*"] dead = 0.9``. Rules are
pure functions of a measurement, so a rule with other limits judges the same evidence again; nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gradguard.blocks import matching, nearest
from gradguard.errors import UsageError
from gradguard.finding import Finding, Outcome
from gradguard.measurements.base import Evidence
from gradguard.rules.base import Rule
from gradguard.rules.registry import find, rule_class

__all__ = ["Limits", "RuleByBlock", "build_rules", "parse_limits"]

Limits = dict[str, dict[str, Any]]
"""Options by rule code; the option ``blocks`` maps a glob to further options."""


@dataclass(frozen=True, kw_only=True)
class RuleByBlock(Rule):
    """A rule whose options differ by block: the first glob that matches a finding's block (or module) judges it."""

    base: Rule
    overrides: tuple[tuple[str, Rule], ...]

    def __post_init__(self) -> None:
        for name in ("code", "slug", "severity", "needs", "optional"):
            # What other rules say on their class, this one says as the rule that it wraps.
            object.__setattr__(self, name, getattr(self.base, name))

    def judge(self, evidence: Evidence) -> Outcome:
        """The base rule's outcome, with the findings of each override in place of its own for the blocks it matches."""
        outcome = self.base.check(evidence)
        findings = [f for f in outcome.findings if self._judge_of(f) is self.base]
        requests = list(outcome.requests)
        for _, rule in self.overrides:
            other = rule.check(evidence)
            findings.extend(f for f in other.findings if self._judge_of(f) is rule)
            requests.extend(r for r in other.requests if r not in requests)
        failed = any(f.severity == "error" for f in findings)
        status = outcome.status if outcome.status in ("skipped", "inconclusive") else "passed"
        return Outcome(
            status="failed" if failed else status,
            findings=tuple(findings),
            reason=outcome.reason,
            margin=outcome.margin,
            requests=tuple(requests),
        )

    def _judge_of(self, finding: Finding) -> Rule:
        names = [name for name in (finding.block, finding.module) if name]
        for glob, rule in self.overrides:
            if any(matching(name, [glob]) for name in names):
                return rule
        return self.base


def build_rules(codes: Iterable[str], limits: Mapping[str, Mapping[str, Any]]) -> list[Rule]:
    """The rules of these codes, with their limits."""
    return [_build(code, limits.get(code, {})) for code in codes]


def parse_limits(raw: Any, where: str) -> Limits:
    """Limits by code from a table by code or slug, each validated by building the rule.

    Raises:
        UsageError: an unknown rule or option (names the nearest), or a value that the rule refuses.
    """
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} takes tables by rule, got {raw!r}", todo="[tool.gradguard.limits.GG201]")
    result: Limits = {}
    for name, options in raw.items():
        try:
            code = find(name)
        except UsageError as error:
            raise UsageError(f"{where}: {error.what}", todo=error.todo) from None
        if not isinstance(options, Mapping):
            raise UsageError(f"{where}.{name} takes a table of options, got {options!r}")
        for glob, inner in options.get("blocks", {}).items():
            if not isinstance(inner, Mapping):
                raise UsageError(f"{where}.{name}.blocks.{glob!r} takes a table of options, got {inner!r}")
            _validate(code, inner, f"{where}.{name}.blocks.{glob!r}")
        _validate(code, {key: value for key, value in options.items() if key != "blocks"}, f"{where}.{name}")
        result[code] = {key: dict(value) if key == "blocks" else value for key, value in options.items()}
    return result


def _validate(code: str, options: Mapping[str, Any], where: str) -> None:
    rule = rule_class(code)
    known = [f.name for f in fields(rule)]
    for key in options:
        if key not in known:
            raise UsageError(
                f"{where}: {code} {rule.slug} has no option {key!r}.{nearest(key, known)}",
                todo=f"its options are {', '.join(known)}" if known else "it has no options",
            )
        default = next(f.default for f in fields(rule) if f.name == key)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        fits = isinstance(options[key], int | float) and not isinstance(options[key], bool) if number else True
        if not fits or (isinstance(default, bool | str) and not isinstance(options[key], type(default))):
            raise UsageError(f"{where}.{key} takes a value like {default!r}, got {options[key]!r}")
    try:
        rule(**options)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from None


def _build(code: str, options: Mapping[str, Any]) -> Rule:
    own = {key: value for key, value in options.items() if key != "blocks"}
    base = rule_class(code)(**own)
    overrides = tuple((glob, rule_class(code)(**{**own, **inner})) for glob, inner in options.get("blocks", {}).items())
    return RuleByBlock(base=base, overrides=overrides) if overrides else base
