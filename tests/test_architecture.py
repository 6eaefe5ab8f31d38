"""Imports point downwards only, and torch is known to the torch adapters alone: checked by walking the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gradguard"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS: dict[str, int] = {
    # the module or package, relative to gradguard: its layer; the longest prefix that matches counts
    "errors": 0,
    "blocks": 0,
    "finding": 0,
    "scenarios": 0,
    "report": 1,
    "running": 1,
    "differences": 1,
    "curvature": 1,
    "adapters": 2,
    "measurements": 3,
    "rules": 4,
    "judging": 5,
    "checking": 5,
    "health": 5,
    "watching": 5,
    "learning_rate": 5,
    "rendering": 5,
    "config": 5,
    "baseline": 5,
    "saved": 5,
    "comparing": 5,
    "loading": 5,
    "specs": 5,
    "auditing": 5,
    "progress": 5,
    "strategies": 5,
    "varying": 5,
    "commands": 6,
    "cli": 6,
    "pytest_plugin": 6,
    "integrations": 6,
    "__init__": 6,
}

HEAVY = {"torch", "numpy", "pandas", "jinja2", "rich", "hypothesis", "scipy", "sklearn", "transformers", "matplotlib", "jax"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer(name: str) -> int:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in LAYERS:
            return LAYERS[prefix]
    raise AssertionError(f"gradguard.{name} has no layer: add a row to LAYERS, and to docs/architecture.md")


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every import of a file: the dotted name, its line, and whether it runs when the file is imported."""

    def walk(node: ast.AST, runs: bool, typing: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import) and not typing:
                for alias in child.names:
                    yield alias.name, child.lineno, runs
            elif isinstance(child, ast.ImportFrom) and not typing:
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                yield child.module or "", child.lineno, runs
                for alias in child.names:
                    yield f"{child.module}.{alias.name}", child.lineno, runs
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, runs, True)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, runs and not inside, typing)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True, False)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_downwards(path: Path) -> None:
    own = layer(module_name(path))
    known = {module_name(file) for file in FILES}
    for name, line, runs in imports(path):
        inner = name.removeprefix("gradguard.")
        if name == inner or inner not in known:
            continue
        if module_name(path) == "report" and inner.startswith("rendering") and not runs:
            # A report renders itself for people: str(report) is the one way up, and only when it is called.
            continue
        if module_name(path) in ("measurements.registry", "rules.registry"):
            continue
        assert layer(inner) <= own, f"{path.name}:{line}: layer {own} imports gradguard.{inner} of layer {layer(inner)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_torch_is_known_to_the_torch_adapters_alone(path: Path) -> None:
    name = module_name(path)
    if name.startswith("adapters.torch_"):
        return
    for imported, line, _ in imports(path):
        assert imported.split(".")[0] != "torch", f"{path.name}:{line} imports torch"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_what_every_user_imports_is_light(path: Path) -> None:
    """The root, the plugin and the command import nothing heavy; nor does anything that they import at once."""
    if module_name(path) not in ("__init__", "pytest_plugin", "cli", "scenarios", "errors", "finding", "blocks"):
        return
    for imported, line, runs in imports(path):
        assert not (runs and imported.split(".")[0] in HEAVY), f"{path.name}:{line} imports {imported} at once"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_names_say_what_is_inside(path: Path) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
    assert not vague & set(path.stem.split("_")), f"{path}: a name that says nothing"
