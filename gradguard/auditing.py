"""One scenario from its function to its report, the same for the plugin and the command.

What the user's own code raises is told as the user's error; ignores and baseline are applied; every finding gets the place
in the source and the command that shows it again.
"""

from __future__ import annotations

import inspect
import os
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradguard.baseline import Accepted, apply_baseline, apply_ignores
from gradguard.checking import audit
from gradguard.config import Config
from gradguard.errors import INTERRUPTS, GradGuardError, UsageError
from gradguard.finding import Finding
from gradguard.loading import HERE, user_error
from gradguard.report import Report
from gradguard.scenarios import Ignore, Scenario

__all__ = ["Progress", "accepted", "audit_scenario", "command_repeat", "located", "renamed"]

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``."""


def audit_scenario(
    scenario: Scenario,
    *,
    address: str,
    repeat: Callable[[Finding], str],
    config: Config,
    codes: Sequence[str] | None = None,
    baseline: Sequence[Accepted] = (),
    root: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Report, list[Ignore]]:
    """The report of one scenario under its address, and the ignores of the configuration that accepted something.

    ``repeat`` gives the command that shows a finding again. ``codes``: only these rules.

    Raises:
        UsageError: the scenario cannot be audited as it is, or the user's code raised (with its own error and line).
    """
    try:
        report = audit(
            scenario,
            select=list(config.codes if codes is None else codes),
            seed=config.seed,
            limits=config.limits,
            method=config.method,
            precision=config.precision,
            steps=config.steps,
            progress=progress,
            name=address,
        )
    except (UsageError, GradGuardError, *INTERRUPTS):
        raise
    except Exception as error:
        if _is_ours(error):
            raise
        raise user_error(error, f"scenario {address} raised while it was audited:") from error
    report = located(report, scenario.model, root)
    return accepted(report, repeat=repeat, config=config, baseline=baseline)


def accepted(
    report: Report, *, repeat: Callable[[Finding], str], config: Config, baseline: Sequence[Accepted]
) -> tuple[Report, list[Ignore]]:
    """The report with what repeats its findings, without what is accepted; and the ignores that accepted something."""
    findings = [replace(f, repeat=repeat(f)) for f in report.findings]
    report = Report(findings, report.checks, report.rows, strict=config.strict)
    report, used = apply_ignores(report, config.ignore)
    return (apply_baseline(report, baseline) if baseline else report), used


def command_repeat(target: str, config: Config) -> Callable[[Finding], str]:
    """``gradguard report models.py:mlp --select GG101 --block fc1.weight --seed 0`` for a finding."""

    def repeat(finding: Finding) -> str:
        block = f" --block {shlex.quote(finding.block)}" if finding.block and finding.code.startswith("GG1") else ""
        return f"gradguard report {shlex.quote(target)} --select {finding.code}{block} --seed {config.seed}"

    return repeat


def renamed(report: Report, name: str) -> Report:
    """The report with every row under the scenario ``name``; causes are still found by fingerprint."""
    after = {f.fingerprint: replace(f, scenario=name).fingerprint for f in report.findings}
    findings = [replace(f, scenario=name, caused_by=after.get(f.caused_by, f.caused_by)) for f in report.findings]
    checks = [replace(c, scenario=name) for c in report.checks]
    rows = {
        table: [{**row, "scenario": name} if "scenario" in row else row for row in rows] for table, rows in report.rows.items()
    }
    return Report(findings, checks, rows, strict=report.strict)


def located(report: Report, model: Any, root: Path | None = None) -> Report:
    """The report with paths relative to the project, and the line of each guilty module's class where none is given."""
    base = (root or Path.cwd()).resolve()
    findings = []
    for finding in report.findings:
        source = "" if ".py:" in finding.location else _source(model, finding, base)
        location = "; ".join(text for text in (finding.location.replace(f"{base}{os.sep}", ""), source) if text)
        findings.append(replace(finding, location=location))
    return Report(findings, report.checks, report.rows, strict=report.strict)


def _source(model: Any, finding: Finding, root: Path) -> str:
    """``models.py:12`` for the class of the module, or of the innermost module on its path that the user wrote."""
    path = finding.module or finding.block.rpartition(".")[0]
    owners = [model]
    for part in path.split(".") if path else []:
        # Modules are reached by attribute or, in containers, by the names that their table of children has.
        children = getattr(owners[-1], "_modules", None)
        inner = children.get(part) if isinstance(children, Mapping) else None
        if inner is None:
            break
        owners.append(inner)
    for owner in reversed(owners):
        try:
            file = Path(inspect.getsourcefile(type(owner)) or "").resolve()
            line = inspect.getsourcelines(type(owner))[1]
        except (TypeError, OSError):
            continue
        if file.is_relative_to(root) and "site-packages" not in file.parts:
            return f"{file.relative_to(root).as_posix()}:{max(line, 1)}"
    return ""


def _is_ours(error: Exception) -> bool:
    """Whether the error came from a line of gradguard itself, and not from what it called for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(HERE)
