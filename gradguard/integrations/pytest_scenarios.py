"""Scenarios as tests: one item per rule, all of them from one measurement."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gradguard.config import Config
from gradguard.errors import GradGuardError, UsageError
from gradguard.finding import Check, Finding
from gradguard.integrations.pytest_evidence import Broken, evidence
from gradguard.integrations.pytest_session import divided_threads, work_of
from gradguard.rendering.text import render_finding
from gradguard.report import Report
from gradguard.rules.registry import RULES
from gradguard.scenarios import Ignore, Scenario, ScenarioFunction

__all__ = ["RuleItem", "ScenarioCollector", "collect_scenario", "marker_settings"]


def collect_scenario(collector: pytest.Collector, name: str, function: ScenarioFunction) -> pytest.Collector | pytest.Item:
    """The collector of a scenario's tests: ``tests/test_models.py::tiny_gpt``."""
    if isinstance(collector, pytest.Class) and not isinstance(inspect.getattr_static(collector.obj, name), staticmethod):
        error = UsageError(
            f"scenario {name!r} is a method of {collector.name}, and a scenario has no self",
            todo="make it a function of the module, or put @staticmethod above @gg.scenario",
        )
        return Broken.from_parent(collector, name=name, error=error)
    return ScenarioCollector.from_parent(collector, name=name, function=function)


class ScenarioCollector(pytest.Collector):
    """A scenario: it collects one item per selected rule and set of parameters."""

    def __init__(self, *, function: ScenarioFunction, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario_function = function

    def collect(self) -> list[Any]:
        """One item per rule; a wrong setting is one item that fails, so that other tests go on."""
        builder = _builder(self.scenario_function)
        prototypes = self.parent._genfunctions(self.name, builder)  # type: ignore[union-attr]  # pytest's own way to parametrise
        items: list[Any] = []
        for prototype in prototypes:
            callspec = getattr(prototype, "callspec", None)
            suffix = f"[{callspec.id}]" if callspec is not None else ""
            measured = Measured(self, suffix)
            try:
                codes = measured.settings(prototype).codes
            except UsageError as error:
                items.append(Broken.from_parent(self, name=f"settings{suffix}", error=error))
                continue
            for code in codes:
                slug = RULES[code][0]
                item = RuleItem.from_parent(
                    self,
                    name=slug + suffix,
                    originalname=slug,
                    callspec=callspec,
                    callobj=builder,
                    fixtureinfo=prototype._fixtureinfo,
                    keywords={callspec.id: True} if callspec is not None else None,
                )
                item.code, item.measured = code, measured
                item.add_marker("gradguard")
                items.append(item)
        return items


class Measured:
    """One scenario with one set of parameters: measured at the first of its items that runs, judged for all of them."""

    def __init__(self, collector: ScenarioCollector, suffix: str) -> None:
        self.collector = collector
        self.suffix = suffix
        self.report: Report | None = None
        self.used: list[Ignore] = []
        self.failure = ""
        self.failed_in = ""
        path, root = collector.path, collector.config.rootpath
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        # The scenario's name in reports, the same as `gradguard report` gives it.
        self.address = f"{shown}:{collector.scenario_function.name}{suffix}"

    def settings(self, item: Any) -> Config:
        """The settings of this scenario, its marker included."""
        return work_of(self.collector.config).settings(marker=marker_settings(item))

    def get(self, item: RuleItem) -> Report:
        """The report; made from the item's fixture values where no item of this scenario has run yet.

        Raises:
            UsageError: the scenario could not be built or audited; the first item says why, the others point to it.
        """
        if self.report is not None:
            return self.report
        if self.failure and self.failed_in != item.nodeid:
            raise UsageError(f"{self.failure} (in full at {self.failed_in})")
        try:
            self.report = self._measure(item)
        except UsageError as error:
            self.failure, self.failed_in = error.what.splitlines()[0], item.nodeid
            raise
        return self.report

    def _measure(self, item: RuleItem) -> Report:
        from gradguard.auditing import audit_scenario
        from gradguard.loading import user_error

        work = work_of(item.config)
        arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
        try:
            scenario = self.collector.scenario_function(**arguments)
        except UsageError:
            raise
        except Exception as error:
            raise user_error(error, f"scenario {self.address} raised:") from error
        # Only the rules whose items are in this run; which of them runs first does not matter.
        codes = sorted({one.code for one in item.session.items if isinstance(one, RuleItem) and one.measured is self})
        with divided_threads(item.config):
            report, self.used = audit_scenario(
                scenario,
                address=self.address,
                repeat=self._repeat,
                config=self.settings(item),
                codes=codes,
                baseline=work.accepted,
                root=item.config.rootpath,
            )
        work.keep_tables(report)
        return report

    def _repeat(self, finding: Finding) -> str:
        return f"pytest '{self.collector.nodeid}::{finding.rule}{self.suffix}'"


class RuleItem(pytest.Function):
    """One rule on one scenario."""

    code: str
    measured: Measured

    def runtest(self) -> None:
        """Measure if nobody has, then fail, skip or pass as the rule's check says."""
        __tracebackhide__ = True
        work = work_of(self.config)
        report = self.measured.get(self)
        check = next((c for c in report.checks if c.code == self.code), None)
        findings = [f for f in report.findings if f.code == self.code]
        if check is None:
            pytest.skip(f"{self.code} was not judged")
        own = Report(findings, [check], strict=report.strict)
        work.record(self, own, self.measured.used)
        if work.writing:
            return
        if not own.ok:
            raise GradGuardError(_failure(own, check, report))
        if check.status in ("skipped", "inconclusive"):
            pytest.skip(f"{check.status}: {check.reason}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """The evidence alone: no line of gradguard or pytest helps with a wrong gradient."""
        if isinstance(excinfo.value, GradGuardError | UsageError):
            return evidence(excinfo)
        return super().repr_failure(excinfo, *args, **kwargs)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """The line of the scenario, under the name of this item."""
        path, line, _ = super().reportinfo()
        return path, line, f"{self.measured.collector.name}::{self.name}"


def marker_settings(item: Any) -> Mapping[str, Any]:
    """What ``@pytest.mark.gradguard(...)`` sets, the closest marker first.

    Raises:
        UsageError: it has positional arguments, or names that it does not take.
    """
    values: dict[str, Any] = {}
    for mark in item.iter_markers("gradguard"):
        wrong = next((repr(one) for one in mark.args), None) or next(
            (name for name in mark.kwargs if name not in ("select", "ignore", "seed")), None
        )
        if wrong is not None:
            todo = "it takes select=, ignore= and seed="
            raise UsageError(f"@pytest.mark.gradguard does not take {wrong}", where=item.nodeid, todo=todo)
        values = {**mark.kwargs, **values}
    return values


def _failure(own: Report, check: Check, report: Report) -> str:
    roots = {f.fingerprint: f for f in report.findings}
    errors = [render_finding(f, roots) for f in own.errors]
    return "\n".join(errors) or f"{check.code} {check.rule}  inconclusive, and --gradguard-strict is set: {check.reason}"


def _builder(function: ScenarioFunction) -> Callable[..., Scenario]:
    """A plain function with the scenario's signature and marks: keywords of the item are its own, not the class' fields."""

    def build(**arguments: Any) -> Scenario:
        return function(**arguments)

    build.__wrapped__ = function.function  # type: ignore[attr-defined]  # what inspect.signature and pytest follow
    build.pytestmark = list(getattr(function, "pytestmark", []))  # type: ignore[attr-defined]  # where pytest keeps marks
    build.__name__, build.__doc__ = function.name, function.__doc__
    return build
