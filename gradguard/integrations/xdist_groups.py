"""Under xdist: one worker for all items of a scenario."""

from __future__ import annotations

from xdist.scheduler.loadgroup import LoadGroupScheduling

from gradguard.rules.registry import RULES

__all__ = ["ScenarioGroups", "group_of"]

SLUGS = frozenset(slug for slug, _ in RULES.values())


class ScenarioGroups(LoadGroupScheduling):  # type: ignore[misc]  # xdist ships no types
    """xdist's scheduling by group, in which a scenario is a group of its own unless a marker says otherwise."""

    def _split_scope(self, nodeid: str) -> str:
        scope = str(super()._split_scope(nodeid))
        return group_of(nodeid) if scope == nodeid else scope


def group_of(nodeid: str) -> str:
    """``test_m.py::net[small]`` for ``test_m.py::net::gradient-mismatch[small]``; what is no scenario's stays as it is."""
    scenario, _, last = nodeid.rpartition("::")
    # Parameters may hold colons themselves: only what stands before the bracket names the rule.
    if "[" in scenario:
        head, bracket, tail = nodeid.partition("[")
        scenario, _, last = head.rpartition("::")
        last += bracket + tail
    slug, bracket, parameters = last.partition("[")
    return scenario + bracket + parameters if slug in SLUGS else nodeid
