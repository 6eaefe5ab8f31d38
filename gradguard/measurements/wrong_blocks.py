"""After a mismatch: which of the blocks that moved together are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradguard.measurements.block_results import BlockResult
from gradguard.measurements.shots import RELATIVE
from gradguard.measurements.sightings import Sightings, constants_only

__all__ = ["find_wrong_blocks"]

MANY = 64
"""Up to this many blocks are looked at one by one after a mismatch; more are halved."""
CONSTANT_TANGENTS = 3


def find_wrong_blocks(seen: Sightings) -> None:
    """After a mismatch: which blocks are wrong? Each alone, or by halves where there are many."""
    candidates = sorted({i for shot in seen.failed for i in shot.tangent.blocks})
    if len(candidates) <= MANY:
        for i in candidates:
            _alone(seen, i)
        if not any(result.verdict == "fail" for result in seen.alone.values()):
            _only_together(seen, candidates)
        return
    todo = [candidates]
    budget = 4 * MANY
    while todo and budget > 0:
        group = todo.pop(0)
        budget -= 1
        if len(group) == 1:
            _alone(seen, group[0])
            continue
        shot = seen.shooter.shoot(seen.shooter.tangent(group))
        if seen.differs(shot):
            middle = len(group) // 2
            todo += [group[:middle], group[middle:]]
        elif np.isfinite(shot.z):
            seen.passed.append(shot)
    for group in todo:
        for i in group:
            seen.alone[i] = BlockResult(
                block=seen.blocks[i], verdict="inconclusive", reason="in a group that differs; not looked at alone"
            )


def _only_together(seen: Sightings, candidates: list[int]) -> None:
    """A mismatch that no block shows alone: believed if fresh joint tangents show it too, and put on the likeliest block."""
    again = [seen.shooter.shoot(seen.shooter.tangent(candidates)) for _ in range(3)]
    wrong = [s for s in again if seen.differs(s) and not constants_only(s)]
    if not wrong:
        return
    for i in candidates:  # an error near the limit shows in some tangents of its block and not in others
        shots = [seen.shooter.shoot(seen.shooter.tangent([i])) for _ in range(2)] if seen.alone[i].z > 1 else []
        worst = max(shots, key=lambda s: s.z, default=None)
        if worst is not None and worst.z > seen.alone[i].z:
            seen.alone[i] = seen.result(i, worst, "fail" if seen.differs(worst) else seen.alone[i].verdict, "alone", 0.0)
    if not any(result.verdict == "fail" for result in seen.alone.values()):
        likeliest = max(candidates, key=lambda i: np.nan_to_num(seen.alone[i].z))
        reason = "the blocks differ together; this one differs most alone"
        seen.alone[likeliest] = seen.result(likeliest, wrong[0], "fail", "together", 0.0, reason)


def _alone(seen: Sightings, i: int) -> None:
    """One block by itself: with the block's steps, then with its entries', until it is resolved."""
    shooter = seen.shooter
    before = shooter.problem.counts.forwards
    shot = shooter.shoot(shooter.tangent([i]))
    if seen.differs(shot):
        shot = shooter.confirm(shot)
    for least in RELATIVE:
        if seen.good(shot, i) or seen.differs(shot):
            break
        relative = shooter.shoot(shooter.tangent([i], relative=least), fresh_noise=True)
        if seen.differs(relative) or (np.isfinite(relative.z) and relative.resolution(i) < shot.resolution(i)):
            shot = relative
    verdict, reason = "inconclusive", ""
    if seen.differs(shot) and constants_only(shot):
        # A tangent along which a wrong gradient happens to be small looks like this too; others do not.
        others = (shooter.shoot(shooter.tangent([i])) for _ in range(CONSTANT_TANGENTS))
        shot = next((s for s in others if seen.differs(s) and not constants_only(s)), shot)
    if seen.differs(shot) and constants_only(shot):
        verdict = "pass"
        reason = f"off by {abs(shot.difference) / float(shot.norms.sum()):.0e}: what float32 constants in a kernel leave"
        shot = replace(shot, error_bar=max(shot.error_bar, abs(shot.difference)))
    elif np.isfinite(shot.z):
        verdict = "fail" if seen.differs(shot) else "pass" if seen.good(shot, i) else "inconclusive"
        if verdict == "inconclusive" and i in seen.silent:
            verdict = "zero"
    seen.alone[i] = seen.result(i, shot, verdict, "alone", shooter.problem.counts.forwards - before, reason)
