"""Importing gradguard, loading its plugin, and asking the command for help load nothing heavy: seen in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "pandas", "jinja2", "rich", "hypothesis", "scipy")

REPORT = """
import atexit, sys
def show():
    print("HEAVY:", sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)
atexit.register(show)
"""


def loaded(code: str, *, cwd: Path) -> str:
    program = REPORT.format(heavy=HEAVY) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
    line = [line for line in done.stderr.splitlines() if line.startswith("HEAVY:")]
    assert line, done.stdout + done.stderr
    return line[0]


@pytest.mark.parametrize(
    "code",
    [
        "import gradguard",
        "import gradguard; gradguard.Scenario, gradguard.Ignore, gradguard.scenario, gradguard.UsageError, dir(gradguard)",
        "import gradguard.pytest_plugin",
        "from gradguard.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from gradguard.cli import main; main(['config'])",
        "from gradguard.cli import main; main(['compare', 'a', 'b'])",
    ],
)
def test_nothing_heavy_is_imported(code: str, tmp_path: Path) -> None:
    assert loaded(code, cwd=tmp_path) == "HEAVY: []"


PYTEST = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *{arguments!r}]))"
ONLY_GRADGUARD = ["-p", "gradguard.pytest_plugin"]


@pytest.mark.parametrize("arguments", [["--co"], [], ["-n0"]])
def test_the_unused_plugin_loads_and_writes_nothing(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other plugins are kept out, so that what is loaded was loaded by gradguard.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "test_trivial.py").write_text("def test_trivial():\n    pass\n")
    extra = ["-p", "xdist.plugin"] if "-n0" in arguments else []
    code = PYTEST.format(arguments=[*ONLY_GRADGUARD, *extra, *arguments])
    assert loaded(code, cwd=tmp_path) == "HEAVY: []"
    assert [path.name for path in tmp_path.iterdir()] == ["test_trivial.py"]
