"""The fixture ``gradguard``: the library's functions, which here raise with the evidence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any

import pytest

import gradguard
from gradguard.auditing import accepted, located, renamed
from gradguard.config import Config
from gradguard.errors import GradGuardError, UsageError
from gradguard.finding import Finding
from gradguard.integrations.pytest_scenarios import marker_settings
from gradguard.integrations.pytest_session import divided_threads, work_of
from gradguard.pytest_plugin import ITEM
from gradguard.report import Report
from gradguard.scenarios import Scenario

__all__ = ["Checks"]


class Checks:
    """The functions of the library for use in a test; each returns its report, or raises where something was found.

    Settings come from the call, the test's marker, the options, the environment, the profile and the table, in this order.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __repr__(self) -> str:
        return "gradguard"

    def check_gradients(self, *args: Any, **kwargs: Any) -> Report:
        """:func:`gradguard.check_gradients`, and raise what failed."""
        __tracebackhide__ = True
        return self._check("check_gradients", args, kwargs)

    def check_training(self, *args: Any, **kwargs: Any) -> Report:
        """:func:`gradguard.check_training`, and raise what failed."""
        __tracebackhide__ = True
        return self._check("check_training", args, kwargs)

    def check_learning_rate(self, *args: Any, **kwargs: Any) -> Report:
        """:func:`gradguard.check_learning_rate`, and raise what failed."""
        __tracebackhide__ = True
        return self._check("check_learning_rate", args, kwargs)

    def audit(self, *args: Any, **kwargs: Any) -> Report:
        """:func:`gradguard.audit`, and raise what failed."""
        __tracebackhide__ = True
        return self._check("audit", args, kwargs)

    def watch(self, *args: Any, **kwargs: Any) -> Watching:
        """:func:`gradguard.watch`; what it saw is raised at the end of the ``with``, never over an exception of yours."""
        model = args[0] if args else kwargs.get("model")
        config, kwargs = self._settings("watch", kwargs)
        inner = self._function("watch")(*args, **kwargs)
        return Watching(inner, partial(self._judge, config=config, model=model))

    def _check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Report:
        __tracebackhide__ = True
        config, kwargs = self._settings(name, kwargs)
        with divided_threads(self._config):
            report = self._function(name)(*args, **kwargs)
        named = (kwargs[key] for key in ("f", "model", "scenario") if key in kwargs)
        first = args[0] if args else next(named, None)
        return self._judge(report, config, first.model if isinstance(first, Scenario) else first)

    def _function(self, name: str) -> Callable[..., Any]:
        return getattr(gradguard, name)  # type: ignore[no-any-return]  # exported lazily, so its type is not known here

    def _settings(self, name: str, kwargs: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
        """The settings of this call, and its arguments with what the settings add, as far as the function takes it."""
        item = ITEM[-1] if ITEM else None
        marker: Mapping[str, Any] = marker_settings(item) if item is not None else {}
        call: dict[str, Any] = {key: kwargs[key] for key in ("select", "ignore", "seed") if key in kwargs}
        config = work_of(self._config).settings(marker=marker, call=call)
        given = {"seed": config.seed, "limits": config.limits}
        if name == "audit":
            given |= {"select": config.codes, "method": config.method, "precision": config.precision, "steps": config.steps}
        takes = inspect.signature(self._function(name)).parameters
        # What the function does not take is applied to its report; what it does not know at all is its own error.
        own = {key: value for key, value in kwargs.items() if key in takes or key not in call}
        return config, {**{key: value for key, value in given.items() if key in takes}, **own}

    def _judge(self, report: Report, config: Config, model: Any) -> Report:
        __tracebackhide__ = True
        work = work_of(self._config)
        item = ITEM[-1] if ITEM else None
        report = located(_selected(report, config), model, self._config.rootpath)
        report = renamed(report, item.nodeid if item is not None else "gradguard")
        report, used = accepted(report, repeat=_repeat, config=config, baseline=work.accepted)
        if item is not None:
            work.record(item, report, used)
        work.keep_tables(report)
        if not work.writing and not report.ok:
            raise GradGuardError(report.failure_text())
        return report


class Watching(AbstractContextManager[Any]):
    """``with gradguard.watch(...) as watch``: the library's watch inside, judged at the end."""

    def __init__(self, inner: AbstractContextManager[Any], judge: Callable[[Report], Report]) -> None:
        self._inner = inner
        self._judge = judge
        self._watch: Any = None

    def __enter__(self) -> Any:
        self._watch = self._inner.__enter__()
        return self._watch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        __tracebackhide__ = True
        swallowed = self._inner.__exit__(kind, error, trace)
        if error is None:
            self._judge(self._watch.report())
        return swallowed


def _selected(report: Report, config: Config) -> Report:
    """The report restricted to the selected rules; one that is left without a check would pass without having looked."""
    codes = set(config.codes)
    checks = [check for check in report.checks if check.code in codes]
    if report.checks and not checks:
        judged = ", ".join(sorted({check.code for check in report.checks}))
        raise UsageError(f"the selection leaves no check: {', '.join(config.select or ())}", where=f"this call judges {judged}")
    findings = [finding for finding in report.findings if finding.code in codes]
    return Report(findings, checks, report.rows, strict=report.strict)


def _repeat(finding: Finding) -> str:
    return f"pytest '{finding.scenario}'"
