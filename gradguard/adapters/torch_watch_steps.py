"""What a watched loop's optimizer steps do: one fused norm over the gradients now and then, transferred late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gradguard.adapters.torch_watch_distance import Distance
from gradguard.adapters.torch_watch_idle import IdleWatch
from gradguard.adapters.torch_watch_spikes import Sentinel
from gradguard.adapters.training_base import StepFacts, Trace

__all__ = ["EARLY", "ROWS", "Row", "Steps", "fused"]

ROWS = 512
"""Steps kept; when they are full every second one is dropped, so that memory does not grow with the number of steps."""
EARLY = 20
"""Gradients are looked at on each of the first steps, later on every k-th."""
FORCED = 3
"""Steps kept because something in them is not finite, whatever their number."""


@dataclass
class Losses:
    """The mean of some losses; the sum stays on the device."""

    total: torch.Tensor | None = None
    count: int = 0

    def add(self, value: torch.Tensor) -> None:
        """One more."""
        self.total = value if self.total is None else self.total + value.to(self.total.device)
        self.count += 1


@dataclass
class Row:
    """One optimizer step; norms stay on the device until they are read. ``losses`` are those of its micro-batches."""

    step: int
    lr: tuple[float, ...]
    losses: Losses = field(default_factory=Losses)
    gradient: list[torch.Tensor | None] | None = None
    weight: list[torch.Tensor | None] | None = None
    update: list[torch.Tensor | None] | None = None
    skipped: torch.Tensor | None = None
    """Where a loss scaler gives the optimizer its own flag: above 0 where the step did nothing."""


@dataclass
class Open:
    """A step that has begun and not ended; one whose step raises never ends."""

    row: Row
    due: bool
    closure: bool
    mine: set[int] | None
    """The ids of this optimizer's parameters; None where there is no other optimizer."""
    before: list[tuple[torch.nn.Parameter, torch.Tensor]] = field(default_factory=list)


class Steps:
    """The steps of all optimizers, in the order in which they are made."""

    def __init__(
        self, named: Sequence[tuple[str, torch.nn.Parameter]], optimizers: Sequence[torch.optim.Optimizer], every: int
    ) -> None:
        self.names = tuple(name for name, _ in named)
        self.params = [p for _, p in named]
        self.several = len(optimizers) > 1
        self.every, self.stride = every, 1
        self.rows: list[Row] = []
        self.last: Row | None = None
        self.count = 0
        self.counts = {id(o): 0 for o in optimizers}
        self.unseen = set(range(len(self.params)))
        self.idle = IdleWatch(optimizers)
        self.distance = Distance(self.params)
        self.far = True
        """The distance can be measured: where that raises once, it is not tried again."""
        self.pending = Losses()
        self.between = False
        """Something was called since the last step: what is recorded now belongs to the next."""
        self.forced = 0
        self._open: dict[int, Open] = {}
        self._sentinels = {id(o): Sentinel(self._mine(o)) for o in optimizers}

    def _mine(self, optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
        held = {id(p) for g in optimizer.param_groups for p in g["params"]}
        return [p for p in self.params if id(p) in held]

    def open(self, optimizer: torch.optim.Optimizer) -> bool:
        """This optimizer's step has begun (its class calls the step of its base)."""
        return id(optimizer) in self._open

    def loss(self, value: torch.Tensor) -> None:
        """A loss of the step that is under way, or of the one that was just made."""
        (self.pending if self.between or self.last is None else self.last.losses).add(value)

    def begin(self, optimizer: torch.optim.Optimizer, *, closure: bool, look: bool) -> tuple[str, list[str]]:
        """Gradients are read here; with a closure they are not yet made.

        Returns what is wrong (``""``, ``"spike"``, ``"nonfinite"``) as far as it is known now, and the blocks that got
        their first gradient.
        """
        count = self.counts.setdefault(id(optimizer), 0)
        self.idle.stepped(optimizer)
        row = Row(self.count, tuple(float(g["lr"]) for g in optimizer.param_groups))
        row.losses, self.pending = self.pending, Losses()
        row.skipped = getattr(optimizer, "found_inf", None)
        sampled = chosen(count // self.every, self.every) == count % self.every or not count
        due = count < EARLY or sampled or look
        mine = {id(p) for g in optimizer.param_groups for p in g["params"]} if self.several else None
        one = self._open[id(optimizer)] = Open(row, due, closure, mine)
        if sampled:
            self._measure()
            held = [p for p in self.params if id(p) in mine] if mine is not None else self.params
            row.weight = self._columns(held, fused(held))
            one.before = [(p, p.detach().clone()) for p in held]
        return self._read(optimizer, one) if not closure else ("", [])

    def _measure(self) -> None:
        if self.far:
            try:
                self.distance.see()
            except (RuntimeError, TypeError):  # a parameter that changed its shape, or has no strides
                self.far = False

    def end(self, optimizer: torch.optim.Optimizer) -> tuple[str, list[str]]:
        """The step is made; see :meth:`begin` for what is returned."""
        one = self._open.pop(id(optimizer), None)
        if one is None:
            return "", []
        found = self._read(optimizer, one) if one.closure else ("", [])
        row = self.last = one.row
        if one.before:
            held = [p for p, _ in one.before]
            with torch.no_grad():
                difference: Any = torch._foreach_sub(list(held), [b for _, b in one.before])
            row.update = self._columns(held, fused(difference))
        if chosen(self.count // self.stride, self.stride) == self.count % self.stride or row.gradient is not None:
            self.rows.append(row)
        if len(self.rows) > ROWS:
            self._thin()
        self.count += 1
        self.counts[id(optimizer)] += 1
        self.between = False
        return found

    def _read(self, optimizer: torch.optim.Optimizer, one: Open) -> tuple[str, list[str]]:
        new = [i for i in self.unseen if self.params[i].grad is not None]
        self.unseen.difference_update(new)
        scale = getattr(optimizer, "grad_scale", None)
        sentinel = self._sentinels.get(id(optimizer))
        wrong = "" if sentinel is None or one.row.skipped is not None else sentinel.see(scale, read_late=one.due)
        forced = wrong == "nonfinite" and self.forced < FORCED
        self.forced += forced
        if one.due or new or forced:
            grads = [p.grad if one.mine is None or id(p) in one.mine else None for p in self.params]
            one.row.gradient = fused(grads, scale)
            self.idle.see()
        return wrong, [self.names[i] for i in new]

    def _columns(self, held: Sequence[torch.nn.Parameter], values: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Values of some parameters, one for each of all."""
        known = {id(p): value for p, value in zip(held, values, strict=True)}
        return [known.get(id(p)) for p in self.params]

    def nonfinite_blocks(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """The blocks whose gradient in the step under way is not finite."""
        one = self._open.get(id(optimizer))
        values = one.row.gradient if one is not None else self.last.gradient if self.last is not None else None
        return [n for n, bad in zip(self.names, np.isinf(read(values)), strict=True) if bad] if values is not None else []

    def _thin(self) -> None:
        """Half of the rows, the first ones kept: memory stays bounded."""
        self.stride *= 2
        self.every *= 2
        late = self.rows[EARLY:]
        self.rows = self.rows[:EARLY] + [pair[chosen(i, len(pair))] for i, pair in enumerate(pairs_of(late))]

    def forget(self) -> None:
        """No copy of a parameter is left."""
        self._open.clear()
        self.distance.forget()

    def trace(self) -> Trace:
        """The steps that were kept, transferred now; without those that a loss scaler skipped."""
        rows = [r for r in self.rows if r.skipped is None or not float(r.skipped) > 0]
        columns = {key: np.full((len(rows), len(self.params)), math.nan) for key in ("gradient", "weight", "update")}
        steps: list[StepFacts] = []
        known = next((mean_of(r.losses) for r in rows if r.losses.count), None)
        last_loss = known if known is not None else math.nan  # a step without a record stands at the loss before it
        for i, row in enumerate(rows):
            for key, table in columns.items():
                values = getattr(row, key)
                if values is not None:
                    table[i] = read(values)
            gradient = columns["gradient"][i]
            present = ~np.isnan(gradient)
            loss = last_loss = mean_of(row.losses) if row.losses.count else last_loss
            with np.errstate(invalid="ignore"):  # both may be infinite
                ratio = columns["update"][i] / np.where(columns["weight"][i] > 0, columns["weight"][i], math.nan)
            good = ratio[np.isfinite(ratio)]
            steps.append(
                StepFacts(
                    step=row.step,
                    batch=row.step,
                    loss=loss,
                    lr=row.lr,
                    grad_norm=float(np.sqrt(np.sum(gradient[present] ** 2))) if present.any() else math.nan,
                    update_ratio=float(np.median(good)) if good.size else math.nan,
                    nonfinite=int(np.isinf(gradient).sum()) + int(known is not None and not math.isfinite(loss)),
                )
            )
        bad = next((s for s in steps if s.nonfinite), None)
        stopped = (
            f"not finite at step {bad.step}"
            if bad is not None and known is not None and not math.isfinite(steps[-1].loss)
            else ""
        )
        return Trace(
            steps=tuple(steps),
            blocks=self.names,
            gradient=columns["gradient"],
            weight=filled(columns["weight"]),
            update=columns["update"],
            stopped=stopped,
            movement=self.distance.shares() if self.far else None,
        )


def pairs_of(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Two and two; the last one may be alone."""
    return [rows[i : i + 2] for i in range(0, len(rows), 2)]


def chosen(block: int, size: int) -> int:
    """One of every ``size``, scattered (Knuth's multiplicative hash): batches that come in turns are all sampled."""
    return (block * 2654435761 % 2**32 >> 8) % size


def mean_of(losses: Losses) -> float:
    """Transferred now."""
    return float(losses.total) / losses.count if losses.total is not None else math.nan


def filled(columns: Any) -> Any:
    """Each column's gaps at its latest value."""
    result = columns.copy()
    for column in result.T:
        known = column[np.isfinite(column)]
        column[np.isnan(column)] = known[-1] if known.size else math.nan
    return result


def fused(tensors: Sequence[torch.Tensor | None], scale: torch.Tensor | None = None) -> list[torch.Tensor | None]:
    """Norms of tensors in one fused pass, left on the device; None for None. ``scale``: divide by a loss scale."""
    dense = [(i, t.detach()) for i, t in enumerate(tensors) if t is not None]
    result: list[torch.Tensor | None] = [None] * len(tensors)
    plain = [(i, t) for i, t in dense if not t.is_sparse and not hasattr(t, "full_tensor")]
    if plain:
        for (i, _), value in zip(plain, torch._foreach_norm([t for _, t in plain]), strict=True):
            result[i] = value if scale is None else value / scale
    for i, t in dense:
        if result[i] is None:
            sharded: Any = t
            local = t.coalesce().values() if t.is_sparse else sharded.full_tensor()
            result[i] = torch.linalg.vector_norm(local)
    return result


def read(values: Sequence[torch.Tensor | None]) -> Any:
    """Numbers of norms on the device: NaN for None, infinite for not finite."""
    numbers = np.array([math.nan if v is None else float(v) for v in values])
    bad = np.array([v is not None for v in values]) & np.isnan(numbers)
    return np.where(bad, math.inf, numbers)
