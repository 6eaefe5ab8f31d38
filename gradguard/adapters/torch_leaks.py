"""Does an output depend on another sample of the batch, or on a later position? Change one and compare, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.observing_base import Leaks
from gradguard.adapters.torch_batch_parts import mapped, tensors_of
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_changes import (
    Change,
    at,
    exchange_future,
    gentler,
    repeat_first,
    repeat_sample,
    replace_future,
    replace_others,
    replace_sample,
)
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_session import RandomState, is_generator
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_untouched import preserved_rng
from gradguard.errors import UsageError

__all__ = ["leaks_of"]

NOTHING = 1e-5
"""A change of an output relative to its largest entry that is rounding."""
GENTLER = (0.1, 0.01, 0.001)
"""Sizes of a change for a model that draws more or fewer random numbers after a larger one."""
PLACES = 8
"""How many samples are tried until one changes its own output."""
UNEVEN = "the model draws another number of random values for another input"


class Recorder:
    """Module outputs of one pass, and a change of the model's first tensor input on the way in.

    A model that is not called itself (the loss calls its parts) gets the change in the first tensor of the batch.
    """

    def __init__(self, session: Session, batch: Any, seed: int) -> None:
        self.session, self.batch, self.seed = session, batch, seed
        self.given: torch.Tensor | None = None
        self.choice, self.choices = 0, 1
        """Which tensor is changed, the first that the outputs depend on; and how many there are."""
        self.calls = True
        """The loss calls the model itself, as far as is known."""
        self.start = RandomState([g for m in session.model.modules() for g in vars(m).values() if is_generator(g)])
        self.end: RandomState | None = None
        """The random state after the first pass."""
        self.aligned = True
        """The last pass drew as many random values as the first: each sample was given the same ones."""

    def run(self, change: Any = None) -> dict[str, torch.Tensor]:
        """First output tensor of every module by path; the root is the last. ``change(tensor)`` makes the new input."""
        made: dict[str, torch.Tensor] = {}
        handles = []
        called = False

        def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
            nonlocal called
            called = True
            new = self.changed((args, kwargs), change)
            return new if change is not None else None

        def leave(path: str) -> Any:
            def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
                value = first_tensor(output)
                if value is not None:
                    made.pop(path, None)
                    made[path] = value.detach().clone()

            return hook

        model = self.session.model
        handles.append(model.register_forward_pre_hook(enter, with_kwargs=True))
        handles.extend(module.register_forward_hook(leave(name)) for name, module in model.named_modules())
        try:
            with preserved_rng(self.seed), torch.no_grad(), kept_buffers(model):
                self.start.restore_own()
                batch = self.batch if self.calls or change is None else self.changed(self.batch, change)
                self.session.loss(batch)
                if not called and self.calls:
                    self.calls = False
                    self.changed(self.batch, None)
                self.end = self.end or RandomState([g for g, _ in self.start.own])
                self.aligned = not self.end.drawn_since()
        finally:
            for handle in handles:
                handle.remove()
        return made

    def changed(self, given: Any, change: Any) -> Any:
        """What is given with a change in the chosen one of its tensors that are no masks, which is kept."""
        tensors = {p: t for p, t in tensors_of(given).items() if changeable(p, t)}
        order = sorted(tensors, key=lambda p: tensors[p].ndim < 2)  # a sequence of numbers, such as lengths, comes last
        self.choices = len(order)
        if not order:
            return given
        place = order[min(self.choice, len(order) - 1)]
        self.given = tensors[place]
        return given if change is None else mapped(given, lambda p, t: change(t) if p == place else t)


def change_of(before: torch.Tensor, after: torch.Tensor, where: Any) -> float:
    """The largest change in a part of an output, relative to its largest magnitude."""
    if before.shape != after.shape:
        return 0.0
    scale = float(before.abs().max()) or 1.0
    part = (before[where] - after[where]).abs()
    return float(part.max()) / scale if part.numel() else 0.0


def leaks_of(session: Session, batch: Any, *, seed: int, sample: bool, future: bool) -> Leaks:
    """Change sample 0, then all others (or the last half of the positions), and see whether anything else moves."""
    session.model.eval()
    recorder = Recorder(session, batch, seed)
    base = recorder.run()
    given = recorder.given
    if given is None or not base:
        return Leaks(reason="the model was not called with a tensor")
    root, again = "" if "" in base else list(base)[-1], recorder.run()
    if root in again and change_of(base[root], again[root], ...) > NOTHING:
        return Leaks(reason="the same batch does not give the same outputs twice")
    notes: list[str] = []
    found: dict[str, Any] = {}
    if sample and second_axis(given, base.get("")):
        notes.append("independent_samples: the outputs' first axis is the inputs' second")
    elif sample and given.shape[0] > 1:
        found.update(sample_leak(recorder, base, given.shape[0]))
        if found["sample"] is None:
            notes.append(f"independent_samples: {UNEVEN}")
    elif sample:
        notes.append("independent_samples: the batch holds one sample")
    if future and given.ndim >= 2 and given.shape[1] > 1:
        found.update(future_leak(recorder, base, given.shape[1]))
        if found["future"] is None:
            notes.append(f"causal: {UNEVEN}")
    elif future:
        notes.append("causal: the input has no positions on its second axis")
    return Leaks(reason="; ".join(notes), notes=tuple(notes), **found)


def sample_leak(recorder: Recorder, base: dict[str, torch.Tensor], n: int) -> dict[str, Any]:
    """What changes for the other samples when one does, and for that one when all others do.

    It is the first sample, or the next whose own output changes: a sample may be masked out.
    """
    first: dict[str, Any] | None = None
    for place in range(min(n, PLACES)):
        found = leak_of_one(recorder, base, n, place)
        first = first or found
        if found["sample"] is None or found["sample"] > NOTHING or found["sample_own"] > 0:
            return found
    return first or {"sample": None}


def leak_of_one(recorder: Recorder, base: dict[str, torch.Tensor], n: int, place: int) -> dict[str, Any]:
    one, rest = ([place],), ([i for i in range(n) if i != place],)
    others, own, module = first_that_is_taken(
        recorder,
        [at(place, replace_sample), at(place, repeat_sample)],
        one,
        lambda after: compare(base, after, rest, one, n, axis=0),
    )
    if others is not None and others <= NOTHING:  # what takes the largest of a batch may not have taken this one
        back = first_that_is_taken(
            recorder,
            [at(place, replace_others), at(place, repeat_first)],
            rest,
            lambda after: compare(base, after, one, rest, n, axis=0),
        )
        if back[0] is not None and back[0] > others:
            others, module = back[0], back[2]
    return {"sample": others, "sample_own": own, "module_sample": module}


def future_leak(recorder: Recorder, base: dict[str, torch.Tensor], n: int) -> dict[str, Any]:
    """What changes at the first half of the positions when the last half does."""
    cut, rows = n // 2, slice(None)
    before, after_it = (rows, slice(0, cut)), (rows, slice(cut, None))
    earlier, own, module = first_that_is_taken(
        recorder,
        (
            lambda x: replace_future(x, cut) if x.ndim >= 2 and x.shape[1] == n else x,
            lambda x: exchange_future(x, cut) if x.ndim >= 2 and x.shape[1] == n else x,
        ),
        after_it,
        lambda after: compare(base, after, before, after_it, n, axis=1),
    )
    return {"future": earlier, "future_own": own, "module_future": module}


def changeable(path: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of what the model is given has rows to change, and is no mask."""
    return bool(tensor.ndim) and tensor.layout == torch.strided and tensor.dtype != torch.bool and "mask" not in path


Compared = tuple[float | None, float, str]


def second_axis(given: torch.Tensor, made: torch.Tensor | None) -> bool:
    """Whether samples lie along the second axis of the input: the model's output has its extent first."""
    if made is None or not made.ndim or given.ndim < 2:
        return False
    return made.shape[0] == given.shape[1] != given.shape[0]


def first_that_is_taken(
    recorder: Recorder, changes: Sequence[Change], where: Any, compared: Callable[[Any], Compared]
) -> Compared:
    """The comparison for the first change that the model takes: numbers of a range, or of a table, cannot be just any.

    A model that draws more or fewer random values for another input (dropout on ``x[mask]``) gives every later sample
    other ones. It is asked about smaller changes, until one leaves the draws as they were, and what that one does is
    told as of a change of full size; where none leaves them, nothing is known.
    """
    for size in (1.0, *GENTLER):
        for change in changes:
            try:
                found, aligned = first_that_matters(recorder, change if size == 1 else gentler(change, where, size), compared)
            except UsageError:
                recorder.choice = 0
                continue
            if found[0] is None or aligned or found[0] <= NOTHING:
                return found if found[0] is None or found[0] <= NOTHING else (found[0] / size, *found[1:])
            if size == 1:
                break
    return None, 0.0, ""


def first_that_matters(recorder: Recorder, change: Change, compared: Callable[[Any], Compared]) -> tuple[Compared, bool]:
    """The comparison for the first input whose change changes an output; of the first one, where none does.

    And whether as many random values were drawn as without the change.
    """
    first: tuple[Compared, bool] | None = None
    for choice in range(recorder.choices):
        recorder.choice = choice
        found = compared(recorder.run(change))
        first = first or (found, recorder.aligned)
        if found[1] or found[0]:
            first = found, recorder.aligned
            break
    recorder.choice = 0
    return first or ((None, 0.0, ""), True)


def compare(base: Any, after: Any, others: Any, own: Any, extent: int, *, axis: int) -> Compared:
    """The root's change outside and inside the changed part, and the first module whose outside changed."""
    fitting = [p for p in base if p in after and base[p].ndim > axis and base[p].shape[axis] == extent]
    if not fitting:
        return None, 0.0, ""
    root = "" if "" in fitting else fitting[-1]
    leaking = next((p for p in fitting if p and change_of(base[p], after[p], others) > NOTHING), root)
    return change_of(base[root], after[root], others), change_of(base[root], after[root], own), leaking
