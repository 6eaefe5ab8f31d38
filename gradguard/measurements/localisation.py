"""Where a gradient is wrong: module, block, entries, pattern. Only after a mismatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import Cut, Differentiable, Modular, Nodal, Problem, Settings
from gradguard.measurements.base import Evidence, Measurement, the
from gradguard.measurements.block_results import Gradients
from gradguard.measurements.comparison import compare
from gradguard.measurements.detached import Detached
from gradguard.measurements.extent import Extent, find_extent
from gradguard.measurements.gradients import NUDGE
from gradguard.measurements.shots import Shooter

__all__ = ["Localisation", "Place", "measure"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is known of one wrong block, or of a module that returns a wrong input gradient."""

    block: str
    module: str = ""
    location: str = ""
    entry: str = ""
    analytical: float = float("nan")
    numerical: float = float("nan")
    error_bar: float = float("nan")
    z: float = float("nan")
    extent: str = ""
    count: int | None = None
    pattern: str = ""
    likely: str = ""
    evidence: str = ""
    guilty: bool = False


@dataclass(frozen=True, kw_only=True)
class Localisation(Measurement):
    """The places; ``inputs`` are modules whose parameters are right and whose input gradient is wrong."""

    name: ClassVar[str] = "localisation"
    places: tuple[Place, ...] = ()
    inputs: tuple[Place, ...] = ()
    downstream: tuple[str, ...] = ()

    def of(self, block: str) -> Place | None:
        """What is known of a block."""
        return next((p for p in self.places if p.block == block), None)

    def carried(self, block: str) -> bool:
        """Whether the block's own module is right, and it only carries another's error."""
        return block in self.downstream

    def cause(self, block: str) -> Place | None:
        """The place that a carried block's error comes from."""
        if not self.carried(block):
            return None
        return next(iter((*self.inputs, *self.places)), None)


BLOCKS = 8
"""Wrong blocks whose entries are looked at."""
NODES = 32
"""Custom functions that are checked alone."""


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``localisation``, about the wrong blocks."""
    gradients = the(evidence, Gradients)
    detached = the(evidence, Detached)
    explained = detached.explained if detached is not None else ()
    wrong = [r.block.name for r in gradients.wrong if r.block.name not in explained] if gradients is not None else []
    if not wrong or not isinstance(problem, Differentiable):
        return Localisation(reason="nothing is wrong that is not explained")
    search = _Guilt(problem, settings, wrong, detached.cuts if detached is not None else ())
    search.nodes()
    if not search.places and not search.inputs:
        search.modules()
    if not search.places and not search.inputs:
        search.blocks()
    found = {p.block for p in search.places}
    downstream = tuple(name for name in wrong if name not in found) if search.located else ()
    return Localisation(places=tuple(search.places), inputs=tuple(search.inputs), downstream=downstream, path=problem.path)


class _Guilt:
    """The search for what is wrong by itself, from the custom functions to the modules to the blocks."""

    def __init__(self, problem: Differentiable, settings: Settings, wrong: list[str], cuts: tuple[Cut, ...] = ()) -> None:
        self.problem = problem
        self.settings = settings
        self.wrong = wrong
        self.cuts = cuts
        self.places: list[Place] = []
        self.inputs: list[Place] = []
        self.located = False

    def fails(self, alone: Differentiable) -> bool:
        """Whether a part's own gradient is wrong, and not only at this point."""
        shooter = Shooter(alone, self.settings.seed + 71)
        without = [f.nonfinite or f.wrong_shape or f.failed for f in shooter.facts]
        active = [i for i, none in enumerate(without) if not none and alone.blocks[i].size]
        if not active:
            return False
        shot = shooter.shoot(shooter.tangent(active))
        if not (np.isfinite(shot.z) and shot.z > shooter.limit):
            return False
        again = shooter.confirm(shot)
        if not (np.isfinite(again.z) and again.z > shooter.limit):
            return False
        nearby = compare(alone.at(shooter.tangent(active), NUDGE), self.settings, quick=True)
        return bool(nearby.wrong)

    def nodes(self) -> None:
        """Custom functions: where there are any, the fault is most likely in one of them."""
        if not isinstance(self.problem, Nodal) or not isinstance(self.problem, Modular):
            return
        for k, node in enumerate(self.problem.nodes()[:NODES]):
            if any(cut.surrogate == node.name and cut.location == node.location for cut in self.cuts):
                continue
            alone = self.problem.node_problem(k)
            if alone is None or not self.fails(alone):
                continue
            self.located = True
            self._inside(
                alone,
                node.module,
                self.problem.module_class(node.module),
                node.origins,
                f"{node.name} at {node.location}",
                node.direct,
                again=partial(self.problem.node_problem, k),
            )

    def modules(self) -> None:
        """The deepest modules that fail alone while nothing that they call does."""
        if not isinstance(self.problem, Modular):
            return
        calls = self.problem.calls()
        level = [path for path, caller in calls.items() if caller is None]
        while level:
            self.problem.expect(level)
            below: list[str] = []
            for path in level:
                alone = self.problem.module_problem(path)
                inner = [p for p, caller in calls.items() if caller == path]
                if alone is None:
                    below += inner
                elif self.fails(alone):
                    if not any(self._fails_below(p) for p in inner):
                        self.located = True
                        origins = tuple(b.name if b.kind != "input" else "" for b in alone.blocks)
                        again = partial(self.problem.module_problem, path)
                        self._inside(alone, path, self.problem.module_class(path), origins, "", again=again)
                    else:
                        below += inner
            level = below

    def _fails_below(self, path: str) -> bool:
        assert isinstance(self.problem, Modular)
        alone = self.problem.module_problem(path)
        return alone is None or self.fails(alone)

    def _inside(
        self,
        alone: Differentiable,
        module: str,
        owner: str,
        origins: tuple[str, ...],
        function: str,
        direct: tuple[bool, ...] = (),
        *,
        again: Callable[[int], Differentiable | None],
    ) -> None:
        """Which arguments of a guilty part have a wrong gradient, and where in them."""
        batch = self._batch_dependence(again)
        inside = compare(alone, replace(self.settings, seed=self.settings.seed + 73))
        where = f"module {module or 'the model itself'} ({owner})" if owner else ""
        if function:
            where = f"custom function {function}" + (f", in {where}" if where else "")
        for i, result in enumerate(inside.results):
            if result.verdict not in ("fail", "nonfinite", "shape", "raised"):
                continue
            extent = find_extent(alone, i, self.settings.seed + 79) if result.verdict == "fail" else Extent(text=result.reason)
            origin = origins[i] if i < len(origins) else ""
            name = origin or result.block.name
            same = not origin or not direct or direct[i]
            entry = extent.entry.replace(result.block.name, name, 1) if same else ""
            place = Place(
                block=name,
                module=module,
                location=where,
                entry=entry,
                analytical=extent.analytical,
                numerical=extent.numerical,
                error_bar=extent.error_bar,
                z=result.z,
                extent=extent.text,
                count=extent.count,
                pattern="; ".join(text for text in (extent.pattern, batch) if text),
                likely=extent.likely,
                evidence=f"z = {result.z:.2g} of {function or 'the module'} alone",
                guilty=True,
            )
            if origin in self.wrong and all(p.block != origin for p in self.places):
                self.places.append(place)
            elif not origin:
                self.inputs.append(place)

    def _batch_dependence(self, again: Callable[[int], Differentiable | None]) -> str:
        """Whether the fault goes away on one sample, or, where there is only one, on three."""
        single = again(1)
        if single is not None:
            return "" if self.fails(single) else "only at batch > 1"
        several = again(3)
        return "only at batch 1" if several is not None and not self.fails(several) else ""

    def blocks(self) -> None:
        """Without parts to check alone: the entries and patterns of the wrong blocks themselves."""
        names = [b.name for b in self.problem.blocks]
        for name in self.wrong[:BLOCKS]:
            i = names.index(name)
            extent = find_extent(self.problem, i, self.settings.seed + 83)
            self.places.append(
                Place(
                    block=name,
                    entry=extent.entry,
                    analytical=extent.analytical,
                    numerical=extent.numerical,
                    error_bar=extent.error_bar,
                    extent=extent.text,
                    count=extent.count,
                    pattern=extent.pattern,
                    likely=extent.likely,
                )
            )
