"""`gradguard baseline write` and `prune`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradguard.baseline import DEFAULT, entries_of, read_baseline, write_baseline
from gradguard.commands.report import audit_targets
from gradguard.config import load_config
from gradguard.loading import project_root
from gradguard.rendering.text import plural

__all__ = ["run_baseline"]


def run_baseline(
    action: str, targets: Sequence[str], *, options: Mapping[str, Any], blocks: Sequence[str] | None = None
) -> int:
    """Write the file, or drop entries from it whose rule ran and found nothing. Returns the exit code.

    Entries of scenarios that were not audited in this run are kept as they are.
    """
    root = project_root()
    config = load_config(root, options=options)
    path = Path(config.baseline or DEFAULT)
    path = path if path.is_absolute() or config.origins.get("baseline") == "option" else root / path
    before = read_baseline(path) if action == "prune" or path.exists() else []
    audited = audit_targets(targets, config=config, root=root, blocks=blocks)
    for failure in audited.failures:
        print(f"gradguard: {failure}", file=sys.stderr)
    report = audited.report
    decided = {(c.scenario, c.code) for c in report.checks if c.status in ("passed", "failed")}
    now = entries_of(report)
    if action == "prune":
        kept = [e for e in before if (e.scenario, e.rule) not in decided or any(e.covers(f) for f in report.findings)]
        write_baseline(path, kept)
        print(f"{path}: {plural(len(before) - len(kept), 'entry').replace('entrys', 'entries')} dropped, {len(kept)} kept")
    else:
        others = [e for e in before if (e.scenario, e.rule) not in decided]
        write_baseline(path, [*others, *now])
        more = f", {len(others)} kept of other scenarios" if others else ""
        print(f"{path}: {plural(len(now), 'finding')} accepted{more}")
    return 2 if audited.failures else 0
