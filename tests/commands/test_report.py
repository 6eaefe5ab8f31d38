"""`gradguard report` from its arguments to its exit code; nothing of ours is ever in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradguard.cli import main
from tests.models import MODELS, RIGHT, WRONG, scenario


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("GRADGUARD_")]:
        monkeypatch.delenv(name)
    Path("pyproject.toml").write_text('[tool.gradguard]\nselect = ["GG1", "GG9"]\n')
    for name in ("models", "legacy"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def write(text: str, name: str = "models.py") -> None:
    Path(name).write_text(text)


def test_a_right_model_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + RIGHT)
    assert main(["report", "models.py"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("models.py:right: ok (no finding)\n")
    assert output.err == ""
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == ["models.py", "pyproject.toml"]


def test_a_wrong_model_exits_with_1_and_the_command_that_repeats_it_does_too(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + RIGHT + WRONG)
    assert main(["report", "models.py", "--seed", "3"]) == 1
    text = capsys.readouterr().out
    assert "GG101 gradient-mismatch  2.weight" in text
    (repeat,) = [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("  repeat")]
    assert repeat == "gradguard report models.py:wrong --select GG101 --block 2.weight --seed 3"
    assert main(repeat.split()[1:]) == 1
    assert "1 of 1 block compared" in capsys.readouterr().out


def test_the_place_is_in_the_users_file_relative_to_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + WRONG)
    main(["report", "models.py", "--output-format", "sarif"])
    location = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "models.py"
    # In the class of the guilty module, at the line that applies its custom function.
    (start,) = [i for i, text in enumerate(MODELS.splitlines(), 1) if text.startswith("class ScaledLinear")]
    (end,) = [i for i, text in enumerate(MODELS.splitlines(), 1) if text.startswith("def build")]
    assert start <= location["region"]["startLine"] < end


def test_select_ignore_and_a_stale_ignore(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + WRONG)
    assert main(["report", "models.py", "--select", "GG102"]) == 0
    assert "1 check: 1 passed" in capsys.readouterr().out
    arguments = ["report", "models.py", "--ignore", "GG101:2.*=known, issue 12", "--ignore", "GG104:2.*=no longer"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "accepted 2.weight: known, issue 12" in text
    assert "GG901 unused-ignore  the ignore GG104:2.* matched nothing" in text


def test_limits_of_the_table_per_rule_and_per_block(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + scenario("both", 1.01, 1.01))
    table = '[tool.gradguard]\nselect = ["GG101"]\n[tool.gradguard.limits.GG101]\n'
    Path("pyproject.toml").write_text(table + "z = 1e300\nz_single = 1e300\n")
    assert main(["report", "models.py"]) == 0
    Path("pyproject.toml").write_text(table + 'blocks."0.*".z = 1e300\n')
    assert main(["report", "models.py"]) == 1
    text = capsys.readouterr().out
    assert "GG101 gradient-mismatch  2.weight" in text
    assert "GG101 gradient-mismatch  0.weight" not in text


def test_json_goes_to_a_file_beside_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + WRONG)
    assert main(["report", "models.py", "--json", "out.json"]) == 1
    data = json.loads(Path("out.json").read_text())
    assert data["tables"]["findings"][0]["code"] == "GG101"
    assert data["tables"]["findings"][0]["scenario"] == "models.py:wrong"
    assert "GG101" in capsys.readouterr().out
    assert main(["report", "models.py", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize("name", ["json", "jsonl", "markdown", "gitlab", "sarif", "junit"])
def test_other_formats_replace_the_text_or_go_to_a_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + WRONG)
    assert main(["report", "models.py", "--output-format", name]) == 1
    direct = capsys.readouterr().out
    assert not direct.startswith("models.py:wrong: FAILED")
    assert main(["report", "models.py", "--output-format", name, "--output-file", "out"]) == 1
    assert capsys.readouterr().out.startswith("models.py:wrong: FAILED")
    assert "GG101" in Path("out").read_text()


def test_github_gets_annotations_and_a_summary(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(MODELS + WRONG)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert main(["report", "models.py", "--output-format", "github"]) == 1
    assert "\n::error file=models.py,line=" in capsys.readouterr().out
    assert Path("summary.md").read_text().startswith("## gradguard: FAILED")


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["models.py"], "import gradguard\nx = undefined\n", "models.py does not import: NameError: name 'undefined' is not defined"),
        (["models.py"], "def f(:", "models.py does not import: SyntaxError"),
        (["models.py"], "x = 1", "no scenario in models.py"),
        (["missing.py"], "", "there is no file missing.py"),
        ([], "", "nothing to report on"),
        (["models.py", "--select", "GG999"], MODELS + RIGHT, "there is no rule 'GG999'"),
        (["models.py", "--select", "gradient-missmatch"], MODELS + RIGHT, "Did you mean 'gradient-mismatch'?"),
        (["models.py", "--ignore", "GG101:2.*"], MODELS + RIGHT, "cannot read the ignore 'GG101:2.*'"),
        (["models.py", "--profile", "fats"], MODELS + RIGHT, "there is no profile 'fats'. Did you mean 'fast'?"),
        (["models.py", "--json", "no/such/folder.json"], MODELS + RIGHT, "cannot write no/such/folder.json"),
        (["models.py", "--json", "."], MODELS + RIGHT, "cannot write .: it is a folder"),
        (["models.py", "--output-format", "sarf"], MODELS + RIGHT, "there is no output format 'sarf'. Did you mean 'sarif'?"),
        (["models.py", "--block", "nothing.*"], MODELS + RIGHT, "wrt='nothing.*' matches no block"),
        (["models.py"], MODELS + "\n@gg.scenario\ndef one():\n    raise OSError('no data here')\n", "raised OSError: no data here"),
        (["models.py"], MODELS + "\n@gg.scenario\ndef one():\n    return 3\n", "returned int, not a gg.Scenario"),
        (["models.py"], MODELS + "\n@gg.scenario\ndef one(width):\n    return 3\n", "needs width, which only pytest can give"),
        (["models.py"], MODELS + "\n@gg.scenario\ndef one():\n    raise MemoryError\n", "MemoryError"),
        (
            ["models.py"],
            MODELS + "\n@gg.scenario\ndef one():\n    return gg.Scenario(nn.Linear(2, 1), [torch.ones(3, 5)], lambda m, b: m(b).sum())\n",
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        (
            ["models.py"],
            MODELS + "\n@gg.scenario\ndef one():\n    return gg.Scenario(nn.Linear(2, 1), [torch.ones(3, 2)], lambda m, b: m(b))\n",
            "scalar",
        ),
        (
            ["models.py"],
            MODELS + "\n@gg.scenario\ndef one():\n    return gg.Scenario(nn.Linear(2, 1), [], lambda m, b: m(b).sum())\n",
            "there are no batches",
        ),
        (
            ["models.py"],
            MODELS + "\n@gg.scenario\ndef one():\n    return gg.Scenario(nn.Linear(2, 1), [torch.ones(3, 2)], lambda m, b: torch.ones(1 << 45).sum())\n",
            "memory",
        ),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_do(
    arguments: list[str], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(text)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gradguard: ")
    assert message in error
    assert "Traceback" not in error
    assert "internal error" not in error
    assert f"{os.sep}gradguard{os.sep}" not in error


def test_broken_settings_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + RIGHT)
    Path("pyproject.toml").write_text("[tool.gradguard\n")
    assert main(["report", "models.py"]) == 2
    assert "pyproject.toml is not valid TOML" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder can be written, so the answer is played."""
    write(MODELS + RIGHT)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["report", "models.py", "--json", "out.json"]) == 2
    assert "cannot write out.json: permission denied" in capsys.readouterr().err


def test_colour_on_a_terminal_unless_it_is_unwanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(MODELS + WRONG)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["report", "models.py", "--select", "GG101"])
    assert "\x1b[1;31mGG101 gradient-mismatch\x1b[0m" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    main(["report", "models.py", "--select", "GG101"])
    assert "\x1b" not in capsys.readouterr().out


def test_one_scenario_that_raises_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + "\n@gg.scenario\ndef one():\n    raise OSError('no data')\n" + WRONG)
    assert main(["report", "models.py"]) == 2
    output = capsys.readouterr()
    assert "models.py:wrong: FAILED" in output.out
    assert "scenario models.py:one raised OSError: no data\n  where    models.py:" in output.err


def test_a_rule_that_could_not_be_applied_is_not_a_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from gradguard.finding import Check
    from gradguard.report import Report

    skipped = Check(scenario="models.py:right", code="GG401", rule="diverging-learning-rate", status="skipped", reason="no optimizer")
    monkeypatch.setattr("gradguard.auditing.audit", lambda *a, **k: Report((), (skipped,)))
    write(MODELS + RIGHT)
    assert main(["report", "models.py"]) == 2
    output = capsys.readouterr()
    assert "models.py:right: nothing was decided" in output.out
    assert "no selected rule could be applied to models.py:right\n  where    no optimizer" in output.err


def test_the_scenarios_of_the_table_and_a_model_spec(capsys: pytest.CaptureFixture[str]) -> None:
    Path("legacy.py").write_text(MODELS + WRONG + "\ndef net():\n    return nn.Linear(4, 2)\n")
    table = 'select = ["GG101"]\nscenarios = ["legacy:wrong", {model = "legacy:net", inputs = "3x4"}]\n'
    Path("pyproject.toml").write_text(f"[tool.gradguard]\n{table}")
    assert main(["report"]) == 1
    text = capsys.readouterr().out
    assert "legacy.py:wrong: FAILED" in text
    assert "legacy:net(3x4): ok" in text


def test_nothing_of_the_users_random_state_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    write(MODELS + "\nnet = lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))\n", "legacy.py")
    Path("pyproject.toml").write_text('[tool.gradguard]\nselect = ["GG101"]\nscenarios = [{model = "legacy:net", inputs = "3x4"}]\n')
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert main(["report"]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_error_of_ours_is_called_that(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import gradguard.commands.report as command

    def broken(*arguments: object, **options: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(command, "audit_targets", broken)
    write(MODELS + RIGHT)
    assert main(["report", "models.py"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gradguard: internal error: KeyError: 'ours'\n  where    test_report.py:")
    assert "GRADGUARD_DEBUG=1" in error


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    write(MODELS + "\n@gg.scenario\ndef one():\n    raise KeyboardInterrupt\n")
    assert main(["report", "models.py"]) == 130
    assert capsys.readouterr().err == "gradguard: interrupted\n"


def test_as_a_process_with_a_terminal_that_is_not_utf8() -> None:
    write(MODELS.replace("class ScaledLinear", "class Größe") .replace("ScaledLinear(", "Größe(") + scenario("größe", 1.0, 1.01))
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "gradguard.cli", "report", "models.py"]
    done = subprocess.run(command, capture_output=True, env=environ, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert b"models.py:gr\\xf6\\xdfe: FAILED" in done.stdout
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [["report", "--seed", "x"], ["reprot"], [], ["explain"]])
def test_arguments_that_cannot_be_read_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: gradguard" in capsys.readouterr().err


def test_lr_tries_rates_and_says_where_it_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "import gradguard as gg\nimport numpy as np\n"
        "X = np.linspace(-1, 1, 12).reshape(6, 2)\n"
        "def loss(model, batch):\n    return float(((X @ model['w']) ** 2).mean())\n"
        "def grad(model, batch):\n    return {'w': 2 * X.T @ (X @ model['w']) / 6}\n"
        "def build(optimizer):\n"
        "    return gg.Scenario({'w': np.ones(2)}, [0] * 30, loss, grad=grad, optimizer=optimizer)\n"
        "@gg.scenario\ndef trained():\n    return build(gg.SGD(0.1))\n"
        "@gg.scenario\ndef still():\n    return build(None)\n"
    )
    assert main(["report", "models.py", "--select", "GG101", "--lr", "--json", "out.json"]) == 0
    output = capsys.readouterr().out
    assert "<- suggested" in output
    assert "diverges in 3 of 3" in output
    assert "models.py:still: no range test: no optimizer" in output
    rows = json.loads(Path("out.json").read_text())["tables"]["rates"]
    assert {row["scenario"] for row in rows} == {"models.py:trained"}
