"""Forward mode against reverse mode: <J u, v> = <u, J' v>, to rounding, for custom functions that define both.

Each is asked alone, on the arguments that it had in the whole. torch's own formulas are not ours to test.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.torch_leaves import differentiable
from gradguard.adapters.torch_nodes import NodeCall, record_nodes
from gradguard.adapters.torch_placement import real_view
from gradguard.blocks import SIGNIFICANT, draw
from gradguard.errors import INTERRUPTS

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["forward_mode_faults"]

LIMIT = {True: 1e-9, False: 1e-3}
"""Allowed difference, relative to the sum of the products' magnitudes: in float64, and below it."""


def forward_mode_faults(problem: TorchModuleProblem) -> tuple[tuple[Fault, ...], int, str]:
    """The functions whose two modes disagree, how many were compared, and why the others were not."""
    calls = [call for call in record_nodes(problem) if _defines_jvp(call.function)]
    if not calls:
        return (), 0, "no custom function defines jvp"
    found: list[Fault] = []
    compared, reason = 0, ""
    for number, call in enumerate(calls):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of what forward mode imports
                size = _apart(problem, call, number)
        except INTERRUPTS:
            raise
        except Exception as error:  # forward mode is not there for these arguments: said, not judged
            reason = f"{call.facts.name}.jvp raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        compared += 1
        double = all(a.dtype in (torch.float64, torch.complex128) for a in _leaves(call))
        limit = LIMIT[double]
        if not size <= limit:
            facts = call.facts
            block = next((name for name in facts.origins if name), "")
            found.append(
                Fault(
                    kind="forward", what="jvp", function=facts.name, module=facts.module, location=facts.location,
                    block=block, size=size, limit=limit, detail="<J u, v> by jvp and <u, J' v> by backward, u and v random",
                )
            )
    return tuple(found), compared, reason


def _defines_jvp(function: type[torch.autograd.Function]) -> bool:
    return function.jvp is not torch.autograd.Function.jvp


def _leaves(call: NodeCall) -> list[torch.Tensor]:
    return [a for a in call.args if isinstance(a, torch.Tensor) and a.requires_grad]


def _random(like: torch.Tensor, seed: int, position: int) -> torch.Tensor:
    target = real_view(like.detach())
    values = torch.from_numpy(draw(seed, position, target.numel())).to(target.device, target.dtype) / SIGNIFICANT
    values = values.reshape(target.shape)
    return torch.view_as_complex(values) if like.is_complex() else values


def _apart(problem: TorchModuleProblem, call: NodeCall, number: int) -> float:
    """|<J u, v> - <u, J' v>| relative to the magnitudes of the products."""
    seed = problem.seed + 31 * (number + 1)
    leaves = _leaves(call)
    tangents = [_random(leaf, seed, i) for i, leaf in enumerate(leaves)]
    with problem.habits.mode(), torch.enable_grad():
        outputs = _outputs(call.function.apply(*call.args))
        cotangents = [_random(o, seed + 1, i) for i, o in enumerate(outputs)]
        found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
    with problem.habits.mode(), forward_ad.dual_level():
        each = iter(tangents)
        duals = [
            forward_ad.make_dual(a.detach(), next(each)) if isinstance(a, torch.Tensor) and a.requires_grad else a
            for a in call.args
        ]
        made = [forward_ad.unpack_dual(o) for o in _outputs(call.function.apply(*duals), any_grad=True)]
    forward = [(real_view(m.tangent), real_view(v)) for m, v in zip(made, cotangents, strict=True) if m.tangent is not None]
    reverse = [(real_view(g), real_view(u)) for g, u in zip(found, tangents, strict=True) if g is not None]
    one = sum(float((a.double() * b.double()).sum()) for a, b in forward)
    two = sum(float((a.double() * b.double()).sum()) for a, b in reverse)
    size = sum(float((a.double() * b.double()).abs().sum()) for a, b in [*forward, *reverse])
    problem.counts.forwards += 2 * problem.share / max(len(problem.children), 1)
    problem.counts.backwards += problem.share / max(len(problem.children), 1)
    return abs(one - two) / size if size > 0 else 0.0


def _outputs(result: Any, *, any_grad: bool = False) -> list[torch.Tensor]:
    values = result if isinstance(result, tuple | list) else (result,)
    return [v for v in values if isinstance(v, torch.Tensor) and differentiable(v) and (any_grad or v.requires_grad)]
