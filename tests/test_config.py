from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradguard.commands.config import render_config
from gradguard.config import Config, ModelSpec, load_config
from gradguard.errors import UsageError
from gradguard.scenarios import Ignore


def load(tmp_path: Path, table: str = "", **layers: Any) -> Config:
    (tmp_path / "pyproject.toml").write_text(table, encoding="utf-8")
    return load_config(tmp_path, environ=layers.pop("environ", {}), **layers)


def test_defaults(tmp_path: Path) -> None:
    config = load_config(tmp_path, environ={})
    assert config == Config()
    assert config.codes[0] == "GG101"


def test_the_first_place_that_has_a_value_gives_it(tmp_path: Path) -> None:
    table = "[tool.gradguard]\nseed = 1\nprofile = 'mine'\n[tool.gradguard.profiles.mine]\nseed = 2\n"
    layers: list[tuple[str, dict[str, Any]]] = [
        ("pyproject.toml", {"table": "[tool.gradguard]\nseed = 1\n"}),
        ("profile mine", {"table": table}),
        ("environment", {"environ": {"GRADGUARD_SEED": "3"}}),
        ("option", {"options": {"seed": 4}}),
        ("marker", {"marker": {"seed": 5}}),
        ("call", {"call": {"seed": 6}}),
    ]
    given: dict[str, Any] = {}
    for expected, (origin, layer) in enumerate(layers, start=1):
        given.update(layer)
        config = load(tmp_path, **given)
        assert (config.seed, config.origins["seed"]) == (expected, origin)


def test_ignores_are_collected_from_every_place(tmp_path: Path) -> None:
    table = '[tool.gradguard]\nignore = [{rule = "gradient-mismatch", block = "enc.*", reason = "STE"}, "GG104:*=noise"]\n'
    config = load(tmp_path, table, options={"ignore": ["GG102:a=b"]})
    assert config.ignore == (
        Ignore("GG102", block="a", reason="b"),
        Ignore("GG101", block="enc.*", reason="STE"),
        Ignore("GG104", block="*", reason="noise"),
    )
    assert config.origins["ignore"] == "option, pyproject.toml"


def test_profiles_change_what_ships(tmp_path: Path) -> None:
    assert load(tmp_path, options={"profile": "fast"}).select == ("GG1",)
    table = '[tool.gradguard.profiles.fast]\nselect = ["GG102"]\n'
    config = load(tmp_path, table, options={"profile": "fast"})
    assert (config.select, config.steps) == (("GG102",), 5)
    assert config.origins["steps"] == "profile fast"


def test_scenarios_and_model_specs(tmp_path: Path) -> None:
    table = '[tool.gradguard]\nscenarios = ["pkg.models:tiny", {model = "pkg.models:net", inputs = "4x3x8x8"}]\n'
    assert load(tmp_path, table).scenarios == ("pkg.models:tiny", ModelSpec(model="pkg.models:net", inputs=(4, 3, 8, 8)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[tool.gradguard", "is not valid TOML"),
        ("[tool]\ngradguard = 3", r"\[tool.gradguard\] is a int, not a table"),
        ("[tool.gradguard]\nselct = []", r"pyproject.toml has the unknown key 'selct'. Did you mean 'select'\?"),
        ('[tool.gradguard]\nselect = ["gradient-missmatch"]', r"pyproject.toml: select: .*Did you mean 'gradient-mismatch'\?"),
        ("[tool.gradguard]\nselect = 3", "pyproject.toml: select takes a list of texts, got 3"),
        ('[tool.gradguard]\nseed = "x"', "pyproject.toml: seed takes an integer, got 'x'"),
        ("[tool.gradguard]\nseed = true", "pyproject.toml: seed takes an integer, got True"),
        ("[tool.gradguard]\nsteps = 0", "steps takes an integer of at least 1, got 0"),
        ('[tool.gradguard]\nmethod = "entrywize"', r"one of 'directional', 'entrywise', got 'entrywize'. Did you mean 'entrywise'"),
        ('[tool.gradguard]\nignore = [{rule = "GG101"}]', "the ignore of GG101 for block '\\*' has no reason"),
        ('[tool.gradguard]\nignore = [{rule = "GG101", blok = "a", reason = "b"}]', r"unknown key 'blok'. Did you mean 'block'\?"),
        ('[tool.gradguard]\nignore = ["GG101:enc.*"]', "cannot read the ignore 'GG101:enc.\\*'"),
        ('[tool.gradguard]\nignore = [{rule = "GG999", reason = "x"}]', "pyproject.toml: ignore: there is no rule 'GG999'"),
        ('[tool.gradguard]\nprofile = "fats"', r"there is no profile 'fats'. Did you mean 'fast'\?"),
        ("[tool.gradguard.profiles.mine]\nseeed = 1", r"profiles.mine has the unknown key 'seeed'. Did you mean 'seed'\?"),
        ("[tool.gradguard]\nprofiles = 3", "profiles is a table of tables, got 3"),
        ('[tool.gradguard]\nscenarios = "pkg:x"', "scenarios takes a list, got 'pkg:x'"),
        ('[tool.gradguard]\nscenarios = [{model = "pkg:x"}]', "a model spec has the keys model and inputs"),
        ('[tool.gradguard]\nscenarios = [{model = "pkg:x", inputs = "4by3"}]', "inputs is a shape such as '4x3x32x32', got '4by3'"),
        ("[tool.gradguard.limits.GG999]\nx = 1", "pyproject.toml: limits: there is no rule 'GG999'"),
        ("[tool.gradguard.limits.GG101]\nzz = 1", r"GG101 gradient-mismatch has no option 'zz'. Did you mean 'z'\?"),
        ('[tool.gradguard.limits.GG101]\nz = "much"', "limits.GG101.z takes a value like .*, got 'much'"),
        ('[tool.gradguard.limits.GG101.blocks]\n"enc.*" = 3', "takes a table of options, got 3"),
        ('[tool.gradguard.limits.GG101.blocks."enc.*"]\nzz = 3', "has no option 'zz'"),
    ],
)
def test_what_is_wrong_is_an_error_with_the_nearest_name(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, table)


@pytest.mark.parametrize(("name", "value"), [("GRADGUARD_SEED", "x"), ("GRADGUARD_STRICT", "perhaps")])
def test_the_environment_is_checked_too(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} takes"):
        load(tmp_path, environ={name: value})


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.gradguard]\nbaseline = '\xff'\n")
    with pytest.raises(UsageError, match=r"cannot read .*pyproject.toml"):
        load_config(tmp_path, environ={})


def test_each_value_is_shown_with_its_origin(tmp_path: Path) -> None:
    table = '[tool.gradguard]\nignore = ["GG104:*=noise"]\n[tool.gradguard.limits.GG101]\nz = 30.0\nblocks."enc.*".z = 40.0\n'
    lines = render_config(load(tmp_path, table, options={"seed": 4}, environ={"GRADGUARD_STRICT": "1"})).splitlines()
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in lines}
    assert rows["seed"] == "seed 4 option"
    assert rows["strict"] == "strict True environment"
    assert rows["ignore"] == "ignore GG104:*=noise pyproject.toml"
    assert rows["limits.GG101.z"] == "limits.GG101.z 30.0 pyproject.toml"
    assert rows["limits.GG101.blocks.'enc.*'.z"] == "limits.GG101.blocks.'enc.*'.z 40.0 pyproject.toml"
    assert rows["steps"] == "steps 20 default"
