from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from gradguard.errors import UsageError
from gradguard.finding import Outcome, Request
from gradguard.measurements.base import Evidence, Measurement, Unavailable
from gradguard.rules.base import Rule
from gradguard.rules.limits import RuleByBlock, build_rules, parse_limits


@dataclass(frozen=True, kw_only=True)
class Sizes(Measurement):
    name: ClassVar[str] = "sizes"
    values: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TooLarge(Rule):
    """A block is too large."""

    code: ClassVar[str] = "GG000"
    slug: ClassVar[str] = "too-large"
    needs: ClassVar[tuple[str, ...]] = ("sizes",)
    limit: float = 1.0

    def judge(self, evidence: Evidence) -> Outcome:
        sizes = evidence["sizes"]
        assert isinstance(sizes, Sizes)
        large = [self.finding(f"{name} {size}", block=name) for name, size in sizes.values if size > self.limit]
        return self.outcome(large, requests=(Request(measurement="sizes"),) if large else ())


EVIDENCE: Evidence = {"sizes": Sizes(values=(("enc.a", 5.0), ("enc.b", 50.0), ("dec.a", 5.0), ("dec.b", 0.5)))}
RULE = RuleByBlock(base=TooLarge(), overrides=(("enc.b", TooLarge(limit=100.0)), ("enc.*", TooLarge(limit=4.0))))


def test_the_first_glob_that_matches_judges_a_block() -> None:
    outcome = RULE.check(EVIDENCE)
    assert outcome.status == "failed"
    assert sorted(f.block for f in outcome.findings) == ["dec.a", "enc.a"]
    assert outcome.requests == (Request(measurement="sizes"),)


def test_a_tighter_limit_finds_what_the_base_let_pass() -> None:
    rule = RuleByBlock(base=TooLarge(limit=1e9), overrides=(("dec.b", TooLarge(limit=0.1)),))
    assert [f.block for f in rule.check(EVIDENCE).findings] == ["dec.b"]


def test_it_is_the_rule_that_it_wraps() -> None:
    assert (RULE.code, RULE.slug, RULE.severity, RULE.needs) == ("GG000", "too-large", "error", ("sizes",))
    missing = RULE.check({"sizes": Unavailable(wanted="sizes", reason="no blocks")})
    assert (missing.status, missing.reason) == ("skipped", "no blocks")


def test_limits_by_code_or_name_build_rules() -> None:
    limits = parse_limits({"gradient-mismatch": {"z": 30.0, "blocks": {"enc.*": {"z": 40.0}}}}, "table: limits")
    assert limits == {"GG101": {"z": 30.0, "blocks": {"enc.*": {"z": 40.0}}}}
    (mismatch, nonfinite) = build_rules(["GG101", "GG102"], limits)
    assert isinstance(mismatch, RuleByBlock)
    assert mismatch.base.z == 30.0  # type: ignore[attr-defined]  # the field of GradientMismatch
    assert nonfinite.code == "GG102"


def test_what_is_not_a_table() -> None:
    with pytest.raises(UsageError, match="limits takes tables by rule, got 3"):
        parse_limits(3, "limits")
    with pytest.raises(UsageError, match="limits.GG101 takes a table of options, got 3"):
        parse_limits({"GG101": 3}, "limits")
