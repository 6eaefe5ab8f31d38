"""A backward that raises: whose fault is it?"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.torch_functions import FunctionWatch, custom_nodes, name_of
from gradguard.adapters.torch_nodes import record_nodes

if TYPE_CHECKING:
    from gradguard.adapters.torch_passes import TorchPasses

__all__ = ["failure_of"]


def failure_of(problem: TorchPasses, error: Exception) -> Fault | None:
    """The fault behind an exception of backward: the custom function that raised it or returned what does not fit.

    None where neither a custom function nor a write into a saved tensor explains it.
    """
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if "modified by an inplace operation" in str(error):
        return Fault(kind="overwritten", what="a tensor saved for backward", detail=text)
    problem.session.reset(problem.habits)
    with problem.habits.mode(), torch.enable_grad():
        outputs = problem.collect(problem.call())
    problem.counts.forwards += problem.share
    heads = [outputs.tensors[i] for i in problem.used if outputs.tensors[i].requires_grad]
    nodes = custom_nodes(heads)
    blocks = {id(leaf): block.name for leaf, block in zip(problem.leaves, problem.blocks, strict=True)}
    watch = FunctionWatch(nodes, blocks, lifted=True, experiments=False)
    wanted = [leaf for leaf in problem.leaves if leaf.requires_grad]
    used = [outputs.tensors[i] for i in problem.used]
    cotangents = [v.to(o.dtype) for o, v in zip(used, problem._cotangents or (), strict=True) if o.requires_grad]
    try:
        with watch.watching(), problem.habits.mode(backward=True):
            torch.autograd.grad(heads, wanted, cotangents, allow_unused=True)
    except Exception as again:
        found = _named(watch, again, text)
        return None if found is None else _placed(problem, *found)
    return None


def _named(watch: FunctionWatch, error: Exception, text: str) -> tuple[int, Fault] | None:
    if watch.raised is not None:
        index, raised = watch.raised
        detail = f"{type(raised).__name__}: {raised}"
        return index, Fault(kind="raised", what="backward", function=name_of(watch.nodes[index]), detail=detail.splitlines()[0])
    shapes = [(index, fault) for index, fault in watch.faults if fault.kind == "shape"]
    if shapes and "invalid gradient" in str(error):
        return shapes[-1]
    named = re.search(r"[Ff]unction (\w+)Backward returned", str(error))
    if named is None:
        return None
    index = next((i for i, node in enumerate(watch.nodes) if name_of(node) == named[1]), 0)
    kind = "shape" if "gradient" in str(error) else "raised"
    return index, Fault(kind=kind, what="backward", function=named[1], detail=text)


def _placed(problem: TorchPasses, index: int, fault: Fault) -> Fault:
    calls = record_nodes(problem) if hasattr(problem, "children") else []  # type: ignore[arg-type]  # it has modules
    if len(calls) > index and calls[index].facts.name == fault.function:
        facts = calls[index].facts
        return replace(fault, module=facts.module, location=facts.location)
    return fault
