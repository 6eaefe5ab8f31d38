"""Numerical against analytical gradient, for every block, at a cost that does not grow with their size.

Joint tangents over all blocks first: one sees an error in any of them. Then groups of blocks whose resolution is not good
enough yet, then single ones, then a block's own module, where it is not drowned by larger ones. What is not resolved
then is inconclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from gradguard.adapters.base import BlockFacts, Differentiable, Modular, Problem, Settings
from gradguard.blocks import Block, Entries, Tangent
from gradguard.finding import Table
from gradguard.measurements.base import Evidence, Measurement, Unavailable, the
from gradguard.measurements.determinism import Determinism
from gradguard.measurements.shots import Shooter, Shot, equalising_scales

__all__ = ["BlockResult", "Gradients", "compare", "measure", "nudged"]

GOAL = 1e-6
"""The resolution that more tangents are spent for."""
RESOLVED = 2.5e-5
"""A block counts as compared from this resolution on (float64): an error of 20 times as much is seen."""
RESOLVED_SINGLE = 2e-2
"""The same where only float32 can run."""
MODULE_GOAL = 1e-6
"""Blocks that the whole resolves less well than this are looked at through their own module, too."""
RECORDED = 100
"""Modules whose inputs are kept from one pass."""
GROUPS = 6
SINGLES = 8
FLOAT_CONSTANT = 2e-7
"""Relative difference of a block's slope below which a constant that is rounded to float32 explains it."""
TINY_SHARE = 1e-12
"""Share of the largest block below which a gradient may be nothing but rounding."""
MANY = 64
"""Up to this many blocks are looked at one by one after a mismatch; more are halved."""
ENTRIES = 16
"""Entries that are looked at alone in a block whose zeros could not be moved with the rest."""
NUDGES = 3
CONSTANT_TANGENTS = 3
RELATIVE = (1e-3, 0.0)
"""Least multiples of a block's scale for tangents whose steps go by the entry: one that moves all, one that holds zeros."""
NUDGE = 2.0**-9
"""Size of the nudge off a kink, relative to each block's scale."""


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """One row of the table ``gradients``.

    ``verdict``: pass, fail, inconclusive, zero (no gradient, and the slope is 0 within its bar), empty, nonfinite,
    shape, raised (backward does), excluded (its gradient is declared not to be the derivative). ``analytical`` and
    ``numerical`` are the slopes along the best tangent; where several blocks moved together, the whole difference is put
    on this one.
    """

    block: Block
    verdict: str
    analytical: float = float("nan")
    numerical: float = float("nan")
    error_bar: float = float("nan")
    z: float = float("nan")
    resolution: float = float("nan")
    order: float = float("nan")
    kink: bool = False
    forwards: float = 0.0
    path: str = ""
    reason: str = ""
    missing: bool = False
    nonfinite: int = 0
    first_nonfinite: int | None = None
    worst: int | None = None
    """Flat index of the worst entry, where every entry was looked at; ``count`` how many are wrong."""
    count: int | None = None

    @property
    def ratio(self) -> float:
        """analytical / numerical."""
        return self.analytical / self.numerical if self.numerical else float("nan")

    @property
    def relative_error(self) -> float:
        """|analytical - numerical| / the larger of the two."""
        size = max(abs(self.analytical), abs(self.numerical))
        return abs(self.analytical - self.numerical) / size if size > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Gradients(Measurement):
    """All blocks, and what was said on the way.

    ``at_point`` is False where the point itself is a kink (or special): then the verdicts are those of a point nearby,
    and the measurement ``kinks`` judges the point. ``limit`` is the z above which a difference counts.
    """

    name: ClassVar[str] = "gradients"
    results: tuple[BlockResult, ...] = ()
    limit: float = 20.0
    at_point: bool = True
    lifted: bool = True
    notes: tuple[str, ...] = ()
    seed: int = 0

    @property
    def compared(self) -> tuple[BlockResult, ...]:
        """The blocks about which something was found out."""
        return tuple(r for r in self.results if r.verdict in ("pass", "fail", "zero", "nonfinite", "shape", "raised"))

    @property
    def wrong(self) -> tuple[BlockResult, ...]:
        """The blocks whose analytical and numerical slope differ."""
        return tuple(r for r in self.results if r.verdict == "fail")

    def tables(self) -> dict[str, Table]:
        """The table ``gradients``."""
        rows: Table = []
        for r in self.results:
            rows.append(
                {
                    "block": r.block.name,
                    "shape": str(r.block.shape),
                    "dtype": r.block.dtype,
                    "analytical": r.analytical,
                    "numerical": r.numerical,
                    "error_bar": r.error_bar,
                    "z": r.z,
                    "relative_error": r.relative_error,
                    "resolution": r.resolution,
                    "ratio": r.ratio,
                    "order_observed": r.order,
                    "kink": r.kink,
                    "verdict": r.verdict,
                    "forwards": r.forwards,
                    "path": r.path,
                    "reason": r.reason,
                }
            )
        return {"gradients": rows}


@dataclass
class _State:
    """What is known so far: the best passing shot of each block, and the shots that failed."""

    shooter: Shooter
    blocks: tuple[Block, ...]
    active: list[int]
    silent: list[int]
    passed: list[Shot] = field(default_factory=list)
    failed: list[Shot] = field(default_factory=list)
    unclear: list[Shot] = field(default_factory=list)
    alone: dict[int, BlockResult] = field(default_factory=dict)

    def add(self, shot: Shot) -> bool:
        """Sort a shot in, confirming a mismatch first; tells whether it failed."""
        if np.isfinite(shot.z) and shot.z > self.shooter.limit:
            again = self.shooter.confirm(shot)
            if not np.isfinite(again.z) or (again.z <= self.shooter.limit and again.error_bar > 100 * shot.error_bar):
                self.unclear.append(again)
                return False
            shot = again
        if not np.isfinite(shot.z):
            self.unclear.append(shot)
            return False
        (self.failed if shot.z > self.shooter.limit else self.passed).append(shot)
        return shot.z > self.shooter.limit

    def resolution(self, i: int) -> float:
        return min((s.resolution(i) for s in self.passed if i in s.tangent.blocks), default=float("inf"))

    def best(self, i: int) -> Shot | None:
        able = [s for s in self.passed if i in s.tangent.blocks]
        return min(able, key=lambda s: s.resolution(i), default=None)

    def unresolved(self, goal: float) -> list[int]:
        return [i for i in self.active if self.resolution(i) > goal]


def measure(problem: Problem, settings: Settings, evidence: Evidence, about: tuple[str, ...]) -> Measurement:
    """The measurement ``gradients``, or why it could not be made."""
    if not isinstance(problem, Differentiable):
        return Unavailable(wanted="gradients", reason="the problem has no gradient to compare")
    determinism = the(evidence, Determinism)
    if determinism is not None and not determinism.usable:
        return Unavailable(
            wanted="gradients", reason="the value changes from call to call, so its differences mean nothing (GG104)"
        )
    if settings.method == "entrywise":
        from gradguard.measurements.entrywise import measure_entrywise

        return measure_entrywise(problem, settings)
    found = compare(problem, settings)
    hidden = any(r.kink and r.verdict == "inconclusive" for r in found.results)
    if found.at_point and (found.wrong or hidden):
        nearby = nudged(problem, found, settings)
        if nearby is not None:
            return replace(nearby, at_point=False)
    return found


def nudged(problem: Differentiable, found: Gradients, settings: Settings) -> Gradients | None:
    """The comparison at a point nearby, where every block that differs here is right; None where one is wrong there too."""
    shooter = Shooter(problem, settings.seed + 31)
    moved = [i for i, r in enumerate(found.results) if r.verdict in ("pass", "fail", "zero", "inconclusive")]
    wrong = [i for i, r in enumerate(found.results) if r.verdict == "fail"]
    for _ in range(NUDGES):
        nearby = compare(problem.at(shooter.tangent(moved), NUDGE), settings, quick=True)
        if not nearby.wrong:
            undecided = any(nearby.results[i].verdict == "inconclusive" for i in wrong)
            return None if undecided else nearby
        if not any(result.kink for result in nearby.wrong):
            return None
    return None  # ties that moved together would have come apart by now


def compare(problem: Differentiable, settings: Settings, *, quick: bool = False, modules: bool = True) -> Gradients:
    """Numerical against analytical gradient at the problem's point.

    ``quick`` stops at the first mismatch; ``modules``: blocks that the whole drowns may be checked through their module.
    """
    shooter = Shooter(problem, settings.seed)
    results: dict[int, BlockResult] = {}
    active: list[int] = []
    silent: list[int] = []
    for i, (block, facts) in enumerate(zip(problem.blocks, shooter.facts, strict=True)):
        early = _without_measuring(block, facts)
        if early is not None:
            results[i] = early
        else:
            (silent if facts.zero else active).append(i)
    state = _State(shooter, problem.blocks, active, silent)
    if active:
        _joint(state)
        if not state.failed:
            _groups(state)
    if silent:
        state.add(shooter.shoot(shooter.tangent(silent)))
    if not state.failed and modules and isinstance(problem, Modular):
        _modules(state, problem, settings)
    if active and not state.failed:
        _groups(state)
    if active and not state.failed:
        _singles(state)
    if active and not state.failed:
        _held(state)
    plain = next((s for s in state.failed if not _constants_only(s)), None)
    if plain is not None and quick:
        for i in plain.tangent.blocks:
            state.alone[i] = _result(state, i, plain, "fail", "together", 0.0)
    elif state.failed:
        _one_by_one(state)
    for i in [*active, *silent]:
        results[i] = state.alone.get(i) or _judge(state, i, problem.path)
    return Gradients(
        results=tuple(results[i] for i in range(len(problem.blocks))),
        limit=shooter.limit,
        lifted=shooter.double,
        notes=problem.notes,
        path=problem.path,
        seed=settings.seed,
    )


def _without_measuring(block: Block, facts: BlockFacts) -> BlockResult | None:
    if block.size == 0:
        return BlockResult(block=block, verdict="empty", reason="no entries")
    if block.excluded:
        return BlockResult(block=block, verdict="excluded", reason=block.excluded)
    if facts.failed:
        return BlockResult(block=block, verdict="raised", reason=f"backward raises {facts.failed}")
    if facts.wrong_shape:
        return BlockResult(block=block, verdict="shape", reason=f"its gradient has shape {facts.wrong_shape}")
    if facts.nonfinite:
        return BlockResult(
            block=block,
            verdict="nonfinite",
            nonfinite=facts.nonfinite,
            first_nonfinite=facts.first_nonfinite,
            reason=f"{facts.nonfinite} entries of its gradient are not finite",
        )
    return None


def _joint(state: _State) -> None:
    """Two joint tangents: one at natural scales, one whose shares are brought together; a third where they failed."""
    shooter = state.shooter
    first = shooter.shoot(shooter.tangent(state.active))
    failed = state.add(first)
    spread = [float(first.norms[i]) for i in state.active if first.norms[i] > 0]
    balanced = bool(spread) and max(spread) < 30 * min(spread)
    if balanced and not failed and not first.slope.reason:
        state.add(shooter.shoot_like(shooter.tangent(state.active), first.slope))
    else:
        scales = equalising_scales(shooter.natural, first.norms, state.active)
        tangent = shooter.tangent(state.active, scales)
        state.add(shooter.shoot(tangent) if failed or first.slope.reason else shooter.shoot_like(tangent, first.slope))
    for least in RELATIVE:
        if not state.passed and not state.failed:
            state.add(shooter.shoot(shooter.tangent(state.active, relative=least), fresh_noise=True))


def _groups(state: _State) -> None:
    """Blocks that need more, in groups of similar size."""
    shooter = state.shooter
    norms = _latest_norms(state)
    # What is lost in the rounding of the whole is not found by more tangents: its own module sees it.
    drowned = {i for i in norms if state.blocks[i].module is not None and norms[i] <= TINY_SHARE * max(norms.values())}
    wanting = sorted(set(state.unresolved(GOAL)) - drowned - set(state.alone), key=lambda i: norms[i])
    groups: list[list[int]] = []
    for i in wanting:
        if groups and norms[i] <= 100 * max(norms[groups[-1][0]], 1e-300):
            groups[-1].append(i)
        else:
            groups.append([i])
    for group in groups[:GROUPS]:
        if state.add(shooter.shoot(shooter.tangent(group))):
            return


def _singles(state: _State) -> None:
    """What is still open, each block alone, then with steps scaled to each entry."""
    shooter = state.shooter
    enough = RESOLVED if shooter.double else RESOLVED_SINGLE
    norms = _latest_norms(state)
    goal = GOAL if shooter.double else RESOLVED_SINGLE
    still = [i for i in state.unresolved(goal) if i not in state.alone and norms[i] > TINY_SHARE * max(norms.values())]
    for i in still[:SINGLES]:
        for least in (None, *RELATIVE):
            if state.add(shooter.shoot(shooter.tangent([i], relative=least), fresh_noise=least is not None)):
                return
            if state.resolution(i) <= enough:
                break


def _held(state: _State) -> None:
    """Blocks that were compared while their zeros held still: some of their entries alone, wherever that has a slope."""
    shooter = state.shooter
    for i in state.active:
        best = state.best(i)
        if i in state.alone or best is None or best.tangent.relative != 0.0:
            continue
        size = state.blocks[i].size
        chosen = np.random.default_rng(shooter.seed()).permutation(size)[:ENTRIES]
        for k in sorted(int(k) for k in chosen):
            alone = Entries(block=i, indices=(k,), values=(shooter.natural[i],))
            shot = shooter.shoot(Tangent(entries=(alone,)), fresh_noise=True)
            if not shot.slope.kink and shot.z > shooter.limit:
                shot = shooter.confirm(shot)
                if shot.z > shooter.limit:
                    state.alone[i] = replace(_result(state, i, shot, "fail", "an entry alone", 0.0), worst=k)
                    break


def _latest_norms(state: _State) -> dict[int, float]:
    """The size of each block's share at its natural scale."""
    facts = state.shooter.facts
    return {i: facts[i].gradient_norm * state.shooter.natural[i] for i in state.active}


def _one_by_one(state: _State) -> None:
    """After a mismatch: which blocks are wrong? Each alone, or by halves where there are many."""
    candidates = sorted({i for shot in state.failed for i in shot.tangent.blocks})
    if len(candidates) <= MANY:
        for i in candidates:
            _alone(state, i)
        if not any(result.verdict == "fail" for result in state.alone.values()):
            _only_together(state, candidates)
        return
    todo = [candidates]
    budget = 4 * MANY
    while todo and budget > 0:
        group = todo.pop(0)
        budget -= 1
        if len(group) == 1:
            _alone(state, group[0])
            continue
        shot = state.shooter.shoot(state.shooter.tangent(group))
        if np.isfinite(shot.z) and shot.z > state.shooter.limit:
            middle = len(group) // 2
            todo += [group[:middle], group[middle:]]
        elif np.isfinite(shot.z):
            state.passed.append(shot)
    for group in todo:
        for i in group:
            state.alone[i] = BlockResult(
                block=state.blocks[i], verdict="inconclusive", reason="in a group that differs; not looked at alone"
            )


def _only_together(state: _State, candidates: list[int]) -> None:
    """A mismatch that no block shows alone: believed if fresh joint tangents show it too, and put on the likeliest block."""
    again = [state.shooter.shoot(state.shooter.tangent(candidates)) for _ in range(3)]
    wrong = [s for s in again if np.isfinite(s.z) and s.z > state.shooter.limit and not _constants_only(s)]
    if not wrong:
        return
    for i in candidates:  # an error near the limit shows in some tangents of its block and not in others
        shots = [state.shooter.shoot(state.shooter.tangent([i])) for _ in range(2)] if state.alone[i].z > 1 else []
        worst = max(shots, key=lambda s: s.z, default=None)
        if worst is not None and worst.z > state.alone[i].z:
            state.alone[i] = _result(
                state, i, worst, "fail" if worst.z > state.shooter.limit else state.alone[i].verdict, "alone", 0.0
            )
    if not any(result.verdict == "fail" for result in state.alone.values()):
        likeliest = max(candidates, key=lambda i: np.nan_to_num(state.alone[i].z))
        state.alone[likeliest] = _result(
            state, likeliest, wrong[0], "fail", "together", 0.0, "the blocks differ together; this one differs most alone"
        )


def _alone(state: _State, i: int) -> None:
    shooter = state.shooter
    before = shooter.problem.counts.forwards
    shot = shooter.shoot(shooter.tangent([i]))
    if np.isfinite(shot.z) and shot.z > shooter.limit:
        shot = shooter.confirm(shot)
    for least in RELATIVE:
        if _good(state, shot, i) or shot.z > shooter.limit:
            break
        relative = shooter.shoot(shooter.tangent([i], relative=least), fresh_noise=True)
        if np.isfinite(relative.z) and (relative.z > shooter.limit or relative.resolution(i) < shot.resolution(i)):
            shot = relative
    verdict, reason = "inconclusive", ""
    if np.isfinite(shot.z) and shooter.limit < shot.z and _constants_only(shot):
        # A tangent along which a wrong gradient happens to be small looks like this too; others do not.
        others = (shooter.shoot(shooter.tangent([i])) for _ in range(CONSTANT_TANGENTS))
        shot = next((s for s in others if np.isfinite(s.z) and s.z > shooter.limit and not _constants_only(s)), shot)
    if np.isfinite(shot.z) and shooter.limit < shot.z and _constants_only(shot):
        verdict = "pass"
        reason = f"off by {abs(shot.difference) / float(shot.norms.sum()):.0e}: what float32 constants in a kernel leave"
        shot = replace(shot, error_bar=max(shot.error_bar, abs(shot.difference)))
    elif np.isfinite(shot.z):
        verdict = "fail" if shot.z > shooter.limit else "pass" if _good(state, shot, i) else "inconclusive"
        if verdict == "inconclusive" and i in state.silent:
            verdict = "zero"
    state.alone[i] = _result(state, i, shot, verdict, "alone", shooter.problem.counts.forwards - before, reason)


def _constants_only(shot: Shot) -> bool:
    """A difference this small is rounding of a constant inside a float64 kernel (torch's hardsigmoid has 1/6 as a float)."""
    return abs(shot.difference) <= FLOAT_CONSTANT * float(shot.norms.sum())


def _good(state: _State, shot: Shot, i: int) -> bool:
    return shot.resolution(i) <= (RESOLVED if state.shooter.double else RESOLVED_SINGLE)


def _modules(state: _State, problem: Modular, settings: Settings) -> None:
    """Blocks that the whole model drowns: checked through their own module's VJP."""
    wanting = [
        i
        for i in state.unresolved(MODULE_GOAL if state.shooter.double else RESOLVED_SINGLE)
        if state.blocks[i].module is not None
    ]
    done: dict[str, Gradients | None] = {}
    problem.expect(list(dict.fromkeys(str(state.blocks[i].module) for i in wanting))[:RECORDED])
    for i in wanting:
        block = state.blocks[i]
        if i in state.alone or block.module is None:
            continue
        path = block.module
        while True:
            if path not in done:
                alone = problem.module_problem(path)
                again = replace(settings, seed=settings.seed + 17)
                done[path] = compare(alone, again, modules=False) if alone is not None else None
            inside = done[path]
            if inside is not None or not path:
                break
            path = path.rpartition(".")[0]  # a module that only holds the parameter: the one around it uses it
        names = [r.block.name for r in inside.results] if inside is not None else []
        if inside is not None and block.name in names:
            result = inside.results[names.index(block.name)]
            if result.verdict == "inconclusive" or (result.verdict != "fail" and result.resolution >= state.resolution(i)):
                continue
            state.alone[i] = replace(
                result,
                block=block,
                path=f"{path or 'the model'} alone",
                reason=result.reason or "its share of the whole model's slope is below what can be resolved",
            )


def _judge(state: _State, i: int, path: str) -> BlockResult:
    """A block that was only looked at together with others."""
    shot = state.best(i)
    enough = RESOLVED if state.shooter.double else RESOLVED_SINGLE
    if i in state.silent:
        together = [s for s in state.passed if i in s.tangent.blocks]
        if together:
            return _result(state, i, together[-1], "zero", "", 0.0)
    elif shot is not None and shot.resolution(i) <= enough:
        others = len(shot.tangent.blocks) - 1
        return _result(state, i, shot, "pass", f"{path}, together with {others} more" if others else path, 0.0)
    elif shot is not None and float(shot.norms[i]) <= TINY_SHARE * _largest(state):
        return _result(state, i, shot, "zero", path, 0.0, "its gradient is nothing but rounding")
    last = shot or (state.unclear[-1] if state.unclear else None)
    if last is None:
        return BlockResult(block=state.blocks[i], verdict="inconclusive", reason="no step could be evaluated")
    reason = last.slope.reason or f"the smallest error that can be seen is {last.resolution(i):.1e} of the block"
    return _result(state, i, last, "inconclusive", path, 0.0, reason)


def _largest(state: _State) -> float:
    facts = state.shooter.facts
    return max(facts[i].gradient_norm * state.shooter.natural[i] for i in state.active)


def _result(state: _State, i: int, shot: Shot, verdict: str, path: str, forwards: float, reason: str = "") -> BlockResult:
    share = float(shot.shares[i])
    if verdict == "pass" and shot.tangent.relative == 0.0:
        reason = reason or "entries of 0 held still: next to them the value is not finite, or has no slope"
    return BlockResult(
        block=state.blocks[i],
        verdict=verdict,
        analytical=share,
        numerical=share - shot.difference,
        error_bar=shot.error_bar,
        z=shot.z,
        resolution=shot.resolution(i) if share else float("nan"),
        order=shot.slope.order(shot.analytical),
        kink=shot.slope.kink,
        forwards=forwards,
        path=path,
        reason=reason,
        missing=state.shooter.facts[i].missing,
    )
