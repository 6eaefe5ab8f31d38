"""The settings of a run: one table ``[tool.gradguard]``, read by the plugin and the command alike.

A value comes from the first place that has it: the call, the marker, an option, the environment, the profile, the table,
the default. Ignores are collected from all of them. Every value remembers where it came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradguard.blocks import nearest
from gradguard.errors import UsageError
from gradguard.rules.limits import Limits, parse_limits
from gradguard.rules.registry import select_rules
from gradguard.scenarios import Ignore

__all__ = ["PROFILES", "Config", "Layer", "ModelSpec", "load_config", "read_table"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Values from one place; ``origin`` says which, for messages and for ``gradguard config``."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without a scenario: ``pkg.module:factory`` and the shape of its input, such as ``4x3x32x32``."""

    model: str
    inputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The resolved settings. ``origins`` maps each name to the place that its value came from."""

    select: tuple[str, ...] | None = None
    ignore: tuple[Ignore, ...] = ()
    limits: Limits = field(default_factory=dict)
    seed: int = 0
    strict: bool = False
    profile: str = ""
    scenarios: tuple[str | ModelSpec, ...] = ()
    baseline: str = ""
    method: str = "directional"
    precision: str = "auto"
    steps: int = 20
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def codes(self) -> list[str]:
        """The codes of the selected rules."""
        return select_rules(self.select)


PROFILES: dict[str, dict[str, Any]] = {
    "fast": {"select": ["GG1"], "steps": 5},
    "ci": {"steps": 20},
    "thorough": {"steps": 100},
}
"""What the profiles set that need no table; ``[tool.gradguard.profiles.NAME]`` adds to them or replaces values."""

ENVIRONMENT = ("select", "seed", "strict", "profile", "baseline")
"""Settings that ``GRADGUARD_NAME`` in the environment can set."""


def load_config(
    root: Path,
    *,
    options: Mapping[str, Any] | None = None,
    marker: Mapping[str, Any] | None = None,
    call: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The settings for a project; values that are None count as not given.

    Raises:
        UsageError: broken TOML, an unknown key, rule or profile (names the nearest), a value of the wrong type.
    """
    table = read_table(root)
    profiles = table.values.get("profiles", {})
    upper = [
        _given("call", call),
        _given("marker", marker),
        _given("option", options),
        _from_environment(os.environ if environ is None else environ),
    ]
    named = next((layer.values["profile"] for layer in [*upper, table] if "profile" in layer.values), "")
    layers = [*upper, *_profile(named, profiles, table.origin), table]
    return _resolve(layers)


def read_table(root: Path) -> Layer:
    """The table ``[tool.gradguard]`` of ``root/pyproject.toml``; empty where there is none."""
    path = root / "pyproject.toml"
    origin = "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Layer(origin=origin, values={})
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", todo="save it as UTF-8 text that this user may read") from error
    try:
        table = tomllib.loads(text).get("tool", {}).get("gradguard", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", todo="mend that line") from error
    if not isinstance(table, dict):
        raise UsageError(f"[tool.gradguard] is a {type(table).__name__}, not a table", where=str(path))
    return Layer(origin=origin, values=table)


def _given(origin: str, values: Mapping[str, Any] | None) -> Layer:
    return Layer(origin=origin, values={key: value for key, value in (values or {}).items() if value is not None})


def _from_environment(environ: Mapping[str, str]) -> Layer:
    values: dict[str, Any] = {}
    for key in ENVIRONMENT:
        name = f"GRADGUARD_{key.upper()}"
        text = environ.get(name, "").strip()
        if not text:
            continue
        if key == "seed":
            try:
                values[key] = int(text)
            except ValueError:
                raise UsageError(f"{name} takes an integer, got {text!r}", where="environment") from None
        elif key == "strict":
            if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
                raise UsageError(f"{name} takes 0 or 1, got {text!r}", where="environment")
            values[key] = text.lower() in ("1", "true", "yes")
        else:
            values[key] = text
    return Layer(origin="environment", values=values)


def _profile(name: Any, own: Any, origin: str) -> list[Layer]:
    if not isinstance(own, dict):
        raise UsageError(f"profiles is a table of tables, got {own!r}", where=origin)
    for title, values in own.items():
        if not isinstance(values, dict):
            raise UsageError(f"profiles.{title} is a table, got {values!r}", where=origin)
        for key in values:
            if key in ("profile", "profiles", "scenarios") or key not in READERS:
                raise UsageError(f"profiles.{title} has the unknown key {key!r}.{nearest(key, READERS)}", where=origin)
    if not name:
        return []
    known = {**PROFILES, **own}
    if name not in known:
        raise UsageError(
            f"there is no profile {name!r}.{nearest(str(name), known)}", todo=f"one of {', '.join(sorted(known))}"
        )
    return [Layer(origin=f"profile {name}", values={**PROFILES.get(name, {}), **own.get(name, {})})]


def _resolve(layers: Sequence[Layer]) -> Config:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    ignores: list[Ignore] = []
    limits: Limits = {}
    for layer in layers:
        for key, raw in layer.values.items():
            if key == "profiles":
                continue
            if key not in READERS:
                raise UsageError(
                    f"{layer.origin} has the unknown key {key!r}.{nearest(key, READERS)}",
                    todo=f"the keys are {', '.join(READERS)}, profiles",
                )
            value = READERS[key](raw, f"{layer.origin}: {key}")
            if key == "ignore":
                ignores.extend(one for one in value if one not in ignores)
            elif key == "limits":
                limits = {**value, **limits}
            elif key in values:
                continue
            else:
                values[key] = value
            origins[key] = f"{origins[key]}, {layer.origin}" if key in origins else layer.origin
    return replace(Config(), **values, ignore=tuple(ignores), limits=limits, origins=origins)


def _texts(raw: Any, where: str) -> tuple[str, ...]:
    items = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple) or not all(isinstance(one, str) and one for one in items):
        raise UsageError(f"{where} takes a list of texts, got {raw!r}")
    return tuple(items)


def _select(raw: Any, where: str) -> tuple[str, ...]:
    chosen = _texts(raw, where)
    try:
        select_rules(chosen)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", todo=error.todo) from None
    return chosen


def _ignores(raw: Any, where: str) -> tuple[Ignore, ...]:
    items = [raw] if isinstance(raw, str | dict | Ignore) else raw
    if not isinstance(items, list | tuple):
        raise UsageError(f"{where} takes a list, got {raw!r}")
    result = []
    for one in items:
        if isinstance(one, Ignore):
            result.append(_checked(one, where))
        elif isinstance(one, str):
            result.append(_checked(Ignore.parse(one), where))
        elif isinstance(one, dict):
            unknown = next((key for key in one if key not in ("rule", "block", "reason")), None)
            if unknown is not None:
                raise UsageError(f"{where} has the unknown key {unknown!r}.{nearest(unknown, ('rule', 'block', 'reason'))}")
            result.append(_checked(Ignore(one.get("rule", ""), one.get("block", "*"), one.get("reason", "")), where))
        else:
            raise UsageError(f"{where} takes tables with rule, block and reason, got {one!r}")
    return tuple(result)


def _checked(ignore: Ignore, where: str) -> Ignore:
    from gradguard.rules.registry import find

    try:
        return replace(ignore, rule=find(ignore.rule))
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", todo=error.todo) from None


def _kind(kind: type, noun: str) -> Callable[[Any, str], Any]:
    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, kind) or (kind is int and isinstance(raw, bool)):
            raise UsageError(f"{where} takes {noun}, got {raw!r}")
        return raw

    return read


def _one_of(*allowed: Any) -> Callable[[Any, str], Any]:
    def read(raw: Any, where: str) -> Any:
        if raw not in allowed or isinstance(raw, bool):
            choices = ", ".join(map(repr, allowed))
            raise UsageError(f"{where} takes one of {choices}, got {raw!r}.{nearest(str(raw), map(str, allowed))}")
        return raw

    return read


def _steps(raw: Any, where: str) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 1:
        raise UsageError(f"{where} takes an integer of at least 1, got {raw!r}")
    return raw


def _scenarios(raw: Any, where: str) -> tuple[str | ModelSpec, ...]:
    if not isinstance(raw, list | tuple):
        raise UsageError(f"{where} takes a list, got {raw!r}", todo='for example scenarios = ["pkg.models:tiny_gpt"]')
    return tuple(_spec(one, where) if isinstance(one, dict) else _kind(str, "texts or tables")(one, where) for one in raw)


def _spec(raw: Mapping[str, Any], where: str) -> ModelSpec:
    if set(raw) != {"model", "inputs"} or not all(isinstance(value, str) for value in raw.values()):
        raise UsageError(
            f"{where}: a model spec has the keys model and inputs, got {dict(raw)!r}",
            todo='for example {model = "pkg.models:resnet", inputs = "4x3x32x32"}',
        )
    sizes = raw["inputs"].split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UsageError(f"{where}: inputs is a shape such as '4x3x32x32', got {raw['inputs']!r}")
    return ModelSpec(model=raw["model"], inputs=tuple(int(size) for size in sizes))


READERS: dict[str, Callable[[Any, str], Any]] = {
    "select": _select,
    "ignore": _ignores,
    "limits": parse_limits,
    "seed": _kind(int, "an integer"),
    "strict": _kind(bool, "true or false"),
    "profile": _kind(str, "a name"),
    "scenarios": _scenarios,
    "baseline": _kind(str, "a file's path"),
    "method": _one_of("directional", "entrywise"),
    "precision": _one_of("auto", "float64", "native"),
    "steps": _steps,
}
"""Each key of the table, with the function that validates a value of it."""
