"""The gradient as a function of its own: its outputs are the gradients of the blocks, its backward is double backward."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2
from typing import TYPE_CHECKING, Any

import torch

from gradguard.adapters.torch_problem import TorchProblem
from gradguard.errors import UsageError

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["second_order"]


def second_order(problem: TorchModuleProblem) -> TorchProblem | str:
    """The problem whose value is <w, gradient>, w random and signed; or why there is none.

    Each block's gradient is brought to the same size by a power of two, so that none drowns the others.
    """
    known = problem._ensure()
    if problem.failure is not None:
        return problem.failure.detail
    sizes = [0.0 if g is None or not g.numel() else float(g.abs().double().square().mean().sqrt()) for g in known]
    factors = [2.0 ** -round(log2(s)) if 0.0 < s < float("inf") else 1.0 for s in sizes]
    if not any(g is not None for g in known):
        return "no block has a gradient"

    def call() -> Any:
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            outputs = problem.collect(problem.call())
            live = [outputs.tensors[i] for i in problem.used]
            # A function marked once_differentiable only raises where the cotangent itself requires a gradient.
            cotangents = [v.detach().clone().requires_grad_(create) for v in problem._cotangents or ()]
            pairs = [(o, v.to(o.dtype)) for o, v in zip(live, cotangents, strict=True) if o.requires_grad]
            wanted = [leaf for leaf in problem.leaves if leaf.requires_grad]
            heads, weights = [o for o, _ in pairs], [v for _, v in pairs]
            made = torch.autograd.grad(heads, wanted, weights, allow_unused=True, create_graph=create)
        problem.counts.backwards += problem.share
        if create and _refuses(made):
            raise RuntimeError("a function is marked once_differentiable")
        found = iter(made)
        gradients = [next(found) if leaf.requires_grad else None for leaf in problem.leaves]
        return [
            torch.zeros_like(leaf) if g is None else g * factor
            for g, leaf, factor in zip(gradients, problem.leaves, factors, strict=True)
        ]

    other: TorchProblem = TorchProblem(
        call, problem.blocks, problem.leaves, problem.session, originals=problem.originals, seed=problem.seed + 3,
        path=problem.path, where=f"double backward of {problem.where}", counts=problem.counts, share=problem.share,
    )
    other.frozen = dict(problem.frozen)
    try:
        other.first_pass()
    except UsageError as error:
        return error.what
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return other if other.failure is None else other.failure.detail


def _refuses(gradients: Iterable[torch.Tensor | None]) -> bool:
    """Whether the graph of the gradients has a node that only raises: torch puts one behind ``once_differentiable``."""
    todo = [g.grad_fn for g in gradients if g is not None and g.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if str(node.name()).endswith("autograd::Error"):
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return False
