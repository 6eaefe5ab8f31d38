"""The scenarios of ``[tool.gradguard]``, for `pytest --gradguard`: tests without a test file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from gradguard.config import ModelSpec
from gradguard.errors import UsageError
from gradguard.integrations.pytest_evidence import Broken
from gradguard.integrations.pytest_scenarios import RuleItem, ScenarioCollector
from gradguard.integrations.pytest_session import work_of
from gradguard.scenarios import ScenarioFunction

__all__ = ["configured_items"]


def configured_items(session: pytest.Session) -> Iterator[pytest.Item]:
    """The tests of ``[tool.gradguard] scenarios``, for a run without a test file."""
    try:
        targets = work_of(session.config).settings().scenarios
    except UsageError as error:
        yield Broken.from_parent(session, name="[tool.gradguard]", error=error)
        return
    if not targets:
        todo = 'for example scenarios = ["pkg.models:tiny_gpt"]'
        none = UsageError("--gradguard collects [tool.gradguard] scenarios, and there are none", todo=todo)
        yield Broken.from_parent(session, name="[tool.gradguard]", error=none)
    for target in targets:
        try:
            yield from _items_of(session, target)
        except UsageError as error:
            yield Broken.from_parent(session, name=str(getattr(target, "model", target)), error=error)


def _items_of(session: pytest.Session, target: str | ModelSpec) -> Iterator[pytest.Item]:
    from gradguard.loading import find_scenarios
    from gradguard.specs import found_model

    root = session.config.rootpath
    if str(root) not in sys.path:
        # As pytest does for the folder of a test file: what it imports later is found there too.
        sys.path.insert(0, str(root))
    if isinstance(target, ModelSpec):
        found = [found_model(target, work_of(session.config).settings().seed)]
    else:
        found = find_scenarios(str(root / target) if ".py" in target or (root / target).is_dir() else target, root=root)
    for one in found:
        path = root / one.address.rpartition(":")[0]
        module = ScenarioModule.from_parent(session, path=path if path.is_file() else root / "pyproject.toml")
        module.scenario_function = one.function
        for item in ScenarioCollector.from_parent(module, name=one.function.name, function=one.function).collect():
            if isinstance(item, RuleItem):
                item.measured.address = one.address
            yield item


class ScenarioModule(pytest.Module):
    """Stands for the module of a configured scenario, which is imported already."""

    scenario_function: ScenarioFunction

    def _getobj(self) -> ModuleType:
        module = ModuleType(self.path.stem)
        setattr(module, self.scenario_function.name, self.scenario_function)
        return module
