"""Custom functions whose forward is a staircase: their derivative is 0, so a backward that is not 0 is meant as a surrogate.

Rounding, sign, spikes, binary weights: Bengio et al. 2013 (arXiv:1308.3432, the straight-through estimator), Neftci et al. 2019
(arXiv:1901.09948, surrogate gradients). With such a function replaced by what its backward says, f(x0) + J (x - x0), the
rest of the model has a derivative that can be compared again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.torch_leaves import differentiable
from gradguard.adapters.torch_session import RandomState
from gradguard.adapters.torch_stairs import SameStairs, groupings, same
from gradguard.errors import INTERRUPTS

__all__ = ["Surrogate", "surrogate_of"]

EVERYWHERE = 3
"""Points besides the given one at which the function must be locally constant, too: a clipped value is so at one."""
Function = type[torch.autograd.Function]
Compared = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], bool]


@dataclass(frozen=True)
class Surrogate:
    """One call: which arguments carry a gradient, their values at the point, and the graph of the call on them."""

    places: tuple[int, ...]
    points: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    result: Any
    """What the call returned: its outputs, and whatever else (codes, masks), which carries no gradient."""

    def fits(self, args: Sequence[Any]) -> bool:
        """Whether a call of another pass has the same shapes."""
        return max(self.places) < len(args) and all(
            isinstance(args[i], torch.Tensor) and args[i].shape == point.shape and args[i].dtype == point.dtype
            for i, point in zip(self.places, self.points, strict=True)
        )

    def __call__(self, args: Sequence[Any]) -> Any:
        """f(x0) + J (x - x0), whose backward is that of the function at x0."""
        found: tuple[torch.Tensor, ...] = _Linear.apply(self, *(args[i] for i in self.places))  # type: ignore[no-untyped-call]  # torch's own
        if not isinstance(self.result, tuple):
            return found[0]
        made = iter(found)
        return tuple(next(made) if carries(part) else part for part in self.result)

    def back(self, cotangents: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
        """J^T g."""
        with torch.enable_grad():
            return torch.autograd.grad(self.outputs, self.points, list(cotangents), retain_graph=True, allow_unused=True)

    def forth(self, moved: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """J d: the gradient of <J^T g, d> with respect to g; where backward has no derivative, from its diagonal.

        Raises:
            RuntimeError: backward can be differentiated no more, and does not act entry by entry.
        """
        with torch.enable_grad(), as_it_is():
            g = [torch.zeros_like(o, requires_grad=True) for o in self.outputs]
            try:
                back = torch.autograd.grad(self.outputs, self.points, g, create_graph=True, allow_unused=True)
                pairs = [(b, d) for b, d in zip(back, moved, strict=True) if b is not None and b.requires_grad]
                ends, along = [b for b, _ in pairs], [d for _, d in pairs]
                found = torch.autograd.grad(ends, g, along, allow_unused=True) if pairs else ()
            except INTERRUPTS:
                raise
            except RuntimeError:
                found = ()
        if any(f is not None for f in found):
            return [torch.zeros_like(o) if f is None else f for f, o in zip(found, self.outputs, strict=True)]
        return [self._diagonal() * moved[0]]  # once_differentiable leaves no trace of g

    def _diagonal(self) -> torch.Tensor:
        if len(self.points) != 1 or len(self.outputs) != 1 or self.points[0].shape != self.outputs[0].shape:
            raise RuntimeError("the backward cannot be applied forwards")
        (diagonal,) = self.back([torch.ones_like(self.outputs[0])])
        some = _drawn(self.outputs[0], 11)
        (other,) = self.back([some])
        if diagonal is None or other is None or not torch.allclose(other, diagonal * some, rtol=1e-5, atol=0.0):
            raise RuntimeError("the backward cannot be applied forwards")
        return diagonal


class _Linear(torch.autograd.Function):
    """A surrogate as the function that its backward belongs to."""

    @staticmethod
    def forward(ctx: Any, kept: Surrogate, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.kept = kept
        steps = kept.forth([a.detach() - p.detach() for a, p in zip(args, kept.points, strict=True)])
        return tuple(o.detach() + step for o, step in zip(kept.outputs, steps, strict=True))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, *ctx.kept.back(cotangents))


def surrogate_of(function: Function, args: Sequence[Any]) -> Surrogate | None:
    """The call as a surrogate; None where some argument with a gradient changes the outputs smoothly.

    What the function draws at random is drawn as it would be without this.
    """
    places = tuple(i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.requires_grad and differentiable(a))
    if not places or function is _Linear:
        return None
    state = RandomState()
    try:
        if not any(_staircase(function, args, i, state) for i in places):
            return None
        own = list(args)
        for i in places:
            own[i] = args[i].detach().clone().requires_grad_(True)
        with torch.enable_grad(), as_it_is():
            given = [a.clone() if i in places else a for i, a in enumerate(own)]  # it may change them in place
            result = function.apply(*given)
        outputs = tuple(part for part in _parts(result) if carries(part))
        if not outputs:
            return None
        found = Surrogate(places, tuple(own[i] for i in places), outputs, result)
        found.forth([_drawn(p, 7) for p in found.points])
        return found
    except INTERRUPTS:
        raise
    except Exception:  # it refuses other values or a second call: then it is judged as any other
        return None
    finally:
        state.restore()


def _staircase(function: Function, args: Sequence[Any], place: int, state: RandomState) -> bool:
    """Whether the outputs stay what they are for small moves of an argument, here and elsewhere, and change for large ones.

    So do the outputs in units of their step size, where that is taken from the argument (dynamic quantisation, binary weights).
    """
    x: torch.Tensor = args[place].detach()
    if not x.numel():
        return False
    scale = float(x.abs().square().mean().sqrt()) or 1.0
    small = scale * math.sqrt(torch.finfo(x.dtype).eps)

    def at(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state.restore()
        given = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
        given[place] = value.clone()
        with torch.no_grad():
            return tuple(part for part in _parts(function.apply(*given)) if differentiable(part))

    def level(points: Sequence[torch.Tensor], near: Compared, far: Compared) -> bool:
        if not near(here, beside):
            return False
        still = all(near(at(p), at(p + sign * small * _drawn(x, 5))) for p in (x, *points) for sign in (1.0, -1.0))
        return still and not all(far(here, at(p)) for p in points)

    here = at(x)
    if not here:
        return False
    beside = at(x + small * _drawn(x, 5))
    try:
        points = [x + scale * 2.0 ** (k - 1) * _drawn(x, k) for k in range(EVERYWHERE)]
        for p in points:
            at(p)
    except INTERRUPTS:
        raise
    except Exception:  # it takes numbers of a range only (probabilities): those that there are, in other places
        points = [_shuffled(x, k) for k in range(EVERYWHERE)]
    if level(points, same, same):
        return True
    # a shift and a scale of each feature, as a normalisation has, are no step sizes: stairs are made entry by entry
    return all(o.shape == x.shape for o in here) and any(
        level(points, SameStairs(grouping), SameStairs(grouping, turned=True)) for grouping in groupings(x.shape)
    )


def as_it_is() -> torch.autograd.graph.saved_tensors_hooks:
    """What is saved is kept, also within a checkpoint, which would make it again."""
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


def carries(part: Any) -> bool:
    """Whether a part of a result is a tensor with a graph."""
    return isinstance(part, torch.Tensor) and part.requires_grad


def _parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _shuffled(x: torch.Tensor, seed: int) -> torch.Tensor:
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(seed))
    return x.reshape(-1)[order].reshape(x.shape)


def _drawn(like: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
