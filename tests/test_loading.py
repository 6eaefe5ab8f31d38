from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradguard.errors import UsageError
from gradguard.loading import build_scenario, find_scenarios, project_root

SCENARIO = """
import gradguard as gg

@gg.scenario
def {name}():
    return gg.Scenario({{}}, [1], lambda model, batch: 0.0)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_file_and_one_of_its_scenarios() -> None:
    write("models.py", SCENARIO.format(name="one") + SCENARIO.format(name="two"))
    assert [f.address for f in find_scenarios("models.py")] == ["models.py:one", "models.py:two"]
    (two,) = find_scenarios("models.py:two")
    assert two.target == "models.py:two"
    assert build_scenario(two).batches == [1]


def test_the_address_is_relative_to_the_project_and_the_target_to_here(monkeypatch: pytest.MonkeyPatch) -> None:
    write("pyproject.toml", "")
    write("sub/models.py", SCENARIO.format(name="one"))
    monkeypatch.chdir("sub")
    (found,) = find_scenarios("models.py")
    assert (found.address, found.target) == ("sub/models.py:one", "models.py:one")
    assert project_root() == Path.cwd().parent


def test_a_module_and_a_package() -> None:
    write("loadpkg/__init__.py", "")
    write("loadpkg/sizes.py", "SIZE = 1")
    write("loadpkg/models.py", "from .sizes import SIZE" + SCENARIO.format(name="one"))
    assert [f.address for f in find_scenarios("loadpkg.models:one")] == ["loadpkg/models.py:one"]
    assert [f.address for f in find_scenarios("loadpkg.models")] == ["loadpkg/models.py:one"]
    assert [f.address for f in find_scenarios("loadpkg/models.py")] == ["loadpkg/models.py:one"]


def test_a_folder_imports_only_what_holds_scenarios() -> None:
    write("code/a.py", SCENARIO.format(name="one"))
    write("code/deep/b.py", SCENARIO.format(name="two"))
    write("code/c.py", "from gradguard import Scenario, scenario as marked\n\n@marked(name='four')\ndef three(): ...\n")
    write("code/script.py", "raise SystemExit('must not be imported')")
    write("code/.hidden/c.py", "raise SystemExit('must not be imported')")
    assert [f.address for f in find_scenarios("code")] == ["code/a.py:one", "code/c.py:four", "code/deep/b.py:two"]


def test_a_scenario_with_a_name_of_its_own_is_found_by_it() -> None:
    write("models.py", SCENARIO.format(name="one").replace("@gg.scenario", "@gg.scenario(name='small one')"))
    for target in ("models.py:small one", "models.py:one"):
        (found,) = find_scenarios(target)
        assert (found.address, found.target) == ("models.py:small one", "models.py:one")


def test_two_files_of_one_name_and_a_file_called_like_a_library() -> None:
    write("a/models.py", SCENARIO.format(name="one"))
    write("b/models.py", SCENARIO.format(name="two"))
    write("json.py", SCENARIO.format(name="three"))
    names = [f.function.name for target in ("a/models.py", "b/models.py", "json.py") for f in find_scenarios(target)]
    assert names == ["one", "two", "three"]
    import json

    assert json.loads("1") == 1


def test_a_scenario_object_by_name_and_one_function_under_two_names() -> None:
    write("models.py", SCENARIO.format(name="one") + "two = one\nthree = one()\n")
    assert [f.address for f in find_scenarios("models.py")] == ["models.py:one"]
    (three,) = find_scenarios("models.py:three")
    assert build_scenario(three).batches == [1]


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("missing.py", None, "there is no file missing.py"),
        ("modles.py", "x = 1", "there is no file modles.py. Did you mean 'models.py'?"),
        ("models.py", "x = 1", "no scenario in models.py\n  to do    decorate a function"),
        ("models.py:won", SCENARIO.format(name="one"), "models.py has no 'won'. Did you mean 'one'?\n  where    its scenarios are: one"),
        ("models.py:x", "x = 1", "models.py:x is a int, not a scenario"),
        (
            "models.py",
            "\nimport gradguard\nvalue = undefined_name\n",
            "models.py does not import: NameError: name 'undefined_name' is not defined\n"
            "  where    models.py:3, in <module>: value = undefined_name\n",
        ),
        ("models.py", "def f(:\n  pass", "models.py does not import: SyntaxError: invalid syntax"),
        ("models.py", "import no_such_module_xyz", "ModuleNotFoundError: No module named 'no_such_module_xyz'\n  where    models.py:1"),
        ("models.py", "import sys\nsys.exit(3)", "SystemExit: 3 (it ends the process)\n  where    models.py:2"),
        ("models.py", "import json\njson.loads('{')", "models.py:2, in <module>: json.loads('{') (raised in json/decoder.py:"),
        ("no_such_pkg.models:x", None, "there is no module 'no_such_pkg'\n  where    target 'no_such_pkg.models'"),
        ("what is this", None, "'what is this' is neither a file nor a module"),
    ],
)
def test_whatever_is_wrong_is_said_with_its_line(target: str, text: str | None, message: str) -> None:
    if text is not None:
        write("models.py", text)
    with pytest.raises(UsageError) as raised:
        find_scenarios(target)
    assert message in str(raised.value)
    assert "gradguard/" not in str(raised.value)


def test_an_empty_folder_says_how_much_was_looked_at() -> None:
    write("code/a.py", "x = 1")
    with pytest.raises(UsageError, match=r"no scenario in the folder code \(1 Python files looked at\)"):
        find_scenarios("code")


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("pass", "width", "needs width, which only pytest can give"),
        ("raise RuntimeError('no data')", "", "scenario models.py:one raised RuntimeError: no data\n  where    models.py:5, in one"),
        ("return 3", "", "scenario 'one' returned int, not a gg.Scenario"),
        ("raise MemoryError", "", "MemoryError: (no message)"),
        ("return gg.Scenario({}, [1], None)", "", "loss(model, batch) -> scalar, got NoneType"),
    ],
)
def test_a_scenario_that_cannot_be_built(body: str, arguments: str, message: str) -> None:
    write("models.py", f"import gradguard as gg\n\n@gg.scenario\ndef one({arguments}):\n    {body}\n")
    (found,) = find_scenarios("models.py")
    with pytest.raises(UsageError) as raised:
        build_scenario(found)
    assert message in str(raised.value)


def test_arguments_with_defaults_are_fine() -> None:
    write("models.py", SCENARIO.format(name="one").replace("one()", "one(width=3)"))
    (found,) = find_scenarios("models.py")
    assert build_scenario(found).batches == [1]
