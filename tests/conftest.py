"""Settings for every test: no threads that compete, and Hypothesis without chance in CI."""

from __future__ import annotations

import os

import pytest

# Before torch or NumPy are imported: the workers of a run share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is ever fetched.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    from hypothesis import settings

    settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
    settings.load_profile("ci" if os.environ.get("CI") else os.environ.get("HYPOTHESIS_PROFILE", "ci"))
