"""`gradguard rules`, `explain` and `config`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradguard import __version__
from gradguard.cli import main
from gradguard.rules.registry import RULES


def test_rules_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[code, slug] for code, (slug, _) in sorted(RULES.items())]
    assert all(line.split()[2] in ("error", "warning", "info") for line in lines)


@pytest.mark.parametrize("name", ["GG101", "gg101", "gradient-mismatch"])
def test_a_rule_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith("GG101 gradient-mismatch (error)\n")
    for title in ("What it does:", "Why is this bad:", "What to do:", "When it is healthy:"):
        assert f"\n{title}\n" in text


def test_an_unknown_rule_exits_with_2_and_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "gradient-missmatch"]) == 2
    assert capsys.readouterr().err == (
        "gradguard: there is no rule 'gradient-missmatch'. Did you mean 'gradient-mismatch'?\n"
        "  to do    `gradguard rules` lists them; a code, a slug or a prefix such as GG1\n"
    )


def test_settings_are_shown_with_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADGUARD_PROFILE", "fast")
    (tmp_path / "pyproject.toml").write_text("[tool.gradguard]\nstrict = true\n")
    assert main(["config", "--seed", "4"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "seed 4 option" in rows
    assert "profile fast environment" in rows
    assert "select GG1 profile fast" in rows
    assert "strict True pyproject.toml" in rows
    assert "precision auto default" in rows


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"gradguard {__version__}\n"
