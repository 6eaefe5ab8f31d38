"""A legacy model on the command line: accept today, fail on what is new, notice what was fixed, compare two commits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradguard.cli import main
from tests.models import MODELS, scenario

THREE = MODELS + scenario("first", 1.01, 1.0) + scenario("second", 1.0, 1.05) + scenario("third", 1.0, -1.0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("pyproject.toml").write_text('[tool.gradguard]\nselect = ["GG101", "GG901"]\nbaseline = "baseline.json"\n')


def run(text: str, *arguments: str) -> int:
    """The exit code of `gradguard ARGUMENTS` on a module of this text, imported afresh."""
    sys.modules.pop("models", None)
    Path("models.py").write_text(text)
    for cached in Path().glob("__pycache__/models.*"):
        cached.unlink()
    return main(list(arguments))


def test_accept_then_fail_on_the_new_then_prune_the_fixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(THREE, "report", "models.py") == 1
    assert "warning: there is no baseline" in capsys.readouterr().err

    assert run(THREE, "baseline", "write", "models.py") == 0
    assert "baseline.json: 3 findings accepted" in capsys.readouterr().out
    assert run(THREE, "report", "models.py") == 0
    assert capsys.readouterr().out.count("GG101 gradient-mismatch") == 0

    assert run(THREE.replace("build(1.01, 1.0)", "build(1.01, 1.01)"), "report", "models.py") == 1
    output = capsys.readouterr().out
    assert output.count("GG101 gradient-mismatch") == 1
    assert "GG101 gradient-mismatch  2.weight" in output
    assert "models.py:first: FAILED (1 error)" in output

    fixed = THREE.replace("build(1.0, -1.0)", "build(1.0, 1.0)")
    assert run(fixed, "report", "models.py") == 0
    output = capsys.readouterr().out
    assert "GG901 unused-ignore  the baseline accepts GG101 for 2.weight, which no longer occurs" in output
    assert "gradguard baseline prune" in output

    assert run(fixed, "baseline", "prune", "models.py") == 0
    assert "1 entry dropped, 2 kept" in capsys.readouterr().out
    assert run(fixed, "report", "models.py") == 0
    assert "GG901" not in [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]


def test_entries_of_scenarios_that_were_not_audited_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    run(THREE, "baseline", "write", "models.py")
    run(THREE, "baseline", "write", "models.py:first")
    assert "1 finding accepted, 2 kept of other scenarios" in capsys.readouterr().out
    run(THREE, "baseline", "prune", "models.py:first")
    assert len(json.loads(Path("baseline.json").read_text())["accepted"]) == 3


@pytest.mark.parametrize("strict", [False, True])
def test_a_missing_baseline(strict: bool, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(MODELS + scenario("right", 1.0), "report", "models.py", *(["--strict"] if strict else []))
    assert code == (2 if strict else 0)
    assert "baseline" in capsys.readouterr().err


NET = '''
import gradguard as gg
import torch
from torch import nn

class Shrink(nn.Module):
    def forward(self, x):
        return {scale} * x

@gg.scenario
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Shrink(), nn.Linear(8, 3))
    batch = torch.randn(16, 4), torch.randint(3, (16,))
    loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    return gg.Scenario(model, [batch], loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
'''


def test_compare_two_commits_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second commit scales a layer's output by 0.01: the gradient of what is before it falls by 100."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for name, scale in (("main", 1.0), ("branch", 0.01)):
        text = NET.format(scale=scale)
        run(text, "report", "models.py", "--select", "GG1,GG3", "--json", f"{name}.json")
        git("add", "models.py")
        git("commit", "-q", "-m", name)
    capsys.readouterr()
    assert main(["compare", "main.json", "branch.json"]) == 1
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "gradient norm" in line]
    assert any(line.startswith("  0.weight: gradient norm (rms) fell ") for line in lines), output
    assert not any(line.startswith("  3.bias") for line in lines)
    (factor,) = [line.split("fell ")[1].split("x")[0] for line in lines if line.startswith("  0.weight")]
    assert 50 < float(factor) < 200
    assert main(["compare", "main.json", "main.json"]) == 0
    assert main(["compare", "main.json", "branch.json", "--factor", "1e6"]) == 0


def test_compare_without_a_reference(capsys: pytest.CaptureFixture[str]) -> None:
    run(MODELS + scenario("right", 1.0), "report", "models.py", "--json", "now.json")
    assert main(["compare", "none.json", "now.json"]) == 0
    assert "warning: there is no reference none.json" in capsys.readouterr().err
    assert main(["compare", "none.json", "now.json", "--strict"]) == 1
    assert main(["compare", "now.json", "none.json"]) == 2
    assert "there is no file none.json, which should be a report" in capsys.readouterr().err
    assert main(["compare", "now.json", "now.json", "--factor", "0.5"]) == 2
