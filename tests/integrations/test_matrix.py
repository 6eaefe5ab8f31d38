"""The plugin from end to end, each run a process: the oldest and the newest pytest, under xdist, beside other plugins.

The oldest pytest is in a folder that `make test` fills (``GRADGUARD_OLDEST_PYTEST``); without it those rows are skipped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

MODELS = '''
import os, pathlib, signal, time
import gradguard as gg
import numpy as np
import pytest

def net(name, factor):
    """A NumPy network whose weight gradient is ``factor`` times too large; every building is written down."""
    with pathlib.Path(__file__).with_name("built.txt").open("a") as file:
        file.write(name + "\\n")
    rng = np.random.default_rng(0)
    model = {"w": rng.normal(size=(3, 4)), "b": np.zeros(3)}

    def loss(model, batch):
        return float(np.sum(np.tanh(batch @ model["w"].T + model["b"]) ** 2))

    def grad(model, batch):
        out = np.tanh(batch @ model["w"].T + model["b"])
        delta = 2 * out * (1 - out**2)
        return {"w": factor * (delta.T @ batch), "b": delta.sum(0)}

    return gg.Scenario(model, [rng.normal(size=(5, 4))], loss, grad=grad)

@gg.scenario
def right():
    return net("right", 1.0)

@gg.scenario
def wrong():
    return net("wrong", 1.01)

@gg.scenario
def third():
    return net("third", 1.0)
'''

FEW = "--gradguard-select=GG101,GG102,GG104"

Start = Callable[..., subprocess.CompletedProcess[str]]


newest_only = pytest.mark.parametrize("start", ["newest"], indirect=True)
"""For what depends on xdist or Hypothesis more than on pytest: once is enough."""


@pytest.fixture(params=["newest", "oldest"])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """``start(text, *arguments, plugins=...)``: pytest as a process, with only the plugins that are named."""
    for name in [name for name in os.environ if name.startswith(("GRADGUARD_S", "GRADGUARD_P", "PYTEST_"))]:
        monkeypatch.delenv(name)
    more = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "100"}
    if request.param == "oldest":
        folder = os.environ.get("GRADGUARD_OLDEST_PYTEST", "")
        if not folder or not Path(folder).is_dir():
            pytest.skip("the oldest pytest is installed by `make test`")
        more["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])

    def run(text: str = "", *arguments: str, plugins: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_models.py").write_text(MODELS + text)
        named = [part for plugin in ("gradguard.pytest_plugin", *plugins) for part in ("-p", plugin)]
        command = [sys.executable, "-m", "pytest", *named, *arguments]
        environ = {**os.environ, **more}
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)

    return run


def built(tmp_path: Path) -> list[str]:
    path = tmp_path / "built.txt"
    names = sorted(path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return names


def test_each_scenario_is_measured_once(start: Start, tmp_path: Path) -> None:
    done = start("", FEW)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 8 passed" in done.stdout
    assert built(tmp_path) == ["right", "third", "wrong"]


def test_measured_once_under_xdist_with_groups(start: Start, tmp_path: Path) -> None:
    done = start("", FEW, "-n2", "--dist=loadgroup", "--gradguard-output-file=out.json", plugins=("xdist.plugin",))
    assert done.returncode == 1, done.stdout
    assert "1 failed, 8 passed" in done.stdout
    assert built(tmp_path) == ["right", "third", "wrong"]
    # Merged on the controller: the section, and the tables of every worker in the file.
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout
    assert "error   GG101 gradient-mismatch  test_models.py:wrong  w" in done.stdout
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert sorted({row["scenario"] for row in tables["gradients"]}) == [f"test_models.py:{n}" for n in ("right", "third", "wrong")]
    assert len(tables["gradients"]) == 6


@newest_only
def test_configured_scenarios_under_xdist(start: Start, tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(MODELS)
    (tmp_path / "pyproject.toml").write_text('[tool.gradguard]\nselect = ["GG101"]\nscenarios = ["zoo:wrong", "zoo.py:right"]\n')
    done = start("del right, wrong, third", "--gradguard", "-n2", "--dist=loadgroup", plugins=("xdist.plugin",))
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "error   GG101 gradient-mismatch  zoo.py:wrong  w" in done.stdout
    assert built(tmp_path) == ["right", "wrong"]


@pytest.mark.parametrize("dist", ["load", "loadfile", "worksteal"])
def test_without_groups_it_is_as_correct_if_not_shared(start: Start, tmp_path: Path, dist: str) -> None:
    done = start("", FEW, "-n2", f"--dist={dist}", plugins=("xdist.plugin",))
    assert done.returncode == 1, done.stdout
    assert "1 failed, 8 passed" in done.stdout
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout
    names = built(tmp_path)
    assert set(names) == {"right", "third", "wrong"}
    assert all(names.count(name) <= 2 for name in names)


def test_a_worker_that_is_killed_loses_nothing_that_was_finished(start: Start, tmp_path: Path) -> None:
    text = "\ndef test_dies():\n    os.kill(os.getpid(), signal.SIGKILL)\n\ndef test_after():\n    pass\n"
    done = start(text, FEW, "-n1", "--max-worker-restart=1", plugins=("xdist.plugin",))
    assert done.returncode == 1, done.stdout
    assert "worker 'gw0' crashed while running 'test_models.py::test_dies'" in done.stdout
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout
    assert "error   GG101 gradient-mismatch  test_models.py:wrong  w" in done.stdout
    assert "2 failed, 9 passed" in done.stdout


@newest_only
def test_a_worker_that_dies_in_the_middle_of_a_scenario(start: Start, tmp_path: Path) -> None:
    text = "\n@gg.scenario\ndef dies():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    # Not with groups: there xdist itself waits for ever for a group whose worker died.
    done = start(text, FEW, "-n2", "--max-worker-restart=4", plugins=("xdist.plugin",))
    assert done.returncode == 1, done.stdout
    assert "crashed while running 'test_models.py::dies::" in done.stdout
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_a_keyboard_interrupt_shows_what_was_found_so_far(start: Start, workers: tuple[str, ...]) -> None:
    text = "\ndef test_interrupt():\n    time.sleep(0.5)\n    raise KeyboardInterrupt\n\ndef test_after():\n    pass\n"
    done = start(text, FEW, *workers, "--gradguard-output-file=out.json", plugins=("xdist.plugin",) if workers else ())
    assert done.returncode == 2, done.stdout
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout
    assert "error   GG101 gradient-mismatch  test_models.py:wrong  w" in done.stdout


def test_an_interrupt_from_the_terminal_while_a_scenario_is_measured(tmp_path: Path) -> None:
    text = "\n@gg.scenario\ndef slow():\n    pathlib.Path(__file__).with_name('started').touch()\n    time.sleep(60)\n"
    (tmp_path / "test_models.py").write_text(MODELS + text)
    command = [sys.executable, "-m", "pytest", "-p", "gradguard.pytest_plugin", FEW]
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in output


def test_a_terminal_that_is_not_utf8(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("PYTHONUTF8", "0")
    done = start("\n@gg.scenario\ndef gr\u00f6\u00dfe():\n    return net('g', 1.01)\n", FEW, "-k", "gr")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_models.py:gr\\xf6\\xdfe  w" in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_strict_expected_failures_last_failed_and_nothing_collected(start: Start, tmp_path: Path) -> None:
    xfail = "\nwrong = pytest.mark.xfail(strict=True, reason='known')(wrong)\n"
    done = start(xfail, FEW, "-k", "wrong and gradient-mismatch")
    assert (done.returncode, "1 xfailed" in done.stdout) == (0, True), done.stdout
    done = start(xfail, FEW, "-k", "wrong and nonfinite-gradient")
    assert (done.returncode, "[XPASS(strict)] known" in done.stdout) == (1, True), done.stdout
    start("", FEW)
    done = start("", FEW, "--lf")
    assert (done.returncode, "1 failed" in done.stdout, "passed" in done.stdout.splitlines()[-1]) == (1, True, False)
    assert start("", FEW, "-k", "nothing_like_that").returncode == 5
    assert start("", FEW, "--no-such-option").returncode == 4


@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [
        ("pytest_randomly", ()),
        ("pytest_timeout", ("--timeout=60",)),
        ("pytest_cov.plugin", ("--cov=.",)),
        ("pytest_rerunfailures", ("--reruns=1",)),
        ("_hypothesis_pytestplugin", ("--hypothesis-show-statistics",)),
    ],
)
def test_beside_other_plugins(start: Start, tmp_path: Path, plugin: str, arguments: tuple[str, ...]) -> None:
    if find_spec(plugin.partition(".")[0]) is None:
        pytest.skip(f"{plugin} is not installed")
    done = start("", FEW, *arguments, plugins=(plugin,))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "9 checks on 3 scenarios: 8 passed, 1 failed" in done.stdout
    assert built(tmp_path) == ["right", "third", "wrong"]
    if plugin == "pytest_rerunfailures":
        assert "1 failed, 8 passed, 1 rerun" in done.stdout


@newest_only
def test_inside_given_with_hypothesis_and_xdist(start: Start) -> None:
    text = """
from hypothesis import given, settings, strategies as st

@settings(max_examples=4, deadline=None, database=None)
@given(n=st.integers(1, 3))
def test_given(gradguard, n):
    gradguard.check_gradients(lambda x: float((x**2).sum()), np.ones(n), grad=lambda x: 2 * x)

@settings(max_examples=4, deadline=None, database=None)
@given(n=st.integers(1, 3))
def test_given_wrong(gradguard, n):
    gradguard.check_gradients(lambda x: float((x**2).sum()), np.ones(n), grad=lambda x: 2.1 * x)
"""
    done = start(text, FEW, "-n2", "-k", "given", plugins=("xdist.plugin", "_hypothesis_pytestplugin"))
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "error   GG101 gradient-mismatch  test_models.py::test_given_wrong" in done.stdout


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("t.py::net::gradient-mismatch", "t.py::net"),
        ("t.py::net::gradient-mismatch[small-a::b]", "t.py::net[small-a::b]"),
        ("t.py::net::dead-units[[]", "t.py::net[[]"),
        ("t.py::test_net", "t.py::test_net"),
        ("t.py::TestNet::test_a[gradient-mismatch]", "t.py::TestNet::test_a[gradient-mismatch]"),
    ],
)
def test_the_group_of_an_item_is_its_scenario(nodeid: str, group: str) -> None:
    from gradguard.integrations.xdist_groups import group_of

    assert group_of(nodeid) == group
