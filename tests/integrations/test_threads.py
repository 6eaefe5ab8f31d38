from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradguard.integrations.pytest_session import divided_threads


@pytest.fixture
def four() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "inside"), [("1", 4), ("2", 2), ("3", 1), ("16", 1)])
@pytest.mark.usefixtures("four")
def test_workers_share_the_threads_and_give_them_back(monkeypatch: pytest.MonkeyPatch, workers: str, inside: int) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    config: Any = SimpleNamespace(workerinput={})

    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError), divided_threads(config):
        fail()
    assert seen == [inside]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four")
def test_without_workers_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    config: Any = SimpleNamespace()
    with divided_threads(config):
        assert torch.get_num_threads() == 4
