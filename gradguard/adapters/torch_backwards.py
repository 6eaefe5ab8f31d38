"""One forward pass, and its backward again and again: is it linear, blind to layout, and does it leave things alone?

A healthy model pays one forward and two backwards where the output is one number, three where it has entries, one more
where its graph has custom functions. What fails is then taken apart, on the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from gradguard.adapters.backward_base import BackwardFacts, Fault
from gradguard.adapters.torch_cotangents import (
    Experiment,
    difference,
    expanded,
    far,
    largest,
    linear_limit,
    other_layout,
    scaled,
    uniform,
)
from gradguard.adapters.torch_functions import FunctionWatch, custom_nodes, examine, name_of, tensors_of
from gradguard.adapters.torch_nodes import record_nodes
from gradguard.adapters.torch_session import RandomState
from gradguard.errors import INTERRUPTS

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["Handed", "backward_facts", "put_back"]

SUMS = 1e-7
"""Relative difference of sums and layouts (float64) from which on the rounding is measured."""
SUMS_SINGLE = 1e-3
OUTPUTS = 8
"""Passes over the outputs one at a time; more outputs than that share them."""
CANCELLED = 1e-4
"""Share of its parts below which a sum over outputs is not compared with them."""
NOTHING = 1e-9
"""Share of the largest entry of all gradients below which a block's gradient is nothing but rounding."""


@dataclass(frozen=True)
class Handed:
    """An input as the function got it, and a tensor with the values that it had then.

    ``anew``: it is part of a batch, which a loop makes anew for each call: a loss may write into it, but no module.
    """

    name: str
    given: torch.Tensor
    own: torch.Tensor
    before: torch.Tensor
    anew: bool = False


def put_back(problem: TorchModuleProblem) -> None:
    """Every leaf at the point again, whatever has been written into it."""
    problem.session.moved.update(id(leaf) for leaf in problem.leaves)
    problem._place(None, 0.0)


class Again:
    """The graph of one forward pass, and its backward for any cotangents, from the same random state each time."""

    def __init__(self, problem: TorchModuleProblem) -> None:
        self.problem = problem
        problem._ensure()
        problem.session.moved.update(id(leaf) for leaf in problem.leaves)
        problem._place(None, 0.0)
        result = problem.session.call(problem.call, problem.habits, grad=True)
        problem.counts.forwards += problem.share
        outputs = problem.collect(result)
        live = [outputs.tensors[i] for i in problem.used]
        pairs = [(o, v) for o, v in zip(live, problem._cotangents or (), strict=True) if o.requires_grad]
        self.heads = [o for o, _ in pairs]
        self.cotangents: list[torch.Tensor] = [v.to(o.dtype) for o, v in pairs]
        self.wanted = [leaf for leaf in problem.leaves if leaf.requires_grad]
        self.names = [b.name for b, leaf in zip(problem.blocks, problem.leaves, strict=True) if leaf.requires_grad]
        self.state = RandomState()

    @property
    def usable(self) -> bool:
        """Whether there is a graph at all."""
        return bool(self.heads) and bool(self.wanted)

    def run(self, cotangents: Sequence[Any], only: Sequence[int] | None = None) -> list[torch.Tensor | None]:
        """The gradients of the blocks that require one, in their order; ``only``: the outputs that are used."""
        self.problem.counts.backwards += self.problem.share
        self.state.restore()
        used = range(len(self.heads)) if only is None else only
        with self.problem.habits.mode(backward=True):
            own = [own_memory(cotangents[i]) for i in used]
            found = torch.autograd.grad([self.heads[i] for i in used], self.wanted, own, allow_unused=True, retain_graph=True)
        return tensors_of(found)

    def redrawn(self, cotangents: Sequence[Any]) -> list[torch.Tensor | None]:
        """The same from another random state."""
        self.problem.counts.backwards += self.problem.share
        torch.manual_seed(self.problem.seed + 1)
        with self.problem.habits.mode(backward=True):
            found = torch.autograd.grad(self.heads, self.wanted, list(cotangents), allow_unused=True, retain_graph=True)
        return tensors_of(found)


class Afresh(Again):
    """The same with a forward pass for every backward."""

    def run(self, cotangents: Sequence[Any], only: Sequence[int] | None = None) -> list[torch.Tensor | None]:
        """The gradients on a graph of their own."""
        Again.__init__(self, self.problem)
        return super().run(cotangents, only)


def own_memory(v: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, for a backward that writes; an expanded one refuses to be written into."""
    expanded = any(stride == 0 and extent > 1 for stride, extent in zip(v.stride(), v.shape, strict=True))
    if expanded or v.layout != torch.strided:
        return v
    return torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device).copy_(v)


def backward_facts(problem: TorchModuleProblem, *, writes_only: bool = False) -> BackwardFacts:
    """What the backward of this problem does besides returning a gradient."""
    if problem.failure is not None:
        reason = problem.failure.detail
        return BackwardFacts(faults=(problem.failure,), skipped={"linearity": reason, "layout": reason})
    try:
        again = Again(problem)
        touched = _touched(problem)
        if writes_only:
            facts = BackwardFacts(skipped={})
        else:
            facts = _facts(problem, again) if again.usable else BackwardFacts(skipped={"linearity": "nothing has a graph"})
        # Only now: another forward pass writes into what this one's backward needs.
        written = _writes(problem, touched)
    finally:
        problem.session.moved.update(id(leaf) for leaf in problem.leaves)
        problem._place(None, 0.0)
        problem.session.reset(problem.habits)
    return replace(facts, faults=(*written, *facts.faults))


def _facts(problem: TorchModuleProblem, again: Again) -> BackwardFacts:
    nodes = custom_nodes(again.heads)
    blocks = {id(leaf): block.name for leaf, block in zip(problem.leaves, problem.blocks, strict=True)}
    watch = FunctionWatch(nodes, blocks, problem.session.lift)
    functions = tuple(dict.fromkeys(name_of(node) for node in nodes))
    known = [g for g, leaf in zip(problem._ensure(), problem.leaves, strict=True) if leaf.requires_grad]
    try:
        if nodes:
            with watch.watching():
                first = again.run(again.cotangents)
            if watch.faults:
                if any(fault.kind == "second" for _, fault in watch.faults):
                    _name_writes(problem, watch)
                found = tuple(_placed(problem, watch))
                return BackwardFacts(faults=found, functions=functions, tried=("functions",), skipped={})
            if Experiment(again.names).of(first, known)[0] > linear_limit(known):
                reason = "the gradient is not the same from call to call"
                return BackwardFacts(functions=functions, skipped={"linearity": reason, "layout": reason})
        return replace(_whole(problem, again, known), functions=functions)
    except INTERRUPTS:
        raise
    except Exception:  # what it saved is freed, or may be read once only: a fresh graph for every backward
        pass
    try:
        return replace(_whole(problem, Afresh(problem), known), functions=functions)
    except INTERRUPTS:
        raise
    except Exception as error:  # reentrant checkpoints refuse autograd.grad
        text = str(error).splitlines()[0] if str(error) else ""
        reason = f"backward cannot be run again: {type(error).__name__}: {text}"
        return BackwardFacts(functions=functions, skipped={"linearity": reason, "layout": reason})


def _whole(problem: TorchModuleProblem, again: Again, known: Sequence[torch.Tensor | None]) -> BackwardFacts:
    """The experiments on the outputs' cotangents; taken apart where one fails."""
    limit = linear_limit(known)
    compare = Experiment(again.names)
    power = far(again.cotangents)
    tried = [f"-2^{power} g"]
    bad = compare.of(again.run(scaled(again.cotangents, -(2.0**power))), known, -(2.0**power))[0] > limit
    drew = again.state.drawn_since()
    if all(v.numel() <= 1 for v in again.cotangents):
        tried.append(f"2^-{power} g")
        bad = bad or compare.of(again.run(scaled(again.cotangents, 2.0**-power)), known, 2.0**-power)[0] > limit
    else:
        tried += [f"2^-{power} h, expanded", "g + h, transposed"]
        bad = bad or _sums_differ(again, known, power, compare)
    faults: list[Fault] = []
    if len(again.heads) > 1 and custom_nodes(again.heads):  # torch's own know which of their outputs are used
        tried.append("each output alone")
        faults += _output_by_output(again, known)
    if drew:
        size, block = compare.of(again.redrawn(again.cotangents), known)
        if size > limit:
            what = "random numbers drawn in backward"
            faults.append(Fault(kind="draws", what=what, block=block, size=size, limit=limit, detail=_drawing(problem)))
    if bad:
        faults += examine(again.cotangents, known, again.run(again.cotangents), again.run, again.names)
    return BackwardFacts(faults=tuple(faults), tried=tuple(tried), skipped={})


def _output_by_output(again: Again, known: Sequence[torch.Tensor | None]) -> list[Fault]:
    """Outputs in turn without the others: a custom backward gets None for what is not used, and may drop more than that."""
    total: list[torch.Tensor | None] = [None] * len(known)
    sizes = [0.0] * len(known)
    for part in range(min(len(again.heads), OUTPUTS)):
        alone = again.run(again.cotangents, only=range(part, len(again.heads), OUTPUTS))
        total = added_up(total, alone)
        sizes = [max(size, largest([g])) for size, g in zip(sizes, alone, strict=True)]
    limit = sums_limit(again.cotangents)
    kept = [i for i, size in enumerate(sizes) if largest([known[i]]) >= CANCELLED * size]
    size, where = Experiment([again.names[i] for i in kept]).of([total[i] for i in kept], [known[i] for i in kept])
    if size <= limit:
        return []
    what = "one output at a time"
    detail = f"the gradients of each output alone add up to another one than that of all, by {size:.2g} of its largest entry"
    return [Fault(kind="linearity", what=what, block=where, size=size, limit=limit, detail=detail)]


def added_up(a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """a + b, block by block, where None is 0."""
    return [y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)]


def _sums_differ(again: Again, known: Sequence[torch.Tensor | None], power: int, compare: Experiment) -> bool:
    """g(v + h), transposed, against g(v) + 2^k g(2^-k h), h a constant that is expanded: three properties in two backwards."""
    small = again.run(scaled_small(again.cotangents, power))
    other = [None if s is None else s * 2.0**power for s in small]
    both = again.run([other_layout(v + h) for v, h in zip(again.cotangents, uniform(again.cotangents), strict=True)])
    expected = added_up(known, other)
    largest_of_all = largest(expected)
    kept = [i for i, e in enumerate(expected) if largest([e]) > NOTHING * largest_of_all]  # the others are rounding
    return compare.of([both[i] for i in kept], [expected[i] for i in kept])[0] > sums_limit(again.cotangents)


def sums_limit(cotangents: Sequence[torch.Tensor]) -> float:
    """The relative difference of sums that rounding explains."""
    return SUMS if all(v.dtype in (torch.float64, torch.complex128) for v in cotangents) else SUMS_SINGLE


def scaled_small(cotangents: Sequence[torch.Tensor], power: int) -> list[Any]:
    """2^-k h, expanded from one number."""
    return [torch.mul(h[(0,) * h.dim()] if h.numel() else h.sum(), 2.0**-power).expand(h.shape) for h in expanded(cotangents)]


def _placed(problem: TorchModuleProblem, watch: FunctionWatch) -> list[Fault]:
    """The faults with the module and the line that called the function; the same fault of one function once."""
    calls = record_nodes(problem)
    order = dict(enumerate(calls)) if len(calls) >= len(watch.nodes) else {}
    found: dict[tuple[str, str, str, str, str], Fault] = {}
    for index, fault in watch.faults:
        call = order.get(index)
        if call is not None and call.facts.name == fault.function:
            fault = replace(fault, module=call.facts.module, location=call.facts.location)
            if not fault.block:
                fault = replace(fault, block=next((name for name in call.facts.origins if name and fault.kind == "shape"), ""))
        key = (fault.kind, fault.what, fault.function, fault.module, fault.block)
        if key not in found or fault.size > found[key].size:
            found[key] = fault
    return list(found.values())


def _drawing(problem: TorchModuleProblem) -> str:
    """The modules that draw random numbers in forward, innermost."""
    states: list[tuple[torch.nn.Module, RandomState]] = []
    paths = {id(module): path for path, module in problem.children.items()}
    drawing: list[str] = []

    def enter(module: torch.nn.Module, args: Any) -> None:
        states.append((module, RandomState()))

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        if states and states[-1][0] is module and states.pop()[1].drawn_since() and not module._modules:
            drawing.append(f"{paths.get(id(module), '') or 'the model'} ({type(module).__name__})")

    with problem._hooked(problem.children, enter, leave):
        problem.session.call(problem.call, problem.habits, grad=True)
    problem.counts.forwards += problem.share
    return ", ".join(dict.fromkeys(drawing))


@dataclass(frozen=True)
class Touched:
    """What a forward pass wrote into: an input with what it left there, or a parameter; ``anew`` as in :class:`Handed`."""

    what: str
    block: str
    own: torch.Tensor
    left: torch.Tensor
    anew: bool = False


def _touched(problem: TorchModuleProblem) -> list[Touched]:
    """The inputs and parameters that the forward pass that has just run wrote into."""
    found = [
        Touched(f"input {h.name}", h.name, h.own, h.given.detach().clone(), h.anew)
        for h in problem.handed
        if h.given.layout == torch.strided and difference(h.given.detach(), h.before.detach()) > 0.0
    ]
    for block, leaf, original in zip(problem.blocks, problem.leaves, problem.originals, strict=True):
        strided = original.layout == torch.strided and leaf.shape == original.shape
        if strided and difference(leaf.detach(), original.to(leaf.dtype)) > 0.0:
            found.append(Touched(f"{block.kind} {block.name}", block.name, leaf, leaf.detach().clone()))
    return found


def _writes(problem: TorchModuleProblem, touched: Sequence[Touched]) -> list[Fault]:
    """The faults: does the value change when the call is repeated on what the first one left?"""
    found = []
    leaves = {id(leaf) for leaf in problem.leaves}
    by_modules = _written_by_modules(problem) if any(one.anew for one in touched) else set()
    for one in touched:
        if one.anew and id(one.own) not in by_modules:
            continue
        if id(one.own) in leaves and not any(h.own is one.own for h in problem.handed):
            with torch.no_grad():
                one.own.data.copy_(one.left)
            changed = problem._difference(problem._plain_outputs(), problem._base)
            put_back(problem)
        else:
            with problem.exchanged(one.own, one.left):
                changed = problem._difference(problem._plain_outputs(), problem._base)
        found.append(_write("forward", one.what, one.block, changed, problem))
    return found


def _written_by_modules(problem: TorchModuleProblem) -> set[int]:
    """The ids of our inputs that some module's forward writes into, by the versions that torch counts around it."""
    before: list[tuple[torch.nn.Module, dict[int, int]]] = []
    written: set[int] = set()

    def versions() -> dict[int, int]:
        return {id(h.own): h.given._version for h in problem.handed}

    def enter(module: torch.nn.Module, args: Any) -> None:
        before.append((module, versions()))

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        if before and before[-1][0] is module:
            _, then = before.pop()
            written.update(key for key, version in versions().items() if version != then.get(key, version))

    with problem._hooked(problem.children, enter, leave):
        problem.session.call(problem.call, problem.habits, grad=True)
    problem.counts.forwards += problem.share
    return written


def _name_writes(problem: TorchModuleProblem, watch: FunctionWatch) -> None:
    """Which saved tensor is it that a backward writes into? On a fresh graph, with its saved tensors read before."""
    fresh = Again(problem)
    closer = FunctionWatch(custom_nodes(fresh.heads), watch.blocks, watch.lifted, experiments=False, snapshots=True)
    try:
        with closer.watching():
            fresh.run(fresh.cotangents)
    except RuntimeError:  # they may be read once only: the second backward says enough
        return
    named = {index for index, fault in closer.faults if fault.kind == "write"}
    kept = [(index, fault) for index, fault in watch.faults if fault.kind != "second" or index not in named]
    watch.faults = [*kept, *((index, fault) for index, fault in closer.faults if index in named)]


def _write(who: str, what: str, block: str, changed: float, problem: TorchModuleProblem) -> Fault:
    limit = 1e4 * (2.0**-52 if problem.session.lift or problem.path == "float64" else 2.0**-23)
    return Fault(
        kind="write", what=what, block=block, size=changed, limit=limit, harmless=changed <= limit,
        detail=f"{who} writes into it; called again on what it left, the value differs by {changed:.2g} of its largest entry",
    )
