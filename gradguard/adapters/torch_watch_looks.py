"""Looks at passes of a watched loop: now and then every module has hooks, otherwise only those that the loop calls.

A look begins with a call from outside (of the model, or of a part of it that the loop calls by itself) and ends where
the optimizer's step begins, or where the model is called again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from gradguard.adapters.observing_base import CodeFacts, LayerUnits, Look, Nonfinite
from gradguard.adapters.torch_compiled import Hook, is_compiled, is_scripted, left_alone, unseen
from gradguard.adapters.torch_outputs import Outputs
from gradguard.adapters.torch_spy import Spy, first_tensor
from gradguard.adapters.torch_untouched import clean
from gradguard.adapters.torch_watch_peaks import Peaks
from gradguard.adapters.torch_watch_replay import Call, call_of

__all__ = ["LOOKS", "Looks"]

T = TypeVar("T")

LOOKS = 3
"""Looks at the start, and again where parameters get their first gradient that no look has seen."""
GROWING = 3
"""Looks become rarer by this factor, down to one in every ``looks_every`` passes: a short loop is looked at as well."""
KEPT_LOOKS = 8
ENOUGH = 64
"""Values of a unit after which the latest looks speak for themselves, as GG201 has it."""
CALLS = 16
"""Calls from outside that one look takes in, and that are kept to be run once more."""
AGAIN = 8
"""How often looks begin again for parameters that are new."""


def hold(mode: TorchFunctionMode) -> None:
    """Put a mode at the bottom of the stack: who leaves a mode of their own takes the one at its top.

    Only the default device, which wants to be the lowest itself, stays below.
    """
    above = [_pop_mode() for _ in _get_current_function_mode_stack()]
    default = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    if above and above[-1] is default:
        _push_mode(above.pop())
    for one in (mode, *reversed(above)):
        _push_mode(one)


def release(mode: TorchFunctionMode) -> None:
    """Take a mode out, wherever it is."""
    if mode in _get_current_function_mode_stack():
        above = [_pop_mode() for _ in _get_current_function_mode_stack()]
        for one in reversed(above):
            if one is not mode:
                _push_mode(one)


class Looks:
    """What the looks gave: ``start`` over the first ones, ``last``, and units of the first and the latest."""

    def __init__(
        self, model: torch.nn.Module, *, looks_every: int, follow: bool, blind: bool, steps: Callable[[], int]
    ) -> None:
        self.model, self.looks_every, self.blind, self.steps = model, looks_every, blind, steps
        self.peaks = Peaks(model) if follow else None
        self.count = self.forwards = 0
        self.wanted = False
        """The next call is a look, whatever the count."""
        self.start: Look | None = None
        self.last: Look | None = None
        self.first_units: list[tuple[LayerUnits, ...]] = []
        self.kept: deque[Look] = deque(maxlen=KEPT_LOOKS)
        self.cut: dict[str, None] = {}
        self.seen_blocks: set[str] = set()
        self.suspect: Nonfinite | None = None
        """What the look that just ended saw first of what is not finite."""
        self.calls: list[Call] = []
        self.on_call: Callable[[], None] = lambda: None
        self.on_output: Callable[[Any], None] = lambda output: None
        self.busy = False
        self.float16 = False
        self._owed = LOOKS
        self._again = 0
        self._taken = 0
        self.last_looked_at = 0
        self._inside: torch.nn.Module | None = None
        self._output: torch.Tensor | None = None
        self._stale_calls = False
        self._spy: Spy | None = None
        self._handles: dict[torch.nn.Module, list[Any]] = {}
        self._entries: set[torch.nn.Module] = {model}

    # hooks

    def install(self) -> None:
        """Hooks on every module: which of them the loop calls is not known yet."""
        hidden = {
            inner for module in self.model.modules() if is_compiled(module) for inner in module.modules() if inner is not module
        }
        for module in self.model.modules():
            if module not in hidden:
                self._hook(module)

    def remove(self) -> None:
        """Nothing is left."""
        self.end()
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()
        if self.peaks is not None:
            self.peaks.remove()
        self.calls.clear()
        self.suspect = None

    def _hook(self, module: torch.nn.Module) -> None:
        if module not in self._handles and not is_scripted(module):
            before = module.register_forward_pre_hook(Hook(self._enter), with_kwargs=True)
            after = module.register_forward_hook(Hook(self._leave), always_call=True)
            self._handles[module] = [before, after]

    def _keep_entries(self) -> None:
        """Enough was seen: only the modules that the loop itself calls keep their hooks."""
        for module in [m for m in self._handles if m not in self._entries]:
            for handle in self._handles.pop(module):
                handle.remove()

    def again(self, new: list[str]) -> None:
        """These blocks got their first gradient: where no look has seen them, look again, everywhere."""
        if self.count and self._again < AGAIN and any(name not in self.seen_blocks for name in new):
            self._again += 1
            self._owed = LOOKS
            self.install()

    # calls

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if unseen():
            return
        if self._inside is not None or self.busy or not torch.is_grad_enabled():
            return
        self._inside = module
        self._entries.add(module)
        self._hook(module)
        self.forwards += 1
        self.on_call()
        self._remember(module, args, kwargs)
        if self._spy is not None and (module is self.model or self._taken >= CALLS):
            self.end()
        if self._spy is not None:
            self._taken += 1
            self._hold(module)
        elif not self.blind and self._due():
            self._begin(module, args, kwargs)

    def _due(self) -> bool:
        since = self.forwards - self.last_looked_at
        return self._owed > 0 or self.wanted or since >= min(self.looks_every, GROWING * self.last_looked_at)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if unseen():
            return
        if module is self._inside:
            self._inside = None

    def _remember(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if self._stale_calls or module is self.model:
            self.calls.clear()
            self._stale_calls = False
            self.suspect = None
        if len(self.calls) < CALLS:
            self.calls.append(call_of(module, args, kwargs))

    def latest(self) -> tuple[list[list[LayerUnits]], list[list[CodeFacts]]]:
        """Of each layer what the looks of the last half saw; more of them where those saw few samples."""
        units = [(look.step, one, (one.layer, one.kind, one.block), one.samples) for look in self.kept for one in look.units]
        codes = [(look.step, one, (one.layer, one.kind), int(one.counts.sum())) for look in self.kept for one in look.codes]
        return late(units), late(codes)

    def order(self) -> tuple[str, ...]:
        """The modules of the latest look, in the order of their return."""
        return tuple(m.path for m in self.last.modules) if self.last is not None else ()

    @property
    def under_way(self) -> bool:
        """A look has begun and not ended."""
        return self._spy is not None

    def pause(self, on: bool) -> None:
        """Calls are ours, not the loop's."""
        self.busy = on

    # looks

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self.wanted = False
        self._taken = 1
        self.last_looked_at = self.forwards
        spy = self._spy = Spy(self.model, clean)
        spy.left = self._left
        spy.hook()
        self._hold(module)
        spy.enter(module, args, kwargs)  # its own call is under way: hooks made now see only its end

    def _hold(self, module: torch.nn.Module) -> None:
        """The function mode: during the model's own call, or from the first call of a part until the look ends."""
        if self._spy is not None:
            self._spy.outside = module is not self.model
            release(self._spy)
            hold(self._spy)

    def _left(self, module: torch.nn.Module, output: Any) -> None:
        if self._spy is not None and module is self.model:
            release(self._spy)
            self._output = first_tensor(output)
            self.float16 = self.float16 or self._spy.float16
            self.on_output(output)

    def step(self) -> None:
        """An optimizer's step begins."""
        self.end()
        self._inside = None
        self._stale_calls = True

    def end(self) -> None:
        """The look ends, and what it saw is kept; a pass that raised before any module had returned is no look."""
        spy, self._spy = self._spy, None
        if spy is None:
            return
        release(spy)
        spy.unhook()
        spy.left = None
        if not spy.modules:
            return
        self.count += 1
        self._owed -= 1
        units = spy.unit_facts()
        self.float16 = self.float16 or spy.float16
        self.cut.update(dict.fromkeys(spy.cut))
        self.seen_blocks.update(spy.order)
        if spy.first_bad is not None:
            name, owner, where, before, rows = spy.first_bad
            batch = self.forwards - 1
            self.suspect = Nonfinite(module=name, owner=owner, batch=batch, where=where, before=before, rows=rows)
        look = self._look(spy, units)
        if self.count <= LOOKS and self.steps() < LOOKS:
            self.first_units.append(units)
        self.start = look if self.start is None else joined(self.start, look) if self.count <= LOOKS else self.start
        self.kept.append(look)
        self.last = look
        if self.peaks is not None:
            self.peaks.follow(units)
        if self._owed <= 0:
            self._keep_entries()
        self._output = None

    def _look(self, spy: Spy, units: tuple[LayerUnits, ...]) -> Look:
        value, shown = self._output, Outputs()
        if value is not None and bool(torch.isfinite(value).all()):
            shown.add(None, value)
        return Look(
            outputs=shown.facts(),
            step=self.steps(),
            units=units,
            attention=spy.attention_facts(),
            codes=spy.code_facts(),
            modules=spy.module_facts(),
            order=tuple(dict.fromkeys((*(self.start.order if self.start is not None else ()), *spy.order))),
            matrices=tuple(spy.matrices),
            low_precision=spy.low_precision,
            samples=int(value.shape[0]) if value is not None and value.ndim else 0,
            failures=tuple(sorted(spy.failures)),
        )


def late(seen: Sequence[tuple[int, T, Any, int]]) -> list[list[T]]:
    """What was seen (step, facts, layer, samples), oldest first: of each layer the last half, and enough samples."""
    found: dict[Any, list[tuple[int, T, int]]] = {}
    for step, one, layer, samples in seen:
        found.setdefault(layer, []).append((step, one, samples))
    result = []
    for rows in found.values():
        taken: list[T] = []
        samples = 0
        for step, one, count in reversed(rows):
            if taken and samples >= ENOUGH and step < rows[-1][0] / 2:
                break
            taken.append(one)
            samples += count
        result.append(taken[::-1])
    return result


def joined(first: Look, other: Look) -> Look:
    """The first look, with the layers that only a later one saw: a loop may call parts in turns."""
    known = {m.path for m in first.modules}
    heads = {a.layer for a in first.attention}
    tables = {(c.layer, c.kind) for c in first.codes}
    modules = [*first.modules, *(m for m in other.modules if m.path not in known)]
    return replace(
        first,
        modules=tuple(replace(m, depth=i) for i, m in enumerate(modules)),
        order=other.order,
        matrices=tuple(dict.fromkeys((*first.matrices, *other.matrices))),
        attention=(*first.attention, *(a for a in other.attention if a.layer not in heads)),
        codes=(*first.codes, *(c for c in other.codes if (c.layer, c.kind) not in tables)),
        low_precision=first.low_precision or other.low_precision,
        failures=tuple(sorted({*first.failures, *other.failures})),
    )


left_alone(Looks._enter, Looks._leave)
