"""Does an output depend on another sample of the batch, or on a later position? Change one and compare, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.observing_base import Leaks
from gradguard.adapters.torch_batch_parts import mapped, tensors_of
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_untouched import preserved_rng
from gradguard.errors import UsageError

__all__ = ["leaks_of"]

NOTHING = 1e-5
"""A change of an output relative to its largest entry that is rounding."""


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
            with preserved_rng(self.seed), torch.no_grad():
                batch = self.batch if self.calls or change is None else self.changed(self.batch, change)
                self.session.loss(batch)
                if not called and self.calls:
                    self.calls = False
                    self.changed(self.batch, None)
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
    notes: list[str] = []
    found: dict[str, Any] = {}
    if sample and second_axis(given, base.get("")):
        notes.append("independent_samples: the outputs' first axis is the inputs' second")
    elif sample and given.shape[0] > 1:
        n = given.shape[0]
        one, rest = (slice(0, 1),), (slice(1, None),)
        others, own, module = first_that_is_taken(
            recorder, (replace_sample, repeat_sample), lambda after: compare(base, after, rest, one, n, axis=0)
        )
        if others is not None and others <= NOTHING:  # what takes the largest of a batch may not have taken this one
            back = first_that_is_taken(
                recorder, (replace_others, repeat_first), lambda after: compare(base, after, one, rest, n, axis=0)
            )
            if back[0] is not None and back[0] > others:
                others, module = back[0], back[2]
        found.update(sample=others, sample_own=own, module_sample=module)
    elif sample:
        notes.append("independent_samples: the batch holds one sample")
    if future and given.ndim >= 2 and given.shape[1] > 1:
        n, cut, rows = given.shape[1], given.shape[1] // 2, slice(None)
        earlier, own, module = first_that_is_taken(
            recorder,
            (
                lambda x: replace_future(x, cut) if x.ndim >= 2 and x.shape[1] == n else x,
                lambda x: exchange_future(x, cut) if x.ndim >= 2 and x.shape[1] == n else x,
            ),
            lambda after: compare(base, after, (rows, slice(0, cut)), (rows, slice(cut, None)), n, axis=1),
        )
        found.update(future=earlier, future_own=own, module_future=module)
    elif future:
        notes.append("causal: the input has no positions on its second axis")
    return Leaks(reason="; ".join(notes), notes=tuple(notes), **found)


def changeable(path: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of what the model is given has rows to change, and is no mask."""
    return bool(tensor.ndim) and tensor.layout == torch.strided and tensor.dtype != torch.bool and "mask" not in path


Compared = tuple[float | None, float, str]


def second_axis(given: torch.Tensor, made: torch.Tensor | None) -> bool:
    """Whether samples lie along the second axis of the input: the model's output has its extent first."""
    if made is None or not made.ndim or given.ndim < 2:
        return False
    return made.shape[0] == given.shape[1] != given.shape[0]


def first_that_is_taken(recorder: Recorder, changes: Sequence[Any], compared: Callable[[Any], Compared]) -> Compared:
    """The comparison for the first change that the model takes: numbers of a range, or of a table, cannot be just any."""
    for change in changes:
        try:
            return first_that_matters(recorder, change, compared)
        except UsageError:
            recorder.choice = 0
    return None, 0.0, ""


def first_that_matters(recorder: Recorder, change: Any, compared: Callable[[Any], Compared]) -> Compared:
    """The comparison for the first input whose change changes an output; of the first one, where none does."""
    first: Compared | None = None
    for choice in range(recorder.choices):
        recorder.choice = choice
        found = compared(recorder.run(change))
        first = first or found
        if found[1] or found[0]:
            first = found
            break
    recorder.choice = 0
    return first or (None, 0.0, "")


def compare(base: Any, after: Any, others: Any, own: Any, extent: int, *, axis: int) -> Compared:
    """The root's change outside and inside the changed part, and the first module whose outside changed."""
    fitting = [p for p in base if p in after and base[p].ndim > axis and base[p].shape[axis] == extent]
    if not fitting:
        return None, 0.0, ""
    root = "" if "" in fitting else fitting[-1]
    leaking = next((p for p in fitting if p and change_of(base[p], after[p], others) > NOTHING), root)
    return change_of(base[root], after[root], others), change_of(base[root], after[root], own), leaking


def replace_sample(x: torch.Tensor) -> torch.Tensor:
    """Sample 0 made different: noise of its scale, or other values of the batch."""
    new = x.clone()
    if x.is_floating_point():
        new[0] = x[0] + noise_like(x[0]) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[0] = x[1:].reshape(-1).flip(0)[: x[0].numel()].reshape(x[0].shape)
        if torch.equal(new[0], x[0]):
            new[0] = torch.where(x[0] == x.max(), x.min(), x.max())
    return new


def replace_others(x: torch.Tensor) -> torch.Tensor:
    """Every sample but the first made different, and on a larger scale where it has one."""
    new = x.clone()
    rest = x[1:]
    if x.is_floating_point():
        new[1:] = 3 * rest + noise_like(rest) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[1:] = torch.where(rest == x.max(), x.min(), x.max())
    return new


def repeat_sample(x: torch.Tensor) -> torch.Tensor:
    """The next sample in the place of sample 0."""
    return torch.cat([x[1:2], x[1:]])


def repeat_first(x: torch.Tensor) -> torch.Tensor:
    """Sample 0 in the place of every other."""
    return x[:1].expand_as(x).clone()


def exchange_future(x: torch.Tensor, cut: int) -> torch.Tensor:
    """Positions from ``cut`` on as they are in the next sample."""
    return torch.cat([x[:, :cut], x.roll(1, dims=0)[:, cut:]], dim=1)


def replace_future(x: torch.Tensor, cut: int) -> torch.Tensor:
    """Positions from ``cut`` on made different."""
    new = x.clone()
    tail = x[:, cut:]
    if x.is_floating_point():
        new[:, cut:] = tail + noise_like(tail) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[:, cut:] = torch.where(tail == x.max(), x.min(), x.max())
    return new


def noise_like(x: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of their own: the model draws what it would have drawn."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
