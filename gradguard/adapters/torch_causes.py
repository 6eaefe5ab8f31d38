"""What differs first between two passes from the same state: a module in forward, a node of the graph in backward."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from gradguard.adapters.nesting import flatten

if TYPE_CHECKING:
    from gradguard.adapters.torch_problem import TorchProblem

__all__ = ["first_difference"]


def first_difference(problem: TorchProblem, *, value: bool) -> str:
    """``body.1 (Dropout)``: the innermost place whose input is the same and whose result is not; empty where none is."""
    modules: dict[str, torch.nn.Module] = getattr(problem, "children", {})
    if value:
        first, second = _forward(problem, modules)[0], _forward(problem, modules)[0]
        for (path, given, made), (other, given_again, made_again) in zip(first, second, strict=False):
            if path == other and given == given_again and made != made_again:
                return _called(path, modules)
        return ""
    one, two = _backward(problem, modules), _backward(problem, modules)
    for place, given, made in one:
        again = [(g, m) for p, g, m in two if p == place]
        if again and again[0][0] == given and again[0][1] != made:
            return place.partition("#")[0]
    return ""


Record = list[tuple[str, str, str]]


def _forward(
    problem: TorchProblem, modules: dict[str, torch.nn.Module]
) -> tuple[Record, list[tuple[str, int, int]], list[torch.Tensor]]:
    """Per module call, in the order in which they end: its path, and digests of what went in and what came out.

    And the range of sequence numbers of the nodes that it made, and the outputs.
    """
    record: Record = []
    spans: list[tuple[str, int, int]] = []
    stack: list[tuple[str, str, int]] = []
    paths = {id(module): path for path, module in modules.items()}

    def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        stack.append((paths[id(module)], digest((args, kwargs)), _now()))

    def leave(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path, given, start = stack.pop()
        record.append((path, given, digest(output)))
        spans.append((path, start, _now()))

    hooks = []
    try:
        for module in modules.values():
            hooks.append(problem.session.own(module.register_forward_pre_hook(enter, with_kwargs=True)))
            hooks.append(problem.session.own(module.register_forward_hook(leave, with_kwargs=True)))
        outputs = problem.collect(problem.session.call(problem.call, problem.habits, grad=True))
        problem.counts.forwards += problem.share
    finally:
        for hook in hooks:
            hook.remove()
    return record, spans, [outputs.tensors[i] for i in problem.used]


def _backward(problem: TorchProblem, modules: dict[str, torch.nn.Module]) -> Record:
    """Per node of the graph, in the order in which backward runs them: where it is, and digests of its gradients."""
    _, spans, outputs = _forward(problem, modules)
    record: Record = []

    def remember(place: str) -> Any:
        def hook(gradients: Any, given: Any) -> None:
            record.append((place, digest(given), digest(gradients)))

        return hook

    todo = [o.grad_fn for o in outputs if o.grad_fn is not None]
    seen = dict.fromkeys(todo)
    while todo:
        node = todo.pop()
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen[following] = None
                todo.append(following)
    hooks = []
    for position, node in enumerate(seen):
        number = int(node._sequence_nr())
        inside = [(end - start, path) for path, start, end in spans if start <= number < end]
        path = min(inside)[1] if inside else ""
        place = f"{node.name()} in {_called(path, modules)}" if inside else str(node.name())
        hooks.append(node.register_hook(remember(f"{place}#{position}")))
    pairs = [(o, v.to(o.dtype)) for o, v in zip(outputs, problem._cotangents or (), strict=True) if o.requires_grad]
    try:
        with problem.habits.mode(backward=True):
            wanted = [leaf for leaf in problem.leaves if leaf.requires_grad]
            torch.autograd.grad([o for o, _ in pairs], wanted, [v for _, v in pairs], allow_unused=True)
        problem.counts.backwards += problem.share
    except RuntimeError:  # a graph that cannot be run this way has no cause that we could name
        return []
    finally:
        for hook in hooks:
            hook.remove()
    return record


def digest(tree: Any) -> str:
    """The bits of all tensors in a container."""
    found = hashlib.sha256()
    for leaf in flatten(tree, ""):
        if isinstance(leaf.value, torch.Tensor) and leaf.value.layout == torch.strided:
            value = torch.view_as_real(leaf.value.detach().resolve_conj()) if leaf.value.is_complex() else leaf.value.detach()
            found.update(value.double().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _now() -> int:
    """The sequence number that the next node of the graph will have."""
    with torch.enable_grad():
        made = torch.zeros((), requires_grad=True) * 1
    return int(made.grad_fn._sequence_nr()) if made.grad_fn is not None else 0


def _called(path: str, modules: dict[str, torch.nn.Module]) -> str:
    return f"{path or 'the model'} ({type(modules[path]).__name__})"
