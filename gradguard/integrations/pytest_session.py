"""What the plugin knows during a run: settings, baseline, and what the checks said so far."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gradguard.baseline import DEFAULT, Accepted, entries_of, read_baseline, write_baseline
from gradguard.config import Config, load_config
from gradguard.errors import UsageError
from gradguard.finding import Finding
from gradguard.pytest_plugin import PAYLOAD
from gradguard.rendering.text import count_checks
from gradguard.report import Report, merge, plain
from gradguard.rules.unused_ignore import UnusedIgnore
from gradguard.saved import report_from_dict
from gradguard.scenarios import Ignore

__all__ = ["Work", "divided_threads", "finish", "merged", "report_of_run", "shared_folder", "work_of"]

WORK = pytest.StashKey["Work"]()
FOLDER = pytest.StashKey[str]()
WORST = ("failed", "inconclusive", "passed", "skipped")
OPTIONS = ("select", "ignore", "seed", "strict", "profile", "baseline")


@dataclass
class Work:
    """Settings of a run and its baseline, read once; ``note`` is something to tell at the end."""

    config: pytest.Config
    accepted: list[Accepted] = field(default_factory=list)
    note: str = ""

    def settings(self, marker: Mapping[str, Any] | None = None, call: Mapping[str, Any] | None = None) -> Config:
        """The settings for one test.

        Raises:
            UsageError: something in them is wrong.
        """
        options = {name: self.config.getoption(f"gradguard_{name}") for name in OPTIONS}
        return load_config(self.config.rootpath, options=options, marker=marker, call=call)

    @property
    def writing(self) -> bool:
        """Whether this run accepts what it finds, so that nothing fails."""
        return bool(self.config.getoption("gradguard_write_baseline"))

    def record(self, item: pytest.Item, report: Report, used: Sequence[Ignore] = ()) -> None:
        """Let findings and checks travel with the test's report; tables stay in this process, or go into the folder."""
        payload = {
            "checks": [plain(check.row()) for check in report.checks],
            "findings": [plain(finding.row()) for finding in report.findings],
            "used": [[one.rule, one.block, one.reason] for one in used],
        }
        parts = item.stash.setdefault(PAYLOAD, [])
        # A property-based test checks hundreds of times: what says the same as the call before adds nothing.
        if not parts or _said(parts[-1]) != _said(payload):
            parts.append(payload)

    def keep_tables(self, report: Report) -> None:
        """Keep the bulk of a report for the output file; nothing is written where no file was asked for."""
        if not self.config.getoption("gradguard_output_file"):
            return
        folder = getattr(self.config, "workerinput", {}).get("gradguard_folder") or shared_folder(self.config)
        data = Report((), (), report.rows).to_dict()
        (Path(folder) / f"{uuid.uuid4().hex}.json").write_text(json.dumps(data), encoding="utf-8")


def _said(payload: Mapping[str, Any]) -> list[tuple[str, ...]]:
    checks = [(check["scenario"], check["code"], check["status"]) for check in payload["checks"]]
    return [*checks, *((finding["fingerprint"],) for finding in payload["findings"])]


def work_of(config: pytest.Config) -> Work:
    """The work of this run, made at its first use.

    Raises:
        UsageError: the settings or the baseline are wrong.
    """
    if WORK not in config.stash:
        work = Work(config)
        settings = work.settings()
        if settings.baseline and not work.writing:
            path = _baseline_path(config, settings)
            if path.exists() or settings.strict:
                work.accepted = read_baseline(path)
            else:
                # Not a Python warning: many projects make those errors, and a first run must not fail.
                work.note = f"warning: there is no baseline {path} yet; --gradguard-write-baseline makes it"
        config.stash[WORK] = work
    return config.stash[WORK]


def merged(payloads: Sequence[str]) -> tuple[Report, list[Ignore]]:
    """The report of a whole run from what came with its tests' reports.

    Within a test that checks several times, the worst outcome of a rule counts, and each place once; of a test that was run
    several times, the last run counts.
    """
    checks: dict[tuple[str, str], dict[str, Any]] = {}
    findings: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    used: list[Ignore] = []
    for text in payloads:
        met: set[tuple[str, str]] = set()
        for part in json.loads(text):
            for check in part["checks"]:
                key = (check["scenario"], check["code"])
                if key not in met:
                    findings[key] = {}
                if key not in met or WORST.index(check["status"]) < WORST.index(checks[key]["status"]):
                    checks[key] = check
                met.add(key)
            for finding in part["findings"]:
                findings.setdefault((finding["scenario"], finding["code"]), {})[finding["fingerprint"]] = finding
            used.extend(Ignore(*one) for one in part["used"])
    rows = [row for several in findings.values() for row in several.values()]
    report = report_from_dict({"tables": {"checks": list(checks.values()), "findings": rows}})
    return Report(_ordered(report.findings), report.checks), used


def report_of_run(config: pytest.Config, payloads: Sequence[str]) -> Report:
    """The report of a run, with GG901 for ignores of the settings that accepted nothing, where the whole suite ran."""
    report, used = merged(payloads)
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    part = config.args_source is pytest.Config.ArgsSource.ARGS or (reporter is not None and reporter.stats.get("deselected"))
    judged = {check.code for check in report.checks}
    if part or UnusedIgnore.code not in judged:
        return report
    try:
        given = work_of(config).settings().ignore
    except UsageError:
        # The tests that needed the settings have failed with this already.
        return report
    stale = [UnusedIgnore.stale(one) for one in given if one not in used and one.rule in judged]
    return Report((*report.findings, *stale), report.checks, report.rows)


def finish(session: pytest.Session, payloads: Sequence[str]) -> str:
    """Write what was asked for: baseline, output file, properties of JUnit. Returns what went wrong; that fails the run."""
    config = session.config
    if hasattr(config, "workerinput"):
        return ""
    report = report_of_run(config, payloads)
    _add_properties(config, report)
    try:
        if work_of(config).writing:
            _write_baseline(config, report)
        _write_output(config, report)
    except UsageError as error:
        session.testsfailed += 1
        return str(error)
    return ""


def _write_baseline(config: pytest.Config, report: Report) -> None:
    """Accept what was found; entries of rules that did not run in this session are kept."""
    path = _baseline_path(config, work_of(config).settings())
    decided = {(c.scenario, c.code) for c in report.checks if c.status in ("passed", "failed")}
    before = read_baseline(path) if path.exists() else []
    write_baseline(path, [*(e for e in before if (e.scenario, e.rule) not in decided), *entries_of(report)])


def _add_properties(config: pytest.Config, report: Report) -> None:
    """Findings as properties of JUnit's test suite; its schema allows them there, and not on a test case."""
    xml: Any = next((p for p in config.pluginmanager.get_plugins() if hasattr(p, "add_global_property")), None)
    if xml is None:
        return
    xml.add_global_property("gradguard.checks", count_checks(report))
    for f in report.findings:
        name = ".".join(part for part in ("gradguard", f.code, f.scenario, f.block or f.module) if part)
        xml.add_global_property(name, f"{f.severity}: {f.message}")


def shared_folder(config: pytest.Config) -> str:
    """A temporary folder of this run, for tables that are too large to travel with reports."""
    if FOLDER not in config.stash:
        folder = tempfile.TemporaryDirectory(prefix="gradguard-")
        config.stash[FOLDER] = folder.name
        config.add_cleanup(folder.cleanup)
    return config.stash[FOLDER]


@contextmanager
def divided_threads(config: pytest.Config) -> Generator[None]:
    """While a check runs under xdist, torch uses its share of the threads; afterwards as many as before."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) if hasattr(config, "workerinput") else 1
    torch = sys.modules.get("torch")
    if workers <= 1 or torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_output(config: pytest.Config, report: Report) -> None:
    name, file = config.getoption("gradguard_output_format"), config.getoption("gradguard_output_file")
    if not file:
        return
    from gradguard.rendering.formats import render

    parts = sorted(Path(shared_folder(config)).glob("*.json"))
    whole = merge([report, *(report_from_dict(json.loads(part.read_text(encoding="utf-8"))) for part in parts)])
    try:
        Path(file).write_text(render(whole, name or "json") + "\n", encoding="utf-8")
    except OSError as error:
        todo = "name a file in a folder that exists, and that this user may write"
        raise UsageError(f"cannot write {file}: {error.strerror or error}", todo=todo) from error


def _baseline_path(config: pytest.Config, settings: Config) -> Path:
    path = Path(settings.baseline or DEFAULT)
    base = config.invocation_params.dir if settings.origins.get("baseline") == "option" else config.rootpath
    return base / path


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    rank = {"error": 0, "warning": 1, "info": 2}
    known = {f.fingerprint for f in findings}
    loose = [replace(f, caused_by="") if f.caused_by and f.caused_by not in known else f for f in findings]
    return sorted(loose, key=lambda f: (rank[f.severity], bool(f.caused_by)))
