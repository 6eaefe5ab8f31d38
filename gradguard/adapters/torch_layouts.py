"""The inputs in another memory order: channels last, reversed strides, or contiguous where they were not."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.torch_backwards import Handed, put_back
from gradguard.adapters.torch_cotangents import Experiment, other_layout
from gradguard.adapters.torch_functions import tensors_of
from gradguard.adapters.torch_leaves import differentiable
from gradguard.blocks import Tangent
from gradguard.errors import INTERRUPTS

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["layout_faults"]

SAME = 1e-7
"""Relative difference (float64) that another order of summation explains; native float32: ``SAME_SINGLE``."""
SAME_SINGLE = 3e-3
NUDGE = 2.0**-9
ROUNDINGS = 1e3
"""Layouts may differ by this many times what the last bits of the point change."""


def layout_faults(problem: TorchModuleProblem) -> tuple[tuple[Fault, ...], str]:
    """What changes when every input comes in another memory order; and what could not be tried.

    A difference counts where it is there at a point nearby, too: at a kink, rounding may choose another side.
    """
    problem._ensure()
    if problem.failure is not None:
        return (), problem.failure.detail
    if not _turnable(problem):
        return (), "no floating-point input has a layout"
    if problem.habits.draws:
        return (), "the model draws random numbers, in the order of memory"
    try:
        faults = _compare(problem)
        if not any(not f.harmless for f in faults):
            return tuple(faults), ""
        nudge = Tangent(seed=problem.seed + 77, scales={i: max(rms, 0.1) for i, rms in enumerate(problem._rms)})
        nearby = problem.at(nudge, NUDGE)
        nearby.exchange, nearby.handed = problem.exchange, problem.handed
        nearby._ensure()
        there = {f.what for f in _compare(nearby) if not f.harmless}
        rounding = ROUNDINGS * _conditioned(problem, nearby, nudge)
        return tuple(f for f in faults if f.harmless or (f.what in there and f.size > rounding)), ""
    finally:
        put_back(problem)
        problem.session.reset(problem.habits)


def _compare(problem: TorchModuleProblem) -> list[Fault]:
    known = problem._ensure()
    problem._place(None, 0.0)
    layouts: list[str] = []
    own: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for one in _turnable(problem):
            other = other_layout(one.before.detach())  # what the last call has left in a constant is something else
            layouts.append(_name(one.before, other))
            own[id(one.own)] = other.requires_grad_(one.own.requires_grad)
            stack.enter_context(problem.exchanged(one.own, other))
        try:
            outputs = problem.collect(problem.session.call(problem.call, problem.habits, grad=True))
            problem.counts.forwards += problem.share
            live = [outputs.tensors[i] for i in problem.used]
        except INTERRUPTS:
            raise
        except Exception as error:  # it takes no other layout, and says so
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return [] if _asks(text) else [_refused(layouts[0], f"forward raises {text}")]
        value = problem._difference([t.detach() for t in live], problem._base)
        wanted = [own.get(id(leaf), leaf) for leaf in problem.leaves]
        needed = [w for w in wanted if w.requires_grad]
        problem.counts.backwards += problem.share
        found: list[torch.Tensor | None] = []
        pairs = [(o, v.to(o.dtype)) for o, v in zip(live, problem._cotangents or (), strict=True) if o.requires_grad]
        if pairs and needed and value != float("inf"):
            heads, cotangents = [o for o, _ in pairs], [v for _, v in pairs]
            try:
                with problem.habits.mode(backward=True):
                    found = tensors_of(torch.autograd.grad(heads, needed, cotangents, allow_unused=True))
            except RuntimeError as error:
                return [_refused(layouts[0], f"backward raises {str(error).splitlines()[0]}")]
    single = "float32" in problem.path and problem.path.startswith("native")
    limit = SAME_SINGLE if single else SAME
    faults = []
    if value > limit:
        detail = f"the value differs by {value:.2g}"
        faults.append(Fault(kind="layout", what=layouts[0], size=value, limit=limit, detail=detail))
    compare = Experiment([])
    base = [g for g, w in zip(known, wanted, strict=True) if w.requires_grad]
    names = [b.name for b, w in zip(problem.blocks, wanted, strict=True) if w.requires_grad]
    if compare.of(found, base)[0] <= limit:
        return faults
    for name, a, b in zip(names, found, base, strict=True):
        size = compare.of([a], [b])[0]
        if size > limit and not _rounding(b, base):
            faults.append(Fault(kind="layout", what=layouts[0], block=name, size=size, limit=limit))
    return faults


def _conditioned(problem: TorchModuleProblem, nearby: TorchModuleProblem, nudge: Tangent) -> float:
    """What value and gradient change by, relative, when the last bits of a point nearby do: in a chaotic model, a lot."""
    bits = 2.0**-50 if problem.session.lift or problem.path == "float64" else 2.0**-21
    other = problem.at(nudge, NUDGE + bits)
    change = Experiment([]).of(other._ensure(), nearby._ensure())[0]
    return max(problem._difference(other._base, nearby._base), change)


def _refused(what: str, detail: str) -> Fault:
    return Fault(kind="refused", what=what, detail=detail, harmless=True)


def _turnable(problem: TorchModuleProblem) -> list[Handed]:
    """The inputs that can come in another layout, each once; those that share their memory with others keep it."""
    inputs = {id(h.own): h for h in problem.handed if _able(h.before)}
    places = Counter(h.own.untyped_storage().data_ptr() for h in inputs.values())
    return [h for h in inputs.values() if places[h.own.untyped_storage().data_ptr()] == 1 or not h.own.numel()]


def _able(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a layout that can be another one."""
    return differentiable(tensor) and tensor.layout == torch.strided and tensor.dim() > 0


def _rounding(one: torch.Tensor | None, others: list[torch.Tensor | None]) -> bool:
    """A gradient that is nothing but rounding of the others."""
    size = max((float(g.abs().max()) for g in others if g is not None and g.numel()), default=0.0)
    return one is not None and one.numel() > 0 and float(one.abs().max()) < 1e-10 * size


def _asks(text: str) -> bool:
    """``view`` on memory of another order raises: the function says itself that it wants contiguous inputs."""
    return "view size is not compatible" in text or "contiguous" in text


def _name(own: torch.Tensor, other: torch.Tensor) -> str:
    if other.is_contiguous():
        return "contiguous"
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if other.dim() in formats and other.is_contiguous(memory_format=formats[other.dim()]):
        return "channels_last"
    return "in another memory order"
