"""Faults in the middle of real architectures: the guilty module and the pattern are named, within the budget."""

from __future__ import annotations

import pytest

from benchmarks.localisation.planted import KINDS, Family, families, trial

SAMPLE = ("gpt2", "resnet", "lstm")


@pytest.fixture(scope="module")
def known() -> dict[str, Family]:
    return {family.name: family for family in families()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.filterwarnings("ignore")  # transformers warns of its own defaults
def test_the_module_and_the_pattern_are_named(known: dict[str, Family], name: str, kind: str) -> None:
    result = trial(known[name], kind, 5)
    assert result is not None
    assert (result.found, result.module, result.pattern) == (True, True, True), result.said
    assert result.forwards <= result.allowed
