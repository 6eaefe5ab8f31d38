"""SARIF 2.1.0: stable rule ids and fingerprints, each result at the class of the guilty module."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from gradguard import __version__
from gradguard.finding import Finding
from gradguard.rendering.places import place, unique_fingerprints
from gradguard.rendering.text import render_finding
from gradguard.rules.registry import RULES, rule_class

if TYPE_CHECKING:
    from gradguard.report import Report

__all__ = ["render_sarif"]

LEVEL = {"error": "error", "warning": "warning", "info": "note"}
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def render_sarif(report: Report) -> str:
    """One run of the tool ``gradguard``; the fingerprint never contains a measured value."""
    slugs = {c.code: c.rule for c in report.checks} | {f.code: f.rule for f in report.findings}
    codes = sorted(slugs)
    fingerprints = unique_fingerprints(report.findings)
    roots = {f.fingerprint: f for f in report.findings}
    driver = {"name": "gradguard", "version": __version__, "rules": [_rule(code, slugs[code]) for code in codes]}
    results = [
        _result(finding, fingerprint, codes.index(finding.code), roots)
        for finding, fingerprint in zip(report.findings, fingerprints, strict=True)
    ]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str, slug: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": code, "name": "".join(part.capitalize() for part in slug.split("-"))}
    if code in RULES:
        rule = rule_class(code)
        text = inspect.cleandoc(rule.__doc__ or slug)
        entry["shortDescription"] = {"text": text.splitlines()[0]}
        entry["fullDescription"] = {"text": text}
        entry["defaultConfiguration"] = {"level": LEVEL[rule.severity]}
    return entry


def _result(finding: Finding, fingerprint: str, index: int, roots: dict[str, Finding]) -> dict[str, Any]:
    path, line = place(finding)
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(path), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": line},
        }
    }
    name = finding.block or finding.module
    if name:
        location["logicalLocations"] = [{"fullyQualifiedName": f"{finding.scenario}/{name}", "kind": "variable"}]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVEL[finding.severity],
        "message": {"text": render_finding(finding, roots)},
        "locations": [location],
        "partialFingerprints": {"gradguard/v1": fingerprint},
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
