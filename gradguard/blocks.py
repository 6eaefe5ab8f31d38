"""Blocks, their entries, and directions described rather than stored.

A *block* is one parameter tensor or one input. A *tangent* is a direction in the space of all blocks; it crosses
the seam between engine and framework as a description (a seed, a scale per block, chosen entries), so that the same
engine serves three parameters and a hundred million.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gradguard.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Block",
    "Entries",
    "Tangent",
    "Window",
    "axis_name",
    "draw",
    "entry_name",
    "matching",
    "nearest",
    "select_blocks",
    "window_slices",
]

SIGNIFICANT = 64
"""Magnitudes are m / 64 with 32 <= m < 96: 7 significant bits, so that x + t u adds almost no representation error."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One parameter tensor or one input.

    ``name`` is the name that the user knows it by, ``dtype`` its dtype before any lifting, ``module`` the path of the
    module that owns it (``""`` for the root, ``None`` where there is no module), ``owner`` that module's class.
    ``excluded`` says why it is not compared, where its gradient is declared to be something else than the derivative.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = "parameter"
    module: str | None = None
    owner: str = ""
    excluded: str = ""

    @property
    def size(self) -> int:
        """The number of entries."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Chosen entries of one block: flat indices (n,), and the tangent's values there (n,)."""

    block: int
    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Part of a block: the indices from ``start`` up to ``stop`` along one axis."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Tangent:
    """A direction u in the space of all blocks.

    Either ``scales`` (block index -> scale; the block's entries are random signs times magnitudes in [0.5, 1.5) times
    the scale, drawn from ``seed``), or ``entries`` (sparse), or both. ``relative`` multiplies each entry by
    ``|x| / rms(x)``, at most 1 and at least ``relative`` itself: for functions such as log and sqrt near 0, whose scale
    differs by entry. With 0.0 the entries that are 0 hold still, as at the edge of such a function's domain.
    ``windows`` restricts a block's random part to where all of its windows meet; the entries there stay the same, so that
    the slopes along the parts of a tangent add up to its own.
    """

    seed: int = 0
    scales: Mapping[int, float] = field(default_factory=dict)
    entries: tuple[Entries, ...] = ()
    relative: float | None = None
    windows: Mapping[int, tuple[Window, ...]] = field(default_factory=dict)

    @property
    def blocks(self) -> frozenset[int]:
        """The indices of the blocks that this tangent moves."""
        return frozenset(self.scales) | frozenset(chosen.block for chosen in self.entries)

    def times(self, factor: float) -> Tangent:
        """factor * u; a power of two keeps its entries exact."""
        return replace(
            self,
            scales={block: scale * factor for block, scale in self.scales.items()},
            entries=tuple(replace(one, values=tuple(v * factor for v in one.values)) for one in self.entries),
        )


def draw(seed: int, block: int, size: int) -> NDArray[np.int8]:
    """The integer pattern of one block's tangent: random signs times integers in [32, 96), shape (size,).

    The value of an entry is ``pattern / 64 * scale``. Counter-based (Philox), keyed by seed and block, so that a block
    can be drawn again without drawing those before it.
    """
    import numpy as np

    generator = np.random.Generator(np.random.Philox(key=[seed % 2**64, block]))
    # One byte an entry: six bits choose the magnitude, one the sign.
    raw = np.frombuffer(generator.bytes(size), dtype=np.uint8)
    pattern = (raw & 63).view(np.int8)
    pattern += 32
    np.negative(pattern, out=pattern, where=(raw & 64) != 0)
    return pattern


def window_slices(windows: Iterable[Window], dimensions: int) -> tuple[slice, ...]:
    """The index that selects where all windows meet, for a block with that many axes."""
    low, high = [0] * dimensions, [2**62] * dimensions
    for window in windows:
        low[window.axis] = max(low[window.axis], window.start)
        high[window.axis] = min(high[window.axis], window.stop)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def axis_name(axis: int, dimensions: int) -> str:
    """What the slices along an axis are called: rows and columns are the last two axes, entries those of a vector."""
    if dimensions == 1:
        return "entries"
    return {dimensions - 1: "columns", dimensions - 2: "rows"}.get(axis, f"slices of axis {axis}")


def entry_name(name: str, shape: Sequence[int], index: int) -> str:
    """``fc1.weight[0, 3]`` for a flat index; just the name for a scalar."""
    if not shape:
        return name
    position: list[int] = []
    for extent in reversed(shape):
        index, here = divmod(index, extent)
        position.append(here)
    return f"{name}[{', '.join(str(i) for i in reversed(position))}]"


def matching(name: str, patterns: Iterable[str]) -> bool:
    """Whether a block's name matches one of the globs (case-sensitive; ``*`` matches dots and brackets too).

    Square brackets are literal when the pattern equals the name: ``input[0]`` names that block.
    """
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def nearest(word: str, words: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of ``words``, or nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def select_blocks(names: Sequence[str], wrt: Iterable[str] | str | None) -> list[str]:
    """The names that the globs ``wrt`` choose, in their own order; a glob that matches nothing is an error."""
    if wrt is None:
        return list(names)
    patterns = [wrt] if isinstance(wrt, str) else list(wrt)
    for pattern in patterns:
        if not isinstance(pattern, str):
            got = type(pattern).__name__
            raise UsageError(f"wrt takes globs over block names, got {got}", todo="for example wrt='encoder.*'")
        if not any(matching(name, [pattern]) for name in names):
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UsageError(
                f"wrt={pattern!r} matches no block.{nearest(pattern, names)}",
                where=f"the blocks are: {shown or 'none'}",
                todo="name a block, or a glob over block names",
            )
    return [name for name in names if matching(name, patterns)]
