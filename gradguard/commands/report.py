"""`gradguard report`: audit the scenarios of each target and show what was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradguard.auditing import audit_scenario, command_repeat
from gradguard.baseline import Accepted, read_baseline
from gradguard.config import Config, ModelSpec, load_config
from gradguard.errors import UsageError
from gradguard.judging import check_ignores
from gradguard.loading import Found, build_scenario, find_scenarios, project_root
from gradguard.progress import Bar
from gradguard.rendering.formats import check_format, render
from gradguard.rendering.github import step_summary
from gradguard.rendering.text import render_report
from gradguard.report import Report, merge
from gradguard.scenarios import Ignore, as_ignores

__all__ = ["Audited", "audit_targets", "run_report"]


@dataclass(frozen=True, kw_only=True)
class Audited:
    """The reports of a run, the scenarios that could not be audited, and the ignores that accepted something."""

    report: Report
    failures: tuple[UsageError, ...]
    used: tuple[Ignore, ...]


def run_report(
    targets: Sequence[str],
    *,
    options: Mapping[str, Any],
    blocks: Sequence[str] | None = None,
    json_file: str | None = None,
    rates: bool = False,
    output_format: str | None = None,
    output_file: str | None = None,
) -> int:
    """Audit, print, write what was asked for; with ``rates``, a range test of every scenario. Returns the exit code."""
    root = project_root()
    config = load_config(root, options=options)
    if output_format is not None:
        check_format(output_format)
    for file in (json_file, output_file):
        _check_writable(file)
    audited = audit_targets(targets, config=config, root=root, blocks=blocks, baseline=_baseline_of(config, root))
    # Ignores of the table may concern scenarios that were not named: then only those of the command line can be stale.
    report = _with_stale(audited, config.ignore if not targets else check_ignores(as_ignores(options.get("ignore") or ())))
    pictures = _range_tests(targets, config, root, report) if rates else []
    if json_file != "-":
        _show(report, output_format, output_file)
        for picture in pictures:
            print(f"\n{picture}")
    if json_file:
        _write(report.to_json(), json_file)
    for failure in audited.failures:
        print(f"gradguard: {failure}", file=sys.stderr)
    if audited.failures:
        return 2
    return 0 if report.ok else 1


def audit_targets(
    targets: Sequence[str],
    *,
    config: Config,
    root: Path,
    blocks: Sequence[str] | None = None,
    baseline: Sequence[Accepted] = (),
) -> Audited:
    """Audit every scenario of every target; one that cannot be audited does not stop the others.

    Raises:
        UsageError: no target at all, or one that holds no scenario.
    """
    reports: list[Report] = []
    failures: list[UsageError] = []
    used: list[Ignore] = []
    for found in _find(targets, config, root):
        try:
            scenario = build_scenario(found)
            if blocks:
                scenario = replace(scenario, wrt=tuple(blocks))
            with Bar(found.address) as bar:
                report, accepted = audit_scenario(
                    scenario,
                    address=found.address,
                    repeat=command_repeat(found.target, config),
                    config=config,
                    baseline=baseline,
                    root=root,
                    progress=bar,
                )
        except UsageError as error:
            failures.append(error)
            continue
        reports.append(report)
        used.extend(accepted)
        failures.extend(_nothing_decided(found, report))
    return Audited(report=merge(reports), failures=tuple(failures), used=tuple(used))


def _range_tests(targets: Sequence[str], config: Config, root: Path, report: Report) -> list[str]:
    """A picture of each scenario's range test; its runs go into the report's table ``rates``."""
    from gradguard.learning_rate import range_test
    from gradguard.rendering.rates import render_rates

    pictures = []
    for found in _find(targets, config, root):
        try:
            one = build_scenario(found)
            if one.optimizer is None:
                raise UsageError("no optimizer", todo="give the scenario one")
            with Bar(f"{found.address} learning rates"):
                test = range_test(
                    one.model, one.batches, loss=one.loss, optimizer=one.optimizer, grad=one.grad, seed=config.seed
                )
        except UsageError as error:
            pictures.append(f"{found.address}: no range test: {error.what}")
            continue
        report.rows.setdefault("rates", []).extend({"scenario": found.address, **row} for row in test.tables()["rates"])
        pictures.append(f"{found.address}: what each learning rate gains in a short run\n{render_rates(test)}")
    return pictures


def _nothing_decided(found: Found, report: Report) -> list[UsageError]:
    """An error where no rule could say anything of the model: that is not a pass."""
    about = [check for check in report.checks if not check.code.startswith("GG9")]
    if any(check.status != "skipped" for check in about) or (report.checks and not about):
        return []
    reasons = "; ".join(dict.fromkeys(check.reason for check in about)) or "none of them is judged on a scenario"
    todo = "select other rules, or give what they need"
    return [UsageError(f"no selected rule could be applied to {found.address}", where=reasons, todo=todo)]


def _find(targets: Sequence[str], config: Config, root: Path) -> list[Found]:
    if not targets and not config.scenarios:
        raise UsageError(
            "nothing to report on",
            todo="name a file, file.py:name, pkg.module:name or a folder, or set [tool.gradguard] scenarios",
        )
    found: dict[str, Found] = {}
    for target in targets or config.scenarios:
        if isinstance(target, ModelSpec):
            from gradguard.specs import found_model

            several = [found_model(target, config.seed)]
        else:
            several = find_scenarios(target, root=root)
        for one in several:
            found.setdefault(one.address, one)
    return list(found.values())


def _baseline_of(config: Config, root: Path) -> list[Accepted]:
    """The accepted findings; a file that is named but not there yet is a warning, for a first run must not fail."""
    if not config.baseline:
        return []
    path = Path(config.baseline)
    path = path if path.is_absolute() or config.origins.get("baseline") == "option" else root / path
    if not path.exists() and not config.strict:
        print(f"gradguard: warning: there is no baseline {path} yet; `gradguard baseline write` makes it", file=sys.stderr)
        return []
    return read_baseline(path)


def _with_stale(audited: Audited, ignores: Sequence[Ignore]) -> Report:
    """The report with GG901 for ignores that accepted nothing though their rule was judged."""
    from gradguard.rules.unused_ignore import UnusedIgnore

    report = audited.report
    judged = {check.code for check in report.checks}
    stale = [one for one in ignores if one not in audited.used and one.rule in judged]
    if not stale or UnusedIgnore.code not in judged:
        return report
    findings = (*report.findings, *map(UnusedIgnore.stale, stale))
    return Report(findings, report.checks, report.rows, strict=report.strict)


def _show(report: Report, output_format: str | None, output_file: str | None) -> None:
    if output_format is None or output_file is not None:
        print(render_report(report, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    if output_format is not None:
        text = render(report, output_format)
        if output_file is not None:
            _write(text, output_file)
        else:
            print(text)
    if output_format == "github":
        step_summary(report)


def _check_writable(file: str | None) -> None:
    """Before the work, not after it: can the file be written?"""
    if not file or file == "-":
        return
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"is in {path.parent}, which is not a folder"
        raise UsageError(f"cannot write {file}: it {what}", todo="name a file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"cannot write {file}: permission denied", todo="name a file that this user may write")


def _write(text: str, file: str) -> None:
    if file == "-":
        print(text)
        return
    try:
        Path(file).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}", todo="name a file that can be written") from error
