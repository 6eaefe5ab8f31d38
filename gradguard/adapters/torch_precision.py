"""The native gradient, in the precision that the user trains in, against the lifted one; and what rounding explains of it.

A faithful low-precision implementation computes each operation and rounds its result. So the lifted model is run once more
with the result of every operation rounded to the native precision, up or down at random: the error of that gradient is
what rounding explains, whatever the sizes, the depth and the cancellations of the model. It is only asked for where the
error is too large to need no explanation. (Stochastic arithmetic: J. Vignes, Math. Comput. Simul. 35 (1993).) What is not
explained so may still be the doing of torch's kernels: only what is left with faithful ones is the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradguard.adapters.precision_base import PLAIN, BlockPrecision, PrecisionFacts
from gradguard.adapters.torch_backwards import put_back
from gradguard.adapters.torch_kernels import FaithfulKernels
from gradguard.adapters.torch_leaves import dtype_name, own_copy
from gradguard.adapters.torch_lift import LiftMode
from gradguard.adapters.torch_placement import real_view
from gradguard.adapters.torch_problem import TorchProblem

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["native_gradients", "precision_facts"]

ORDER = [torch.float16, torch.bfloat16, torch.float32]
"""Low precisions; the one that comes first decides what rounding is allowed for."""
REAL = {torch.complex64: torch.float32, torch.complex32: torch.float16}
SAMPLES = 4
NEARBY = 3
NUDGE = 2.0**-6
NOTHING = 1e-9
"""Share of the largest block's gradient below which a block's is nothing but rounding."""

Gradients = list[torch.Tensor | None]


class Lowest(TorchDispatchMode):
    """Notes the precisions of all results in a pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.seen.add(REAL.get(value.dtype, value.dtype))
        return result


class RoundMode(LiftMode):
    """Lifted, with operands and results of every operation rounded to a low precision, up or down at random."""

    def __init__(self, low: torch.dtype, seed: int, drawn: torch.dtype | None = None) -> None:
        super().__init__(drawn)
        self.low = low
        self.generator = torch.Generator().manual_seed(seed)
        self.epsilon = torch.finfo(low).eps

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if any(r.alias_info is not None for r in func._schema.returns):
            return result
        if isinstance(result, tuple):
            return tuple(self._round(r) for r in result)
        return self._round(result)

    def _in(self, value: Any) -> Any:
        # Casts (autocast's) do not happen on float64: operands are rounded where they are used.
        return self._round(super()._in(value))

    def _round(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
            return value
        if value.layout != torch.strided or not value.numel():
            return value
        low = value.to(self.low)
        rounded = low.to(torch.float64)
        # What is exact stays exact: masks, counts, positions.
        inexact = (rounded != value) & torch.isfinite(rounded)
        shift = (torch.rand(value.shape, generator=self.generator, dtype=torch.float64) - 0.5).to(value.device) * self.epsilon
        other = (value * (1 + shift)).to(self.low).to(torch.float64)
        return torch.where(inexact & torch.isfinite(other), other, rounded)


def precision_facts(problem: TorchModuleProblem, reference: Any = None) -> PrecisionFacts | str:
    """One native pass beside the lifted gradient; more where the error is not explained by its size."""
    if problem.failure is not None:
        return problem.failure.detail
    if not problem.session.lift:
        return "float64 is refused, so that the native gradient has nothing to be compared with"
    if not problem.path.startswith("lifted") and not problem.habits.lift_forward and not problem.habits.lift_backward:
        return "everything is computed in float64"
    try:
        return _facts(problem, reference)
    except RuntimeError as error:
        return f"the native pass raised {type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        put_back(problem)
        problem.session.reset(problem.habits)


def _facts(problem: TorchModuleProblem, reference: Any) -> PrecisionFacts | str:
    lifted = problem._ensure()
    outputs, native, low = native_pass(problem, problem.originals)
    if low is None:
        low = torch.float64  # only backward casts
    name = dtype_name(low)
    lost = sum(int((torch.isfinite(b) & ~torch.isfinite(o)).sum()) for o, b in zip(outputs, problem._base, strict=True))
    value = problem._difference(outputs, problem._base) if not lost else float("inf")
    plain = PLAIN[name]
    names = [block.name for block in problem.blocks]
    if reference and len(reference) == len(names) and not set(reference) & set(names):
        reference = dict(zip(names, reference.values(), strict=True))  # another function's names of the same arguments
    blocks = [_block(problem, i, g, h, reference) for i, (g, h) in enumerate(zip(native, lifted, strict=True))]
    largest = max((b.size for b in blocks), default=0.0)
    floor = 10 * torch.finfo(low).eps * largest
    # A gradient that is zero but for rounding (a key's bias in attention) has no size of its own.
    blocks = [replace(b, rounding=floor) if b.size <= NOTHING * largest else b for b in blocks]
    suspects = [
        i for i, b in enumerate(blocks)
        if not b.nonfinite and b.error > plain * b.size and not (b.size <= NOTHING * largest and b.error <= floor)
    ]
    if suspects and problem.habits.draws and value > 4 * plain:
        return PrecisionFacts(dtype=name, value_error=value, value_nonfinite=lost, drawn=True)
    if suspects:
        _explain(problem, blocks, suspects, low, lifted)
    return PrecisionFacts(dtype=name, blocks=tuple(blocks), value_error=value, value_nonfinite=lost)


def _explain(
    problem: TorchModuleProblem, blocks: list[BlockPrecision], suspects: list[int], low: torch.dtype, lifted: Gradients
) -> None:
    """What rounding explains; and, where it does not, whether the error is there at points nearby."""
    rounding = [b.rounding if b.rounding == b.rounding else 0.0 for b in blocks]
    for sample in range(SAMPLES):
        rounded = rounded_gradients(problem, problem.originals, low, problem.seed + sample)
        for i in suspects:
            rounding[i] = max(rounding[i], apart(rounded[i], lifted[i]))
    for i in suspects:
        blocks[i] = replace(blocks[i], rounding=rounding[i])
    left = [i for i in suspects if blocks[i].error > FAITHFUL * rounding[i]]
    if left:
        _, faithful, _ = native_pass(problem, problem.originals, faithful=True)
        for i in left:
            error = apart(faithful[i], lifted[i])
            if error < blocks[i].error:
                blocks[i] = replace(blocks[i], error=error, kernels=blocks[i].error)
        left = [i for i in left if blocks[i].error > FAITHFUL * rounding[i]]
    for k in range(NEARBY if left else 0):
        originals = nearby(problem, problem.seed + 100 + k)
        other = moved_problem(problem, originals)
        there = other._ensure()
        _, native, _ = native_pass(problem, originals, faithful=True)
        rounded = rounded_gradients(problem, originals, low, problem.seed + 50 + k)
        for i in left:
            error, size = apart(native[i], there[i]), norm(there[i])
            if error <= max(FAITHFUL * apart(rounded[i], there[i]), PLAIN[dtype_name(low)] * size):
                blocks[i] = replace(blocks[i], persistent=False)


FAITHFUL = 10.0
"""An error counts from this many times what rounding explains."""


def _block(
    problem: TorchModuleProblem, i: int, g: torch.Tensor | None, h: torch.Tensor | None, reference: Any
) -> BlockPrecision:
    block = problem.blocks[i]
    columns: dict[str, Any] = {"block": block.name, "shape": block.shape, "module": block.module or ""}
    if g is None or h is None:
        return BlockPrecision(**columns, error=norm(h) if g is None else 0.0, size=norm(h), missing=g is None and h is not None)
    bad = (torch.isfinite(real_view(h)) & ~torch.isfinite(real_view(g))).reshape(-1)
    first = int(torch.nonzero(bad)[0]) // (2 if h.is_complex() else 1) if bool(bad.any()) else 0
    plain = (reference or {}).get(block.name)
    return BlockPrecision(
        **columns, error=apart(g, h), size=norm(h), nonfinite=int(bad.sum()), first=first,
        reference=apart(plain, h) if plain is not None and plain.shape == h.shape else None,
    )


def native_pass(
    problem: TorchModuleProblem, originals: Sequence[torch.Tensor], *, faithful: bool = False
) -> tuple[list[torch.Tensor], Gradients, torch.dtype | None]:
    """Outputs, gradients and the lowest precision of one pass in the user's own precision, nothing lifted.

    ``faithful``: with kernels whose only error is the rounding of their results.
    """
    problem.session.reset(problem.habits)
    kernels = FaithfulKernels() if faithful else nullcontext()
    with unlifted(problem, originals) as leaves, torch.enable_grad(), kernels:
        lowest = Lowest()
        with lowest:
            outputs = problem.collect(problem.call())
        live = [outputs.tensors[i] for i in problem.used]
        pairs = [(o, v.to(o.dtype)) for o, v in zip(live, problem._cotangents or (), strict=True) if o.requires_grad]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if pairs and wanted:
            found = torch.autograd.grad([o for o, _ in pairs], wanted, [v for _, v in pairs], allow_unused=True)
    problem.counts.forwards += problem.share
    problem.counts.backwards += problem.share
    each = iter(found)
    gradients = [next(each) if leaf.requires_grad else None for leaf in leaves]
    low = next((dtype for dtype in ORDER if dtype in lowest.seen), None)
    return [o.detach().clone() for o in live], [_dense(g) for g in gradients], low


def native_gradients(problem: TorchModuleProblem) -> dict[str, torch.Tensor]:
    """The gradients of a problem that is not lifted, by block name."""
    return {b.name: g.double() for b, g in zip(problem.blocks, problem._ensure(), strict=True) if g is not None}


@contextmanager
def unlifted(problem: TorchModuleProblem, originals: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Parameters, buffers and inputs in the user's own precision; yields the leaf of each block."""
    session = problem.session
    kept = [(t, t.data) for t, _ in session._data]
    place = {id(leaf): original for leaf, original in zip(problem.leaves, originals, strict=True)}
    leaves = list(problem.leaves)
    with ExitStack() as stack:
        try:
            for tensor, data in session._data:
                tensor.data = place.get(id(tensor), data).to(data.dtype).clone()
            for own, user in problem.natives:
                native = own_copy(user, user.dtype)
                if id(own) in place:
                    native.copy_(place[id(own)])
                    native.requires_grad_(own.requires_grad)
                stack.enter_context(problem.exchanged(own, native))
                leaves = [native if leaf is own else leaf for leaf in leaves]
            yield leaves
        finally:
            for tensor, data in kept:
                tensor.data = data


def moved_problem(problem: TorchModuleProblem, originals: Sequence[torch.Tensor]) -> TorchProblem:
    """The lifted problem at other values of the blocks, with the same cotangent."""
    other = TorchProblem(
        problem.call, problem.blocks, problem.leaves, problem.session, originals=originals, seed=problem.seed,
        path=problem.path, where=problem.where, counts=problem.counts, share=problem.share, scalar=problem.scalar,
    )
    other.session.moved.update(id(leaf) for leaf in problem.leaves)
    return other


def nearby(problem: TorchModuleProblem, seed: int) -> list[torch.Tensor]:
    """Values of the blocks a little way off, exact in the native precision."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for original, rms in zip(problem.originals, problem._rms, strict=True):
        values = real_view(original).detach().to("cpu", torch.float64)
        moved = values + NUDGE * max(rms, 1e-3) * torch.randn(values.shape, generator=generator, dtype=torch.float64)
        low = torch.view_as_complex(moved) if original.is_complex() else moved
        result.append(low.to(original.device, original.dtype))
    return result


def rounded_gradients(
    problem: TorchModuleProblem, originals: Sequence[torch.Tensor], low: torch.dtype, seed: int
) -> Gradients:
    """The lifted gradient with every operation's result rounded."""
    put_back(problem)
    problem.session.moved.update(id(leaf) for leaf in problem.leaves)
    with torch.no_grad():
        for leaf, original in zip(problem.leaves, originals, strict=True):
            leaf.data.copy_(original)
    problem.session.reset(problem.habits)
    mode = RoundMode(low, seed, problem.session.drawn)
    with torch.enable_grad(), mode:
        outputs = problem.collect(problem.call())
        live = [outputs.tensors[i] for i in problem.used]
        pairs = [(o, v.to(o.dtype)) for o, v in zip(live, problem._cotangents or (), strict=True) if o.requires_grad]
        wanted = [leaf for leaf in problem.leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [v for _, v in pairs], allow_unused=True))
    problem.counts.forwards += problem.share
    problem.counts.backwards += problem.share
    return [_dense(next(found)) if leaf.requires_grad else None for leaf in problem.leaves]


def _dense(g: torch.Tensor | None) -> torch.Tensor | None:
    if g is None:
        return None
    g = g.detach()
    return g if g.layout == torch.strided else g.to_dense()


def norm(g: torch.Tensor | None) -> float:
    """The 2-norm over the finite entries, in float64."""
    if g is None or not g.numel():
        return 0.0
    values = real_view(g).double()
    return float(torch.linalg.vector_norm(torch.where(torch.isfinite(values), values, torch.zeros_like(values))))


def apart(a: torch.Tensor | None, b: torch.Tensor | None) -> float:
    """||a - b|| over the entries where both are finite; None is zero."""
    if a is None or b is None:
        return norm(a if b is None else b)
    x, y = real_view(a).double(), real_view(b).double()
    both = torch.isfinite(x) & torch.isfinite(y)
    return float(torch.linalg.vector_norm(torch.where(both, x - y, torch.zeros_like(x))))
