"""Which entries of a wrong block are wrong, and by which pattern: a few forwards per halving, all on one tangent.

The parts of a tangent keep its entries, so their differences add up: a part whose difference is zero holds no wrong entry
(random signs do not cancel), and the rest must hold what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from gradguard.adapters.base import Comparable, Differentiable
from gradguard.blocks import Block, Entries, Tangent, Window, axis_name, entry_name
from gradguard.measurements.shots import Shooter, Shot

__all__ = ["Extent", "find_extent", "name_ratio"]

SAMPLES = 8
"""Single entries that are looked at inside the box of wrong ones."""
FEW = 4
"""Scattered entries that are looked for one by one."""
SAME = 1e-6
"""Ratios that agree to this are one ratio."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where in a block, and how: ``text`` for the reader, ``pattern``, ``likely``, and the worst entry with its slopes."""

    text: str
    shape: tuple[int, ...] = ()
    pattern: str = ""
    likely: str = ""
    count: int | None = None
    entry: str = ""
    index: int | None = None
    analytical: float = float("nan")
    numerical: float = float("nan")
    error_bar: float = float("nan")


class _Search:
    """Parts of one tangent over one block, measured at one step."""

    def __init__(self, problem: Differentiable, block: int, seed: int) -> None:
        self.problem = problem
        self.index = block
        self.block: Block = problem.blocks[block]
        self.shooter = Shooter(problem, seed)
        self.shots: list[Shot] = [self.shooter.shoot(self.shooter.tangent([block]))]
        self.shots += [self.shooter.shoot_like(self.shooter.tangent([block]), self.shots[0].slope) for _ in range(2)]
        first = self.shots[0]
        self.tangent = first.tangent
        self.step = first.slope.step
        self.noise = first.slope.sigma / (sqrt(2) * self.step)
        self.tolerance = self.shooter.limit * max(first.error_bar, self.noise) / 4
        self.known: dict[tuple[Window, ...], float] = {}

    def difference(self, windows: tuple[Window, ...]) -> float:
        """Analytical minus numerical slope along a part of the tangent: 2 forwards."""
        if windows not in self.known:
            part = Tangent(seed=self.tangent.seed, scales=self.tangent.scales, windows={self.index: windows})
            values = self.problem.values([part], np.array([self.step, -self.step]))[0]
            numerical = (values[0] - values[1]) / (2 * self.step)
            self.known[windows] = float(self.problem.slopes([part])[0].sum() - numerical)
        return self.known[windows]

    def wrong(self, windows: tuple[Window, ...]) -> bool:
        difference = self.difference(windows)
        return not abs(difference) <= self.tolerance

    def bounds(self, axis: int, others: tuple[Window, ...]) -> tuple[int, int]:
        """The first wrong index along an axis and the one after the last, by halving."""
        extent = self.block.shape[axis]
        low, high = 0, extent  # the smallest stop such that [0, stop) is wrong
        while high - low > 1:
            middle = (low + high) // 2
            if self.wrong((*others, Window(axis=axis, start=0, stop=middle))):
                high = middle
            else:
                low = middle
        first = high - 1
        low, high = first, extent  # the largest start such that [start, extent) is wrong
        while high - low > 1:
            middle = (low + high) // 2
            if self.wrong((*others, Window(axis=axis, start=middle, stop=extent))):
                low = middle
            else:
                high = middle
        return first, low + 1

    def single(self, flat: int) -> tuple[float, float, float]:
        """Analytical, numerical slope along one entry, and the bar: 2 forwards."""
        scale = self.shooter.natural[self.index]
        chosen = Tangent(entries=(Entries(block=self.index, indices=(flat,), values=(scale,)),))
        values = self.problem.values([chosen], np.array([self.step, -self.step]))[0]
        numerical = float((values[0] - values[1]) / (2 * self.step)) / scale
        analytical = float(self.problem.slopes([chosen])[0].sum()) / scale
        return analytical, numerical, self.tolerance / self.shooter.limit / scale


def find_extent(problem: Differentiable, block: int, seed: int) -> Extent:
    """The extent and the pattern of what is wrong in one block."""
    search = _Search(problem, block, seed)
    shape = search.block.shape
    pattern, likely = _whole_pattern(search)
    box = [(0, n) for n in shape]
    if not pattern and shape and np.isfinite(search.step):
        others: tuple[Window, ...] = ()
        for axis in range(len(shape)):
            if shape[axis] > 1:
                box[axis] = search.bounds(axis, others)
                others = (*others, Window(axis=axis, start=box[axis][0], stop=box[axis][1]))
    inside = prod(stop - start for start, stop in box)
    if not pattern and shape and inside == prod(shape):
        pattern, likely = _sliced_pattern(search) or _permuted_pattern(search) or ("", "")
    pattern, likely = (pattern, likely) if pattern else _repeated_pattern(search, box)
    rng = np.random.default_rng(seed)
    wrong, seen, worst = 0, 0, None
    ratios: list[float] = []
    for _ in range(min(SAMPLES, inside)):
        position = tuple(int(rng.integers(start, stop)) for start, stop in box)
        flat = int(np.ravel_multi_index(position, shape)) if shape else 0
        analytical, numerical, bar = search.single(flat)
        seen += 1
        if not abs(analytical - numerical) <= search.shooter.limit * bar:
            wrong += 1
            ratios.append(analytical / numerical if numerical else float("nan"))
            if worst is None or abs(analytical - numerical) > abs(worst[1] - worst[2]):
                worst = (flat, analytical, numerical, bar)
    scattered: list[int] = []
    if worst is None and inside > 1:
        scattered = _scattered(search, box)
        for flat in scattered[:1]:
            worst = (flat, *search.single(flat))
    text, count = _text(shape, box, wrong, seen, scattered)
    if not pattern:
        pattern, likely = _part_pattern(shape, box, count, worst, ratios)
    if worst is None:
        return Extent(text=text, shape=shape, pattern=pattern, likely=likely, count=count)
    name = entry_name(search.block.name, shape, worst[0])
    return Extent(
        text=text,
        shape=shape,
        pattern=pattern,
        likely=likely,
        count=count,
        entry=name,
        index=worst[0],
        analytical=worst[1],
        numerical=worst[2],
        error_bar=worst[3],
    )


def _whole_pattern(search: _Search) -> tuple[str, str]:
    """Patterns that explain all shots at once; they cost (almost) no forwards."""
    shots = [s for s in search.shots if np.isfinite(s.slope.value) and s.slope.value != 0]
    if len(shots) < 2:
        return "", ""
    ratios = np.array([s.analytical / s.slope.value for s in shots])
    bars = np.array([s.error_bar / abs(s.slope.value) for s in shots])
    ratio = float(np.median(ratios))
    if np.all(np.abs(ratios - ratio) <= SAME * max(abs(ratio), 1e-3) + 20 * bars):
        outputs = _output_extents(search)
        return (
            (
                f"analytical = {ratio:.6g} x numerical: dividing the block by {ratio:.6g} makes it pass",
                name_ratio(ratio, outputs),
            )
            if abs(ratio) > 1e-9
            else ("analytical is zero", "backward returns zeros")
        )
    if not isinstance(search.problem, Comparable):
        return "", ""
    by_name: dict[str, int] = {}
    for shot in shots:
        for name, share in search.problem.variants(search.index, shot.tangent).items():
            if abs(share - shot.slope.value) <= search.shooter.limit * shot.error_bar:
                by_name[name] = by_name.get(name, 0) + 1
    for name, times in by_name.items():
        if times == len(shots):
            return (
                name,
                f"backward returns the gradient with its {name}"
                if name != "transposed"
                else "a transpose is missing, or one too many",
            )
    return "", ""


def _output_extents(search: _Search) -> dict[int, str]:
    """What lengths there are around: of the outputs' axes, named, to explain a ratio."""
    named: dict[int, str] = {}
    if isinstance(search.problem, Comparable):
        for axis, name in ((0, "the batch size"), (1, "the length of the second axis")):
            values = search.problem.values_by_slice(search.tangent, np.zeros(1), axis)
            if values is not None:
                named.setdefault(values.shape[1], name)
    return named


def _sliced_pattern(search: _Search) -> tuple[str, str] | None:
    """Does the gradient count only some of the batch? phi split by sample tells at no more cost than phi."""
    if not isinstance(search.problem, Comparable):
        return None
    for axis, what in ((0, "sample"), (1, "position")):
        sums = []
        for shot in search.shots[:2]:
            values = search.problem.values_by_slice(shot.tangent, np.array([search.step, -search.step]), axis)
            if values is None or values.shape[1] < 2:
                break
            sums.append((shot, (values[0] - values[1]) / (2 * search.step)))
        if len(sums) < 2:
            continue
        extent = len(sums[0][1])
        parts = {
            f"only the first {what} counts": slice(0, 1),
            f"only the last {what} counts": slice(extent - 1, extent),
            f"the first {what} is left out": slice(1, extent),
            f"the last {what} is left out": slice(0, extent - 1),
        }
        for name, chosen in parts.items():
            if all(abs(slopes[chosen].sum() - shot.analytical) <= search.tolerance * 4 for shot, slopes in sums):
                return (
                    name,
                    f"a sum over the {'batch' if axis == 0 else 'second axis'} is missing in backward, or takes one slice",
                )
    return None


def _permuted_pattern(search: _Search) -> tuple[str, str] | None:
    """Is each slice of the gradient along some axis another slice of the right one?"""
    shape = search.block.shape
    if not isinstance(search.problem, Comparable):
        return None
    for axis, extent in enumerate(shape):
        if extent < 2 or prod(shape) == extent:
            continue
        moved: dict[int, int] = {}
        for index in sorted({0, extent // 3, extent // 2, extent - 1}):
            window = (Window(axis=axis, start=index, stop=index + 1),)
            part = Tangent(seed=search.tangent.seed, scales=search.tangent.scales, windows={search.index: window})
            numerical = float(search.problem.slopes([part])[0].sum()) - search.difference(window)
            shares = search.problem.slice_shares(search.index, search.tangent, axis, index)
            fits = np.flatnonzero(np.abs(shares - numerical) <= search.tolerance)
            if len(fits) != 1:
                break
            moved[index] = int(fits[0])
        wrong = {index: source for index, source in moved.items() if index != source}
        if not wrong or len(moved) < len({0, extent // 3, extent // 2, extent - 1}):
            continue
        index, source = next(iter(wrong.items()))
        return (
            f"{axis_name(axis, len(shape))} permuted: what belongs to {index} stands in {source}",
            "an index in backward is mapped another way than in forward (h % G for h // G, a permutation for its inverse)",
        )
    return None


def _repeated_pattern(search: _Search, box: list[tuple[int, int]]) -> tuple[str, str]:
    """Are the wrong slices along the first axis just those whose index the inputs repeat?"""
    shape = search.block.shape
    repeated = search.problem.repeated_indices() if isinstance(search.problem, Comparable) else frozenset()
    rows = [k for k in sorted(repeated) if shape and k < shape[0]][:4]
    others = [k for k in range(*box[0]) if k not in repeated][:4] if rows else []

    def wrong(k: int) -> bool:
        return search.wrong((Window(axis=0, start=k, stop=k + 1),))

    if rows and all(map(wrong, rows)) and not any(map(wrong, others)):
        likely = "backward overwrites at a repeated index where it should add (index_add, scatter_add)"
        return "only where an index repeats", likely
    return "", ""


def _scattered(search: _Search, box: list[tuple[int, int]]) -> list[int]:
    """A few wrong entries inside a box of right ones, by halving along each axis."""
    shape = search.block.shape
    todo, budget = [tuple(box)], 64
    found: list[int] = []
    while todo and len(found) < FEW and budget > 0:
        part = todo.pop()
        sizes = [stop - start for start, stop in part]
        if prod(sizes) == 1:
            found.append(int(np.ravel_multi_index([start for start, _ in part], shape)))
            continue
        axis = int(np.argmax(sizes))
        start, stop = part[axis]
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            smaller = tuple(half if a == axis else bounds for a, bounds in enumerate(part))
            budget -= 1
            if search.wrong(tuple(Window(axis=a, start=b[0], stop=b[1]) for a, b in enumerate(smaller))):
                todo.append(smaller)
    return found


def _text(
    shape: tuple[int, ...], box: list[tuple[int, int]], wrong: int, seen: int, scattered: list[int]
) -> tuple[str, int | None]:
    total = prod(shape)
    inside = prod(stop - start for start, stop in box)
    if scattered:
        places = ", ".join(entry_name("", shape, flat) for flat in scattered)
        return (f"{len(scattered)} {'entry' if len(scattered) == 1 else 'entries'}: {places}", len(scattered))
    dense = wrong == seen
    count = inside if dense else None
    share = "" if dense or not seen else f", about {wrong} of {seen} entries there"
    if inside == total:
        return ("all of it" if dense else f"all over it{share}"), count
    if inside == 1:
        return f"one entry: {entry_name('', shape, int(np.ravel_multi_index([b[0] for b in box], shape)))}", 1
    parts = []
    for axis, (start, stop) in enumerate(box):
        if stop - start == shape[axis]:
            continue
        name = axis_name(axis, len(shape))
        parts.append(f"{name} {start}" if stop - start == 1 else f"{name} {start} to {stop - 1}")
    return f"{' of '.join(parts)}{share}", count


def _part_pattern(
    shape: tuple[int, ...],
    box: list[tuple[int, int]],
    count: int | None,
    worst: tuple[int, float, float, float] | None,
    ratios: list[float],
) -> tuple[str, str]:
    """What a part that is wrong is usually called."""
    kind = ""
    if worst is not None:
        _, analytical, numerical, bar = worst
        same = bool(ratios) and bool(np.ptp(ratios) <= 1e-4 * abs(ratios[0]))
        if abs(analytical) <= bar and abs(numerical) > 20 * bar:
            kind = "zero where it is not"
        elif abs(analytical + numerical) <= 20 * bar + 1e-6 * abs(numerical):
            kind = "sign flipped"
        elif numerical and same and (len(ratios) > 1 or count == 1):
            kind = f"analytical = {analytical / numerical:.4g} x numerical"
    if count == 1 or prod(b - a for a, b in box) == 1:
        return (
            f"a single entry, {kind}" if kind else "a single entry"
        ), "an off-by-one in an index, or a special case of one position"
    for axis, (start, stop) in enumerate(box):
        if (stop - start) < shape[axis]:
            what = axis_name(axis, len(shape))
            if stop - start > shape[axis] // 2:
                return kind, "a term of the derivative is missing, or multiplied where it should be added"
            if stop == shape[axis] and start > 0:
                return f"only the last {stop - start} {what}, {kind}".rstrip(
                    ", "
                ), "the last partial block of a loop or kernel is left out"
            if start == 0:
                return f"only the first {stop - start} {what}, {kind}".rstrip(", "), "an overwritten or doubled edge"
            return f"only some {what}, {kind}".rstrip(", "), "one part is mapped to another index in backward"
    return "", "a term of the derivative is missing, or multiplied where it should be added"


def name_ratio(ratio: float, extents: dict[int, str]) -> str:
    """What a constant ratio usually means."""

    def near(value: float) -> bool:
        return abs(ratio - value) <= 1e-4 * abs(value)

    for extent, name in extents.items():
        if extent > 1 and near(float(extent)):
            return f"{name} is {extent}: a sum where a mean was taken in forward, or a division left out"
        if extent > 1 and near(1.0 / extent):
            return f"{name} is {extent}: a mean where a sum was due"
    known = (
        (-1.0, "the sign is flipped: a gradient step would ascend"),
        (2.0, "a factor 2 too much: a term counted twice, or the 2 of a square applied twice"),
        (0.5, "half of it is missing: one of two equal terms, or the 2 of a square"),
        (0.1, "1 - momentum for momentum 0.9: an average's factor applied to the gradient"),
        (0.01, "1 - momentum for momentum 0.99: an average's factor applied to the gradient"),
    )
    for value, text in known:
        if near(value):
            return text
    return "a factor applied twice, or not at all, in backward"
