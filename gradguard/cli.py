"""The command `gradguard`. Exit code 0: nothing found; 1: findings; 2: it could not be asked that way."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradguard import __version__
from gradguard.errors import UsageError

__all__ = ["main"]

CLEAN, FOUND, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name's letters shows their escapes; it never stops the run.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except UsageError as error:
        print(f"gradguard: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("gradguard: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): not an error of anyone's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except Exception as error:
        if os.environ.get("GRADGUARD_DEBUG"):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"gradguard: internal error: {type(error).__name__}: {error}\n"
            f"  where    {Path(last.filename).name}:{last.lineno}\n"
            "  to do    please report it, with the output of the same command under GRADGUARD_DEBUG=1",
            file=sys.stderr,
        )
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradguard",
        description="Are the gradients right, do the units live, does the gradient arrive, will the learning rate hold?",
        epilog="Exit code 0: nothing found, 1: findings, 2: usage or internal error.",
    )
    parser.add_argument("--version", action="version", version=f"gradguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    report = commands.add_parser("report", help="audit scenarios", description="Audit the scenarios of each target.")
    _add_run_options(report)
    report.add_argument("--lr", action="store_true", help="also try rates from a thousandth to a thousandfold")
    report.add_argument("--json", metavar="FILE", help="write the report as JSON as well; - prints it instead of the text")
    report.add_argument("--output-format", metavar="FORMAT", help="text, json, jsonl, markdown, github, gitlab, sarif or junit")
    report.add_argument("--output-file", metavar="FILE", help="write it to a file; the text still goes to the terminal")
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="what changed between two saved reports")
    compare.add_argument("before", metavar="A", help="report.json or the folder it is in; the reference")
    compare.add_argument("after", metavar="B", help="the report that is judged")
    compare.add_argument("--factor", type=float, default=10.0, help="a number moved when it changed by more than this (10)")
    compare.add_argument("--strict", action="store_true", help="fail where the reference A is missing, instead of a warning")
    compare.set_defaults(run=_compare)

    rules = commands.add_parser("rules", help="every rule in a line")
    rules.set_defaults(run=_rules)
    explain = commands.add_parser("explain", help="one rule: what it does, why it is bad, what to do")
    explain.add_argument("rule", metavar="CODE", help="a code such as GG101, or a name such as gradient-mismatch")
    explain.set_defaults(run=_explain)

    config = commands.add_parser("config", help="each setting, and where its value came from")
    _add_settings(config)
    config.set_defaults(run=_config)

    baseline = commands.add_parser("baseline", help="accept the findings of today, so that only new ones fail")
    actions = baseline.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, what in (("write", "accept what is found now"), ("prune", "drop the entries that no longer occur")):
        action = actions.add_parser(name, help=what)
        _add_run_options(action)
        action.set_defaults(run=_baseline, action=name)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--select", metavar="RULES", help="codes, names or prefixes, separated by commas: GG1,dead-units")
    parser.add_argument("--ignore", metavar="CODE:GLOB=REASON", action="append", help="accept a finding; may be repeated")
    parser.add_argument("--seed", type=int, help="the seed of everything random (0)")
    parser.add_argument("--profile", help="fast, ci, thorough, or one of your own")
    parser.add_argument("--baseline", metavar="FILE", help="accepted findings")
    parser.add_argument("--strict", action="store_true", default=None, help="what is inconclusive fails")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="file.py, file.py:name, pkg.module:name or a folder")
    parser.add_argument("--block", metavar="GLOB", action="append", help="only these blocks; may be repeated")
    _add_settings(parser)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("select", "ignore", "seed", "profile", "baseline", "strict")
    return {name: getattr(arguments, name) for name in names}


def _report(arguments: argparse.Namespace) -> int:
    from gradguard.commands.report import run_report

    return run_report(
        arguments.targets,
        options=_settings(arguments),
        blocks=arguments.block,
        json_file=arguments.json,
        rates=arguments.lr,
        output_format=arguments.output_format,
        output_file=arguments.output_file,
    )


def _baseline(arguments: argparse.Namespace) -> int:
    from gradguard.commands.baseline import run_baseline

    return run_baseline(arguments.action, arguments.targets, options=_settings(arguments), blocks=arguments.block)


def _compare(arguments: argparse.Namespace) -> int:
    from gradguard.comparing import compare, render_comparison
    from gradguard.saved import load_report

    reference = Path(arguments.before)
    after = load_report(arguments.after)
    if not reference.exists():
        word = "error" if arguments.strict else "warning"
        print(f"gradguard: {word}: there is no reference {reference}, so nothing was compared", file=sys.stderr)
        print("  to do    save one: gradguard report TARGET... --json FILE, on the branch to compare with", file=sys.stderr)
        return FOUND if arguments.strict else CLEAN
    comparison = compare(load_report(reference), after, factor=arguments.factor)
    print(render_comparison(comparison))
    return CLEAN if comparison.ok else FOUND


def _rules(arguments: argparse.Namespace) -> int:
    from gradguard.rules.registry import all_rules

    for rule in all_rules():
        summary = (rule.__doc__ or "").strip().splitlines()[0]
        print(f"{rule.code}  {rule.slug:<26}  {rule.severity:<8}  {summary}")
    return CLEAN


def _explain(arguments: argparse.Namespace) -> int:
    import inspect

    from gradguard.rules.registry import find, rule_class

    rule = rule_class(find(arguments.rule))
    print(f"{rule.code} {rule.slug} ({rule.severity})\n")
    print(inspect.cleandoc(rule.__doc__ or ""))
    return CLEAN


def _config(arguments: argparse.Namespace) -> int:
    from gradguard.commands.config import render_config
    from gradguard.config import load_config
    from gradguard.loading import project_root

    print(render_config(load_config(project_root(), options=_settings(arguments))))
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
