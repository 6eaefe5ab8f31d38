"""The pytest plugin. It imports the standard library and pytest only; the rest is loaded when a test uses it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradguard.integrations.pytest_fixture import Checks

ITEM: list[pytest.Item] = []
"""The test that is running, innermost last: what the session-scoped fixture speaks for."""

PAYLOAD = pytest.StashKey[list[Any]]()
"""What the checks of one test said, as plain data, until its report takes it along."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Ten options, all with the prefix ``--gradguard``."""
    group = parser.getgroup("gradguard", "gradients, units and learning rates of models")
    add = group.addoption
    add("--gradguard", action="store_true", help="also collect [tool.gradguard] scenarios as tests")
    add("--gradguard-select", metavar="RULES", help="codes, names or prefixes, separated by commas: GG1,dead-units")
    add("--gradguard-ignore", metavar="CODE:GLOB=REASON", action="append", help="accept a finding; may be repeated")
    add("--gradguard-seed", type=int, help="the seed of everything random in the checks")
    add("--gradguard-strict", action="store_true", default=None, help="what is inconclusive fails")
    add("--gradguard-profile", metavar="NAME", help="fast, ci, thorough, or one of [tool.gradguard.profiles]")
    add("--gradguard-baseline", metavar="FILE", help="accepted findings")
    add("--gradguard-write-baseline", action="store_true", help="accept what is found now; fails nothing")
    add("--gradguard-output-format", metavar="FORMAT", help="json, jsonl, markdown, github, gitlab, sarif, junit or text")
    add("--gradguard-output-file", metavar="FILE", help="write that format to a file")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the hooks that belong to this run."""
    config.addinivalue_line("markers", "gradguard(select, ignore, seed): settings for the gradguard checks of this test")
    config.pluginmanager.register(Run(config), "gradguard-run")
    name = config.getoption("gradguard_output_format")
    if name:
        from gradguard.errors import UsageError
        from gradguard.rendering.formats import check_format

        try:
            check_format(name)
        except UsageError as error:
            raise pytest.UsageError(f"--gradguard-output-format: {error}") from None


@pytest.fixture(scope="session")
def gradguard(request: pytest.FixtureRequest) -> Checks:
    """The checks of gradguard, which raise with their evidence: ``gradguard.check_gradients(...)`` and so on."""
    from gradguard.integrations.pytest_fixture import Checks

    return Checks(request.config)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> Any:
    """A scenario in a test module becomes a collector of one test per rule."""
    scenarios = sys.modules.get("gradguard.scenarios")
    obj = obj.__func__ if type(obj) is staticmethod else obj
    if scenarios is None or type(obj) is not scenarios.ScenarioFunction:
        return None
    from gradguard.integrations.pytest_scenarios import collect_scenario

    return collect_scenario(collector, name, obj)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses gradguard, so that ``-m gradguard`` selects it; add the configured scenarios where asked for."""
    if config.getoption("gradguard"):
        from gradguard.integrations.pytest_configured import configured_items

        items.extend(configured_items(session))
    for item in items:
        if "gradguard" in getattr(item, "fixturenames", ()) and item.get_closest_marker("gradguard") is None:
            item.add_marker("gradguard")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Remember which test is running."""
    ITEM.append(item)
    try:
        return (yield)
    finally:
        ITEM.pop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """What the checks said travels with the test's report: under xdist too, and when the worker dies afterwards."""
    report = yield
    if call.when == "call" and PAYLOAD in item.stash:
        import json

        report.gradguard = json.dumps(item.stash[PAYLOAD])
        del item.stash[PAYLOAD]
    return report


class Run:
    """The hooks that collect, on the controller, what the checks of a run said."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.payloads: list[str] = []
        self.problem = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came with a test's report."""
        payload = getattr(report, "gradguard", None)
        if payload is not None:
            self.payloads.append(payload)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """At the end of the tests: write what was asked for; also after an interrupt."""
        try:
            return (yield)
        finally:
            if self.payloads or self.config.getoption("gradguard_output_file"):
                from gradguard.integrations.pytest_session import finish

                self.problem = finish(session, self.payloads)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What was found, worst first; nothing where gradguard was not used."""
        if self.payloads or self.problem:
            from gradguard.integrations.pytest_summary import summarise

            summarise(terminalreporter, self.config, self.payloads, self.problem)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Under xdist: a folder that the workers share, only where a file was asked for."""
        if self.config.getoption("gradguard_output_file"):
            from gradguard.integrations.pytest_session import shared_folder

            node.workerinput["gradguard_folder"] = shared_folder(self.config)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Under ``--dist loadgroup``: the items of a scenario go to one worker, which measures it once."""
        if config.getoption("dist") != "loadgroup":
            return None
        from gradguard.integrations.xdist_groups import ScenarioGroups

        return ScenarioGroups(config, log)
