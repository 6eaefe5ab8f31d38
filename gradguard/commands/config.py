"""`gradguard config`: each setting with its value and the place that the value came from."""

from __future__ import annotations

from dataclasses import fields

from gradguard.config import Config

__all__ = ["render_config"]


def render_config(config: Config) -> str:
    """A line per setting: name, value, origin; ignores and limits one a line."""
    rows: list[tuple[str, str, str]] = []
    for f in fields(config):
        if f.name == "origins":
            continue
        value, origin = getattr(config, f.name), config.origins.get(f.name, "default")
        if f.name == "ignore" and value:
            rows.extend(("ignore", f"{one.rule}:{one.block}={one.reason}", origin) for one in value)
        elif f.name == "limits" and value:
            for code, options in value.items():
                for key, option in options.items():
                    if key == "blocks":
                        inner = [(glob, k, v) for glob, o in option.items() for k, v in o.items()]
                        rows.extend((f"limits.{code}.blocks.{glob!r}.{k}", repr(v), origin) for glob, k, v in inner)
                    else:
                        rows.append((f"limits.{code}.{key}", repr(option), origin))
        else:
            rows.append((f.name, _shown(f.name, value), origin))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows)


def _shown(name: str, value: object) -> str:
    if name == "select" and value is None:
        return "all rules"
    if isinstance(value, tuple | dict):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value != "" else "-"
