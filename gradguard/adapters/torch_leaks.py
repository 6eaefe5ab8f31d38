"""Does an output depend on another sample of the batch, or on a later position? Change one and compare, in eval mode."""

from __future__ import annotations

from typing import Any

import torch

from gradguard.adapters.observing_base import Leaks
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_training import Session, preserved_rng

__all__ = ["leaks_of"]


class Recorder:
    """Module outputs of one pass, and a change of the model's first tensor input on the way in."""

    def __init__(self, session: Session, batch: Any, seed: int) -> None:
        self.session, self.batch, self.seed = session, batch, seed
        self.given: torch.Tensor | None = None

    def run(self, change: Any = None) -> dict[str, torch.Tensor]:
        """First output tensor of every module by path; the root is the last. ``change(tensor)`` makes the new input."""
        made: dict[str, torch.Tensor] = {}
        handles = []

        def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
            places = [("a", i, v) for i, v in enumerate(args)] + [
                ("k", k, v) for k, v in kwargs.items() if "mask" not in str(k)
            ]
            place = next((p for p in places if isinstance(p[2], torch.Tensor) and p[2].ndim >= 1), None)
            if place is None:
                return None
            self.given = place[2]
            if change is None:
                return None
            new = change(place[2])
            if place[0] == "a":
                return (*args[: place[1]], new, *args[place[1] + 1 :]), kwargs
            return args, {**kwargs, place[1]: new}

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
                self.session.loss(self.batch)
        finally:
            for handle in handles:
                handle.remove()
        return made


def change_of(before: torch.Tensor, after: torch.Tensor, where: Any) -> float:
    """The largest change in a part of an output, relative to its largest magnitude."""
    if before.shape != after.shape:
        return 0.0
    scale = float(before.abs().max()) or 1.0
    part = (before[where] - after[where]).abs()
    return float(part.max()) / scale if part.numel() else 0.0


def leaks_of(session: Session, batch: Any, *, seed: int, sample: bool, future: bool) -> Leaks:
    """Change sample 0 (or the last half of the positions) and see whether anything else moves."""
    session.model.eval()
    recorder = Recorder(session, batch, seed)
    base = recorder.run()
    given = recorder.given
    if given is None or not base:
        return Leaks(reason="the model was not called with a tensor")
    notes: list[str] = []
    found: dict[str, Any] = {}
    if sample and given.shape[0] > 1:
        after = recorder.run(replace_sample)
        others, own, module = compare(base, after, (slice(1, None),), (slice(0, 1),), given.shape[0], axis=0)
        found.update(sample=others, sample_own=own, module_sample=module)
    elif sample:
        notes.append("independent_samples: the batch holds one sample")
    if future and given.ndim >= 2 and given.shape[1] > 1:
        cut = given.shape[1] // 2
        after = recorder.run(lambda x: replace_future(x, cut))
        rows = slice(None)
        earlier, own, module = compare(base, after, (rows, slice(0, cut)), (rows, slice(cut, None)), given.shape[1], axis=1)
        found.update(future=earlier, future_own=own, module_future=module)
    elif future:
        notes.append("causal: the input has no positions on its second axis")
    return Leaks(reason="; ".join(notes), notes=tuple(notes), **found)


def compare(base: Any, after: Any, others: Any, own: Any, extent: int, *, axis: int) -> tuple[float | None, float, str]:
    """The root's change outside and inside the changed part, and the first module whose outside changed."""
    fitting = [p for p in base if p in after and base[p].ndim > axis and base[p].shape[axis] == extent]
    if not fitting:
        return None, 0.0, ""
    root = "" if "" in fitting else fitting[-1]
    leaking = next((p for p in fitting if p and change_of(base[p], after[p], others) > 1e-5), root)
    return change_of(base[root], after[root], others), change_of(base[root], after[root], own), leaking


def replace_sample(x: torch.Tensor) -> torch.Tensor:
    """Sample 0 made different: noise of its scale, or other values of the batch."""
    new = x.clone()
    if x.is_floating_point():
        new[0] = x[0] + torch.randn_like(x[0]) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[0] = x[1:].reshape(-1).flip(0)[: x[0].numel()].reshape(x[0].shape)
        if torch.equal(new[0], x[0]):
            new[0] = torch.where(x[0] == x.max(), x.min(), x.max())
    return new


def replace_future(x: torch.Tensor, cut: int) -> torch.Tensor:
    """Positions from ``cut`` on made different."""
    new = x.clone()
    tail = x[:, cut:]
    if x.is_floating_point():
        new[:, cut:] = tail + torch.randn_like(tail) * (x.float().std().to(x.dtype) + 1e-3)
    else:
        new[:, cut:] = torch.where(tail == x.max(), x.min(), x.max())
    return new
