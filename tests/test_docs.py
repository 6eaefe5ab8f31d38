"""What the README and the docs say is run: their code blocks, their commands, their settings, their CI files."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import tests.preloaded  # noqa: F401  # before any inner run
from gradguard.cli import main
from gradguard.config import READERS, load_config
from gradguard.rendering.formats import FORMATS
from tests.models import MODELS, RIGHT, WRONG
from tests.test_architecture import LAYERS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("block", PYTHON)
def test_every_python_block_runs(block: str, pytester: pytest.Pytester) -> None:
    """A block with tests or scenarios is run by pytest, any other by Python; a fragment without imports is only read."""
    code = compile(block, "block", "exec")
    if "import " not in block:
        return
    if "def test_" in block or "@gg.scenario" in block:
        pytester.makepyfile(test_block=block)
        options = ["-p", "no:randomly", "-p", "no:cacheprovider", "--gradguard-select=GG1,GG9"]
        assert pytester.runpytest_inprocess(*options).ret == 0
    else:
        exec(code, {})


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rule_pages_are_what_the_docstrings_say() -> None:
    pages: dict[Path, str] = generator().pages(examples=False)
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make pages`"
    left = {path.name for path in (ROOT / "docs" / "rules").glob("*.md")} - {path.name for path in pages}
    assert left == set()


def test_every_rule_page_has_its_sections() -> None:
    pages: dict[Path, str] = generator().pages(examples=False)
    for path, text in pages.items():
        if path.name != "index.md":
            for title in ("What it does", "Why is this bad", "What to do", "When it is healthy"):
                assert f"\n## {title}\n" in text, f"{path.name} lacks {title!r}"


NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


UNSTEADY = ("  passed ", "  skipped ", "  inconclusive ", "  cost:")
"""Lines of a report that say how a check went in numbers of this machine."""


def shape(text: str) -> list[str]:
    """The words of a report without its numbers, which differ between machines in their last digits."""
    lines = [line for line in text.splitlines() if not line.startswith(UNSTEADY) and " checks: " not in line]
    return [NUMBER.sub("#", line) for line in lines if "blocks compared" not in line and line]


def test_the_reports_on_the_examples_are_in_the_docs() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    texts = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
    pages = generator()
    for example, expected, code in zip(pages.EXAMPLES, texts, (0, 1), strict=True):
        returned, text, shown = pages.report_of(example)
        assert returned == code, text
        assert shape(text) == shape(expected), "run `make pages`"
        assert all(table in shown for table in ("checks", "gradients"))
    # The loop that is printed everywhere is wrong in every layer but the last, and the last is left alone.
    wrong = set(re.findall(r"^GG101 gradient-mismatch  (\w+\[\d\])", text, re.MULTILINE))
    assert wrong == {"weights[0]", "weights[1]", "biases[0]", "biases[1]"}


def test_every_setting_in_the_docs_is_one_and_every_one_is_in_the_docs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(table)
    config = load_config(tmp_path, environ={})
    assert config.ignore[0].block == "quantizer.*"
    assert set(tomllib.loads(table)["tool"]["gradguard"]) == {*READERS, "profiles"}


def test_every_option_and_format_is_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = (ROOT / "gradguard" / "pytest_plugin.py").read_text(encoding="utf-8")
    options = re.findall(r'add\("(--gradguard[a-z-]*)"', plugin)
    assert len(options) == 10
    page = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
    for option in options:
        assert f"| `{option}" in page
    command = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"`{name}`" in page
        assert f"`{name}`" in command
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    for option in re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE):
        assert f"`{option} " in command or f"`{option}`" in command, option


def test_every_layer_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {int(row) for row in re.findall(r"^\| (\d) \|", page, re.MULTILINE)} == set(LAYERS.values())


def project(folder: Path, text: str) -> None:
    (folder / "models.py").write_text(text)
    table = '[tool.gradguard]\nselect = ["GG101"]\nscenarios = ["models.py"]\n'
    (folder / "pyproject.toml").write_text(table)


def commands(name: str) -> list[str]:
    """The lines of a CI file that run gradguard."""
    text = (ROOT / "docs" / "ci" / name).read_text(encoding="utf-8")
    return re.findall(r"(?:run: |entry: |- )(gradguard [^\n]+)", text)


@pytest.mark.parametrize(("name", "count"), [("github.yml", 2), ("gitlab.yml", 1), ("pre-commit.yml", 1)])
@pytest.mark.parametrize(("text", "code"), [(MODELS + RIGHT, 0), (MODELS + WRONG, 1)], ids=["right", "wrong"])
def test_the_commands_of_the_ci_files_run(
    name: str,
    count: int,
    text: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project(tmp_path, text)
    lines = commands(name)
    assert len(lines) == count
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    for line in lines:
        assert main(line.split()[1:]) == code
        assert bool(capsys.readouterr().out)
    for file in re.findall(r"--output-file (\S+)", "\n".join(lines)):
        json.loads((tmp_path / file).read_text())


@pytest.mark.parametrize(("name", "schema"), [("github.yml", "vendor.github-workflows"), ("gitlab.yml", "vendor.gitlab-ci")])
def test_the_ci_files_keep_to_their_schemas(name: str, schema: str, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / "docs" / "ci" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_keeps_to_its_schema() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format", str(ROOT / "CITATION.cff")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for command in set(re.findall(r"`gradguard (\w+)", text)):
        with pytest.raises(SystemExit) as raised:
            main([command, "--help"])
        assert raised.value.code == 0
    assert shutil.which("make") is None or "demo" in text
    capsys.readouterr()
