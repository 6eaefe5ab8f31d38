"""Inputs on purpose, for Hypothesis: the values, sizes and layouts at which gradients are wrong.

    @gradguard.given(x=strategies.arrays(block=4))
    def test_kernel(x):
        gradguard.check_gradients(kernel, x, vjp=kernel_vjp).raise_if_failed()

A wrong backward is shrunk to a small shape and simple values; where a zero or a tie is left, it matters. ``given`` draws the
same examples in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from gradguard.errors import UsageError

__all__ = ["arrays", "broadcastable", "given", "indices", "matmul_shapes", "shapes", "sizes", "tensors", "values"]

Shape = tuple[int, ...]
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "channels_last")


def given(*arguments: Any, max_examples: int = 50, **named: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Hypothesis' ``given``, with the same examples in every run, no deadline, and nothing written to disk.

    Args:
        arguments: strategies for positional parameters.
        max_examples: how many inputs are tried.
        named: strategies by parameter name.

    Raises:
        UsageError: an argument is no strategy.
    """
    for name, one in [*((f"argument {i}", a) for i, a in enumerate(arguments)), *named.items()]:
        if not isinstance(one, st.SearchStrategy):
            raise UsageError(
                f"given: {name} is a {type(one).__name__}, not a strategy", todo="for example given(x=strategies.arrays())"
            )
    fixed = settings(
        max_examples=max_examples, derandomize=True, deadline=None, database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        drawn = hypothesis_given(*arguments, **named)(test)  # type: ignore[no-untyped-call]  # untyped for keywords
        decorated: Callable[..., Any] = fixed(drawn)
        return decorated

    return decorate


def sizes(block: int | None = None, *, empty: bool = False) -> st.SearchStrategy[int]:
    """An extent: 1, 2, 3, and one less, as many and one more than a block of a kernel; 0 where ``empty``."""
    chosen = [1, 2, 3, 5]
    if block is not None:
        if block < 1:
            raise UsageError(
                f"block is a positive number of entries, got {block}", todo="the kernel's block size, such as block=64"
            )
        chosen += [block - 1, block, block + 1, 2 * block + 1]
    if empty:
        chosen.append(0)
    return st.sampled_from(sorted({n for n in chosen if n > 0 or empty}))


@st.composite
def shapes(
    draw: st.DrawFn, *, min_dims: int = 1, max_dims: int = 3, block: int | None = None, empty: bool = False
) -> Shape:
    """A shape: a batch of 1, 2 or 3 first, then extents from :func:`sizes`."""
    dims = draw(st.integers(min_dims, max_dims))
    batch = draw(st.sampled_from([1, 2, 3])) if dims > 1 else None
    rest = tuple(draw(sizes(block, empty=empty)) for _ in range(dims - (batch is not None)))
    return (batch, *rest) if batch is not None else rest


@st.composite
def broadcastable(draw: st.DrawFn, count: int = 2, *, max_dims: int = 3, block: int | None = None) -> tuple[Shape, ...]:
    """Shapes that belong together: each is the full shape with some extents 1, or some leading ones left out."""
    full = draw(shapes(max_dims=max_dims, block=block))
    result = [full]
    for _ in range(count - 1):
        kept = tuple(draw(st.sampled_from([n, 1])) for n in full)
        result.append(kept[draw(st.integers(0, len(full) - 1)) :])
    return tuple(draw(st.permutations(result)))


@st.composite
def matmul_shapes(draw: st.DrawFn, *, block: int | None = None) -> tuple[Shape, Shape]:
    """Shapes (..., n, k) and (..., k, m) of a matrix product, with a batch axis that is there, 1, or missing."""
    n, k, m = (draw(sizes(block)) for _ in range(3))
    batches: list[tuple[Shape, Shape]] = [((), ()), ((2,), (2,)), ((1,), (3,)), ((3,), ())]
    left, right = draw(st.sampled_from(batches))
    return (*left, n, k), (*right, k, m)


def values(
    *, thresholds: Sequence[float] = (), zeros: bool = True, low: float = -4.0, high: float = 4.0
) -> st.SearchStrategy[float]:
    """One value: simple ones, exact zeros, thresholds with their neighbours below and above, and any in between."""
    simple = [v for v in (1.0, 2.0, 0.5, -1.0, -0.5, -2.0) if low <= v <= high]
    if zeros and low <= 0.0 <= high:
        simple += [0.0, -0.0]
    for t in thresholds:
        simple += [t, float(np.nextafter(t, np.inf)), float(np.nextafter(t, -np.inf)), t + 1e-6, t - 1e-6]
    eighths = st.integers(int(8 * low), int(8 * high)).map(lambda n: n / 8 if zeros or n else 1.0)
    return st.one_of(st.sampled_from(simple), eighths)


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    *,
    dtype: Any = np.float64,
    block: int | None = None,
    thresholds: Sequence[float] = (),
    zeros: bool = True,
    layouts: bool = True,
    empty: bool = False,
) -> NDArray[Any]:
    """A NumPy array with exact zeros, ties and thresholds, in one of several memory layouts.

    ``shape``: fixed, or a strategy; without it, one from :func:`shapes`. Ties come from entries drawn from few values.
    """
    if shape is None:
        shape = shapes(block=block, empty=empty)
    wanted = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    each = values(thresholds=thresholds, zeros=zeros)
    distinct = int(np.prod(wanted))
    if draw(st.booleans()):  # ties: all from one or two values
        pool = draw(st.lists(each, min_size=1, max_size=2))
        found = draw(npst.arrays(np.float64, wanted, elements=st.sampled_from(pool)))
    else:  # no two the same, so that a fault at a single entry is not hidden by symmetry
        found = draw(npst.arrays(np.float64, wanted, elements=each)) + np.arange(distinct).reshape(wanted) / 64
    layout = draw(st.sampled_from(LAYOUTS[:3])) if layouts else "contiguous"
    return laid_out(found.astype(dtype), layout)


def laid_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """The same values with other strides."""
    if layout == "transposed" and array.ndim >= 2:
        return np.ascontiguousarray(array.T).T
    if layout == "strided" and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), dtype=array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return np.ascontiguousarray(array).reshape(array.shape)


@st.composite
def indices(draw: st.DrawFn, high: int, shape: Shape | st.SearchStrategy[Shape] = (4,)) -> NDArray[np.int64]:
    """Integers from 0 to ``high`` - 1, with repeated ones on purpose."""
    wanted = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    if draw(st.booleans()):
        return np.full(wanted, draw(st.integers(0, high - 1)), dtype=np.int64)
    return draw(npst.arrays(np.int64, wanted, elements=st.integers(0, high - 1)))


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    *,
    dtypes: Sequence[str] = ("float64",),
    block: int | None = None,
    thresholds: Sequence[float] = (),
    zeros: bool = True,
    layouts: bool = True,
    empty: bool = False,
    requires_grad: bool = True,
) -> Any:
    """A torch tensor as :func:`arrays` draws them; expanded and channels_last are among its layouts.

    ``dtypes``: names of torch dtypes to choose from.
    """
    from gradguard.adapters.torch_variants import tensor_of

    array = draw(arrays(shape, block=block, thresholds=thresholds, zeros=zeros, layouts=False, empty=empty))
    layout = draw(st.sampled_from(LAYOUTS)) if layouts else "contiguous"
    return tensor_of(array, draw(st.sampled_from(list(dtypes))), layout, requires_grad=requires_grad)
