"""Numerical against analytical gradient, for every block, at a cost that does not grow with their size.

Joint tangents over all blocks first: one sees an error in any of them. Then groups of blocks whose resolution is not good
enough yet, then single ones, then a block's own module, where it is not drowned by larger ones. What is not resolved
then is inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np

from gradguard.adapters.base import Differentiable, Modular, Settings
from gradguard.blocks import Entries, Tangent
from gradguard.measurements.block_results import BlockResult, Gradients, without_measuring
from gradguard.measurements.shots import RELATIVE, Shooter, equalising_scales
from gradguard.measurements.sightings import TINY_SHARE, Sightings, constants_only
from gradguard.measurements.wrong_blocks import find_wrong_blocks

__all__ = ["compare"]

GOAL = 1e-6
"""The resolution that more tangents are spent for, and that a block's own module is asked for."""
RECORDED = 100
"""Modules whose inputs are kept from one pass."""
GROUPS = 6
SINGLES = 8
ENTRIES = 16
"""Entries that are looked at alone in a block whose zeros could not be moved with the rest."""


def compare(problem: Differentiable, settings: Settings, *, quick: bool = False, modules: bool = True) -> Gradients:
    """Numerical against analytical gradient at the problem's point.

    ``quick`` stops at the first mismatch; ``modules``: blocks that the whole drowns may be checked through their module.
    """
    shooter = Shooter(problem, settings.seed)
    results: dict[int, BlockResult] = {}
    active: list[int] = []
    silent: list[int] = []
    for i, (block, facts) in enumerate(zip(problem.blocks, shooter.facts, strict=True)):
        early = without_measuring(block, facts)
        if early is not None:
            results[i] = early
        else:
            (silent if facts.zero else active).append(i)
    seen = Sightings(shooter, problem.blocks, active, silent)
    _joint(seen)
    if not seen.failed:
        _groups(seen)
    _silent(seen)
    stages: list[Callable[[Sightings], None]] = [_groups, _singles, _held]
    if modules and isinstance(problem, Modular):
        stages.insert(0, partial(_modules, problem=problem, settings=settings))
    for stage in stages:
        if not seen.failed:
            stage(seen)
    plain = next((s for s in seen.failed if not constants_only(s)), None)
    if plain is not None and quick:
        for i in plain.tangent.blocks:
            seen.alone[i] = seen.result(i, plain, "fail", "together", 0.0)
    elif seen.failed:
        find_wrong_blocks(seen)
    for i in [*active, *silent]:
        results[i] = seen.alone.get(i) or seen.judge(i, problem.path)
    return Gradients(
        results=tuple(results[i] for i in range(len(problem.blocks))),
        limit=shooter.limit,
        lifted=shooter.double,
        notes=problem.notes,
        path=problem.path,
        seed=settings.seed,
    )


def _joint(seen: Sightings) -> None:
    """Two joint tangents: one at natural scales, one whose shares are brought together; more where neither has a slope."""
    if not seen.active:
        return
    shooter = seen.shooter
    first = shooter.shoot(shooter.tangent(seen.active))
    failed = seen.add(first)
    spread = [float(first.norms[i]) for i in seen.active if first.norms[i] > 0]
    balanced = bool(spread) and max(spread) < 30 * min(spread)
    if balanced and not failed and not first.slope.reason:
        seen.add(shooter.shoot_like(shooter.tangent(seen.active), first.slope))
    else:
        scales = equalising_scales(shooter.natural, first.norms, seen.active)
        tangent = shooter.tangent(seen.active, scales)
        seen.add(shooter.shoot(tangent) if failed or first.slope.reason else shooter.shoot_like(tangent, first.slope))
    for least in RELATIVE:
        if not seen.passed and not seen.failed:
            seen.add(shooter.shoot(shooter.tangent(seen.active, relative=least), fresh_noise=True))


def _silent(seen: Sightings) -> None:
    """The blocks whose gradient is 0, together: is the slope?"""
    if seen.silent:
        seen.add(seen.shooter.shoot(seen.shooter.tangent(seen.silent)))


def _groups(seen: Sightings) -> None:
    """Blocks that need more, in groups of similar size."""
    shooter = seen.shooter
    norms = seen.sizes()
    largest = max(norms.values(), default=0.0)
    # What is lost in the rounding of the whole is not found by more tangents: its own module sees it.
    drowned = {i for i in norms if seen.blocks[i].module is not None and norms[i] <= TINY_SHARE * largest}
    wanting = sorted(set(seen.unresolved(GOAL)) - drowned - set(seen.alone), key=lambda i: norms[i])
    groups: list[list[int]] = []
    for i in wanting:
        if groups and norms[i] <= 100 * max(norms[groups[-1][0]], 1e-300):
            groups[-1].append(i)
        else:
            groups.append([i])
    for group in groups[:GROUPS]:
        if seen.add(shooter.shoot(shooter.tangent(group))):
            return


def _singles(seen: Sightings) -> None:
    """What is still open, each block alone, then with steps scaled to each entry."""
    shooter = seen.shooter
    norms = seen.sizes()
    least_of_all = TINY_SHARE * max(norms.values(), default=0.0)
    still = [i for i in seen.unresolved(seen.goal(GOAL)) if i not in seen.alone and norms[i] > least_of_all]
    for i in still[:SINGLES]:
        for least in (None, *RELATIVE):
            if seen.add(shooter.shoot(shooter.tangent([i], relative=least), fresh_noise=least is not None)):
                return
            if seen.resolution(i) <= seen.enough:
                break


def _held(seen: Sightings) -> None:
    """Blocks that were compared while their zeros held still: some of their entries alone, wherever that has a slope."""
    shooter = seen.shooter
    for i in seen.active:
        best = seen.best(i)
        if i in seen.alone or best is None or best.tangent.relative != 0.0:
            continue
        size = seen.blocks[i].size
        chosen = np.random.default_rng(shooter.seed()).permutation(size)[:ENTRIES]
        for k in sorted(int(k) for k in chosen):
            alone = Entries(block=i, indices=(k,), values=(shooter.natural[i],))
            shot = shooter.shoot(Tangent(entries=(alone,)), fresh_noise=True)
            if not shot.slope.kink and seen.differs(shot):
                shot = shooter.confirm(shot)
                if seen.differs(shot):
                    seen.alone[i] = replace(seen.result(i, shot, "fail", "an entry alone", 0.0), worst=k)
                    break


def _modules(seen: Sightings, problem: Modular, settings: Settings) -> None:
    """Blocks that the whole model drowns: checked through their own module's VJP."""
    wanting = [i for i in seen.unresolved(seen.goal(GOAL)) if seen.blocks[i].module is not None]
    problem.expect(list(dict.fromkeys(str(seen.blocks[i].module) for i in wanting))[:RECORDED])
    again = replace(settings, seed=settings.seed + 17)

    @cache
    def inside(path: str) -> tuple[str, Mapping[str, BlockResult]]:
        alone = problem.module_problem(path)
        if alone is not None:
            return path, {r.block.name: r for r in compare(alone, again, modules=False).results}
        # A module that only holds the parameter: the one around it uses it.
        return inside(path.rpartition(".")[0]) if path else (path, {})

    for i in wanting:
        block = seen.blocks[i]
        if i in seen.alone:
            continue
        path, results = inside(str(block.module))
        result = results.get(block.name)
        if result is None or result.verdict == "inconclusive":
            continue
        if result.verdict == "fail" or result.resolution < seen.resolution(i):
            seen.alone[i] = replace(
                result,
                block=block,
                path=f"{path or 'the model'} alone",
                reason=result.reason or "its share of the whole model's slope is below what can be resolved",
            )
