"""A project of tests in a folder of its own, run in this process where that is enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tests.preloaded  # noqa: F401  # before any inner run
from tests.models import MODELS

Run = Callable[..., pytest.RunResult]

QUIET = ("no:randomly", "no:cacheprovider", "no:benchmark")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(text, *arguments, process=False)``: a test module of scenarios with this text below MODELS, and its result."""
    for name in ("GRADGUARD_SELECT", "GRADGUARD_SEED", "GRADGUARD_STRICT", "GRADGUARD_PROFILE", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    # The outer run may be a worker of xdist; the inner one is not.
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)

    def run_tests(text: str, *arguments: str, process: bool = False, cache: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_models="import pytest\n" + MODELS + text)
        quiet = [one for name in QUIET if not (cache and name == "no:cacheprovider") for one in ("-p", name)]
        if process:
            return pytester.runpytest_subprocess(*quiet, *arguments, timeout=120)
        return pytester.runpytest_inprocess(*quiet, *arguments)

    return run_tests
