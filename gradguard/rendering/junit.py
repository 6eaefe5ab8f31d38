"""JUnit XML for `gradguard report`: a suite per scenario, a case per rule. (Under pytest, `--junitxml` writes it.)"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from gradguard.finding import Check
from gradguard.rendering.text import render_finding

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["render_junit"]

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 does not allow, escaped or not."""


def render_junit(report: Report) -> str:
    """Failures carry the evidence, skipped and inconclusive rules their reason."""
    root = ElementTree.Element("testsuites", name="gradguard")
    roots = {f.fingerprint: f for f in report.findings}
    for scenario in dict.fromkeys(check.scenario for check in report.checks):
        checks = [check for check in report.checks if check.scenario == scenario]
        seconds = sum(float(r.get("seconds") or 0) for r in report.table_rows("measurements") if r.get("scenario") == scenario)
        failed = [check for check in checks if _fails(check, report.strict)]
        skipped = [check for check in checks if check.status in ("skipped", "inconclusive") and check not in failed]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_clean(scenario),
            tests=str(len(checks)),
            failures=str(len(failed)),
            errors="0",
            skipped=str(len(skipped)),
            time=f"{seconds:.3f}",
        )
        for check in checks:
            name = f"{check.code} {check.rule}"
            case = ElementTree.SubElement(suite, "testcase", classname=_clean(scenario), name=name, time="0")
            found = [f for f in report.findings if f.scenario == scenario and f.code == check.code]
            text = "\n\n".join(render_finding(f, roots) for f in found)
            if check in failed:
                message = found[0].message if found else f"inconclusive: {check.reason}"
                ElementTree.SubElement(case, "failure", message=_clean(message), type=check.code).text = _clean(text)
            elif check in skipped:
                ElementTree.SubElement(case, "skipped", message=_clean(f"{check.status}: {check.reason}"))
            elif text:
                ElementTree.SubElement(case, "system-out").text = _clean(text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _fails(check: Check, strict: bool) -> bool:
    return check.status == "failed" or (strict and check.status == "inconclusive")


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
