"""Watches a torch loop that is the user's own: gradients where the optimizer reads them, units in looks now and then.

On a step: one fused norm over all gradients, kept on the device and transferred late. Nothing is written to the model.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gradguard.adapters.base import Counts
from gradguard.adapters.observing_base import LayerUnits, Look, LossFacts, Nonfinite
from gradguard.adapters.torch_graph import losses_of, predictions_of
from gradguard.adapters.torch_observe import identical_rows, kept_buffers
from gradguard.adapters.torch_outputs import Outputs
from gradguard.adapters.torch_spy import Spy, bad_rows, first_tensor
from gradguard.adapters.torch_stale import StaleWatch
from gradguard.adapters.torch_training import clean, preserved_rng
from gradguard.adapters.training_base import OptimizerFacts, ParameterFacts, StepFacts, Trace
from gradguard.blocks import Block
from gradguard.errors import UsageError

__all__ = ["TorchWatch"]

ROWS = 512
"""Steps kept; when they are full every second one is dropped, so that memory does not grow with the number of steps."""
EARLY = 20
"""Gradients are looked at on each of the first steps, later on every k-th."""
LOOKS = 3
KEPT_LOOKS = 8


@dataclass
class Row:
    """One optimizer step; norms stay on the device until they are read."""

    step: int
    losses: list[torch.Tensor]
    lr: tuple[float, ...]
    gradient: list[torch.Tensor | None] | None = None
    weight: list[torch.Tensor] | None = None
    update: list[torch.Tensor] | None = None


@dataclass
class Seen:
    """What looks at passes gave, bounded."""

    units: deque[tuple[LayerUnits, ...]] = field(default_factory=lambda: deque(maxlen=KEPT_LOOKS))
    first: list[tuple[LayerUnits, ...]] = field(default_factory=list)
    start: Look | None = None
    last: Look | None = None


class TorchWatch:
    """Hooks on one model and its optimizers, for as long as the block of ``watch`` runs."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        objective: str,
        every: int,
        looks_every: int,
        units: str,
    ) -> None:
        self.model, self.optimizers, self.objective = model, list(optimizers), objective
        self.every, self.looks_every, self.units = every, looks_every, units
        self.counts = Counts()
        self.path = "the user's loop"
        self.notes: tuple[str, ...] = ()
        self.named = [(clean(n), p) for n, p in model.named_parameters() if p.requires_grad]
        self.params = [p for _, p in self.named]
        self.blocks = tuple(Block(name=n, shape=tuple(p.shape), dtype=str(p.dtype)) for n, p in self.named)
        self.parameters = self._parameters()
        self.compiled = any(
            hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()
        )
        if self.compiled:
            self.notes = ("the model is compiled: its units were not looked at",)
        self.rows: list[Row] = []
        self.stride = 1
        self.steps = self.forwards = self.looks = 0
        self.unseen = {i for i, p in enumerate(self.params)}
        self.pending: list[torch.Tensor] = []
        self.seen = Seen()
        self.losses: tuple[LossFacts, ...] = ()
        self.first_outputs, self.last_outputs = Outputs(), deque[tuple[Any, Any]](maxlen=KEPT_LOOKS)
        self.recorded = 0
        self.nonfinite: Nonfinite | None = None
        self.nonfinite_step: int | None = None
        self.cut: tuple[str, ...] = ()
        self.stale = StaleWatch(self.optimizers)
        self.inputs: tuple[Any, Any] | None = None
        self.start_rows = tuple(n for n, p in self.named if identical_rows(p))
        self.start_zero = tuple(n for n, p in self.named if not bool(p.detach().any()))
        self.peaks: dict[str, torch.Tensor] = {}
        self._spy: Spy | None = None
        self._context: Any = None
        self._before: list[torch.Tensor] | None = None
        self._handles: list[Any] = []

    def _parameters(self) -> tuple[ParameterFacts, ...]:
        groups: dict[int, int] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                index = len(set(groups.values()))
                groups.update({id(p): index for p in group["params"]})
        facts = []
        for name, parameter in self.model.named_parameters():
            path = name.rpartition(".")[0]
            facts.append(
                ParameterFacts(
                    name=clean(name),
                    shape=tuple(parameter.shape),
                    dtype=str(parameter.dtype).removeprefix("torch."),
                    module=clean(path),
                    owner=type(self.model.get_submodule(path)).__name__,
                    trainable=parameter.requires_grad,
                    group=groups.get(id(parameter)),
                )
            )
        return tuple(facts)

    @contextmanager
    def installed(self) -> Iterator[TorchWatch]:
        """Hooks in, and out again whatever happens."""
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        self._handles.append(self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(self._after_forward, always_call=True))
        self._handles.extend(self.stale.install())
        try:
            yield self
        finally:
            self._end_look()
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            self.stale.forget()
            self.inputs = self._before = None

    # passes

    def _before_forward(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        self.inputs = (args, kwargs)
        due = self.looks < LOOKS or self.forwards % self.looks_every == 0
        self.forwards += 1
        if due and not self.compiled and self._spy is None:
            self._spy = Spy(self.model, clean)
            self._context = self._spy.installed(root=False)
            self._context.__enter__()

    def _after_forward(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self._spy is None:
            return
        spy = self._spy
        spy.leave_root(args, output)
        self._end_look()
        value = first_tensor(output)
        if value is None:
            return
        self.looks += 1
        spy.root_output = value
        samples = int(value.shape[0]) if value.ndim else 0
        if spy.first_bad is not None and self.nonfinite is None:
            name, owner, where, before, rows = spy.first_bad
            self.nonfinite = Nonfinite(module=name, owner=owner, batch=self.forwards - 1, where=where, before=before, rows=rows)
            self.nonfinite_step = self.steps
        self.cut = tuple(dict.fromkeys((*self.cut, *spy.cut)))
        order = tuple(dict.fromkeys((*(self.seen.start.order if self.seen.start else ()), *spy.order)))
        units = spy.unit_facts()
        shown = Outputs()
        shown.add(None, value)
        look = Look(
            outputs=shown.facts(),
            step=self.steps,
            units=units,
            attention=spy.attention_facts(),
            codes=spy.code_facts(),
            modules=spy.module_facts(),
            order=order,
            matrices=tuple(spy.matrices),
            low_precision=spy.low_precision,
            samples=samples,
        )
        if len(self.seen.first) < LOOKS and self.steps < LOOKS:
            self.seen.first.append(units)
        if self.seen.start is None:
            self.seen.start = look
            self._follow_units()
        self.seen.units.append(units)
        self.seen.last = look

    def _end_look(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._spy = self._context = None

    def _follow_units(self) -> None:
        """With ``units="every"``: the largest input of every ReLU that a layer with weights feeds, on every step."""
        if self.units != "every" or self.seen.start is None:
            return
        modules = {clean(n): m for n, m in self.model.named_modules()}
        for units in self.seen.start.units:
            if units.kind == "relu" and units.module in modules and units.module not in self.peaks:
                channels = len(units.slope)
                self._handles.append(modules[units.module].register_forward_hook(self._peak(units.module, channels)))

    def _peak(self, path: str, channels: int) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            value = first_tensor(output)
            if value is None or not torch.is_grad_enabled():
                return
            axis = 1 if value.ndim == 4 and value.shape[1] == channels else value.ndim - 1
            if value.shape[axis] != channels:
                return
            peak = value.detach().amax(dim=[i for i in range(value.ndim) if i != axis])
            old = self.peaks.get(path)
            self.peaks[path] = peak if old is None else torch.maximum(old, peak)

        return hook

    # steps

    def _due(self, step: int) -> bool:
        return step < EARLY or step % self.every == 0

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.stale.before_step(optimizer)
        new = [i for i in self.unseen if self.params[i].grad is not None]
        self.unseen.difference_update(new)
        lrs = tuple(float(g["lr"]) for g in optimizer.param_groups)
        row = Row(self.steps, self.pending, lrs)
        self.pending = []
        if self._due(self.steps) or new:
            mine = {id(p) for g in optimizer.param_groups for p in g["params"]} if len(self.optimizers) > 1 else None
            grads = [p.grad if mine is None or id(p) in mine else None for p in self.params]
            row.gradient = fused(grads, getattr(optimizer, "grad_scale", None))
        if self.steps % self.every == 0:
            row.weight = [n for n in fused(self.params) if n is not None]
            self._before = [p.detach().clone() for p in self.params]
        if self.steps % self.stride == 0 or row.gradient is not None:
            self.rows.append(row)
        if len(self.rows) > ROWS:
            self._thin()

    def _thin(self) -> None:
        """Half of the rows, the first ones kept: memory stays bounded."""
        self.stride *= 2
        self.every *= 2
        self.rows = self.rows[:EARLY] + self.rows[EARLY::2]

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.stale.after_step(optimizer)
        if self._before is not None and self.rows:
            with torch.no_grad():
                difference: Any = torch._foreach_sub(list(self.params), self._before)
            self.rows[-1].update = [n for n in fused(difference) if n is not None]
            self._before = None
        self.steps += 1

    # what the user records

    def record(self, loss: Any, output: Any, labels: Any) -> None:
        """The loss of this batch, and its outputs and labels, where the user gives them."""
        if loss is not None:
            if not isinstance(loss, torch.Tensor):
                loss = torch.tensor(float(loss))
            if loss.numel() != 1:
                raise UsageError(
                    f"record(loss=...) takes a scalar, got a tensor of shape {tuple(loss.shape)}",
                    todo="record the reduced loss",
                )
            if not self.losses and loss.grad_fn is not None:
                self.losses = losses_of(loss)
            value = loss.detach().reshape(())
            self.pending.append(value)
            if value.device.type == "cpu" and self.nonfinite is None and not math.isfinite(float(value)):
                self._find_nonfinite()
        due = self.recorded < LOOKS or self.recorded % self.every == 0
        self.recorded += 1
        if due:
            made = first_tensor(output)
            if made is None and isinstance(loss, torch.Tensor) and loss.grad_fn is not None:
                try:
                    prediction = predictions_of(loss)
                except RuntimeError:  # backward has freed what the loss had saved
                    prediction = None
                if prediction is not None:
                    kept = (prediction, None)
                    self.last_outputs.append(kept)
                    if self.recorded <= LOOKS:
                        self.first_outputs.add(prediction, None)
            elif made is not None:
                kept_labels = labels.detach() if isinstance(labels, torch.Tensor) else labels
                self.last_outputs.append((made.detach(), kept_labels))
                if self.recorded <= LOOKS:
                    self.first_outputs.add_declared(made.detach(), kept_labels)

    def _find_nonfinite(self) -> None:
        """One more forward of the last batch names the first bad module; buffers and random states are restored."""
        self.nonfinite_step = self.steps
        if self.inputs is None or self.compiled:
            return
        args, kwargs = self.inputs
        spy = Spy(self.model, clean)
        hooks, self.inputs = self._handles, None
        with preserved_rng(), kept_buffers(self.model), torch.no_grad(), spy.installed():
            self.model(*args, **kwargs)
        self._handles = hooks
        given = first_tensor([*args, *kwargs.values()])
        if given is not None and not bool(torch.isfinite(given).all()):
            self.nonfinite = Nonfinite(module="", owner="", batch=self.forwards - 1, where="input", rows=bad_rows(given))
        elif spy.first_bad is not None:
            name, owner, where, before, rows = spy.first_bad
            self.nonfinite = Nonfinite(module=name, owner=owner, batch=self.forwards - 1, where=where, before=before, rows=rows)
        else:
            self.nonfinite = Nonfinite(
                module="", owner="", batch=self.forwards - 1, where="loss", before=tuple(spy.module_order[-3:])
            )

    # what was seen

    def optimizer_facts(self) -> OptimizerFacts:
        """All optimizers as one."""
        mine = {id(p) for p in self.model.parameters()}
        held = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        owned = sum(id(p) in mine for p in held)
        return OptimizerFacts(
            name=", ".join(type(o).__name__ for o in self.optimizers),
            lrs=tuple(float(g["lr"]) for o in self.optimizers for g in o.param_groups),
            foreign=len(held) - owned,
            owned=owned,
        )

    def trace(self) -> Trace:
        """The steps that were kept, transferred now."""
        names, n = tuple(name for name, _ in self.named), len(self.params)
        columns = {key: np.full((len(self.rows), n), math.nan) for key in ("gradient", "weight", "update")}
        steps: list[StepFacts] = []
        known = next((r.losses for r in self.rows if r.losses), [])
        last_loss = float(known[0]) if known else math.nan  # a step without a record stands at the loss before it
        for i, row in enumerate(self.rows):
            for key, table in columns.items():
                values = getattr(row, key)
                if values is not None:
                    table[i] = read(values)
            present = ~np.isnan(columns["gradient"][i])
            losses = [float(x) for x in row.losses]
            loss = float(np.mean(losses)) if losses else last_loss
            last_loss = loss
            ratio = columns["update"][i] / np.where(columns["weight"][i] > 0, columns["weight"][i], math.nan)
            good = ratio[np.isfinite(ratio)]
            steps.append(
                StepFacts(
                    step=row.step,
                    batch=row.step,
                    loss=loss,
                    lr=row.lr,
                    grad_norm=float(np.sqrt(np.sum(columns["gradient"][i][present] ** 2))) if present.any() else math.nan,
                    update_ratio=float(np.median(good)) if good.size else math.nan,
                    nonfinite=int(np.isinf(columns["gradient"][i]).sum()) + int(bool(known) and not math.isfinite(loss)),
                )
            )
        last = next((w for w in columns["weight"][::-1] if np.isfinite(w).any()), np.full(n, math.nan))
        weight = np.where(np.isnan(columns["weight"]), last, columns["weight"])
        bad = next((s for s in steps if s.nonfinite), None)
        stopped = f"not finite at step {bad.step}" if bad is not None and math.isnan(steps[-1].loss) else ""
        return Trace(
            steps=tuple(steps),
            blocks=names,
            gradient=columns["gradient"],
            weight=weight,
            update=columns["update"],
            stopped=stopped,
        )

    def passes(self) -> tuple[Look, Look | None]:
        """Looks at the start and at the end, with their units merged over the passes that were seen."""
        start = self.seen.start or Look(step=0)
        start = replaced(
            start,
            units=merged(self.seen.first or [start.units]),
            losses=self.losses,
            outputs=self.first_outputs.facts() or start.outputs,
        )
        start = replaced(start, identical_rows=self.start_rows, zero_blocks=self.start_zero)
        if self.nonfinite is not None and not self.nonfinite_step:
            start = replaced(start, nonfinite=self.nonfinite)
        if self.seen.last is None or not self.steps:
            return start, None
        outputs = Outputs()
        for made, labels in self.last_outputs:
            if isinstance(made, torch.Tensor):
                outputs.add_declared(made, labels)
            else:
                outputs.add(made, None)
        end = replaced(
            self.seen.last,
            units=self._with_peaks(merged(list(self.seen.units))),
            outputs=outputs.facts() or self.seen.last.outputs,
            losses=self.losses,
            identical_rows=tuple(n for n, p in self.named if identical_rows(p)),
            zero_blocks=tuple(n for n, p in self.named if not bool(p.detach().any())),
            step=self.steps,
            nonfinite=self.nonfinite if self.nonfinite_step else None,
        )
        return start, end

    def _with_peaks(self, units: tuple[LayerUnits, ...]) -> tuple[LayerUnits, ...]:
        """A unit that any step saw above 0 is alive."""
        result = []
        for u in units:
            peak = self.peaks.get(u.module)
            if u.kind == "relu" and peak is not None and peak.shape[0] == len(u.slope):
                alive = (peak > 0).cpu().numpy()
                u = replaced(u, slope=np.maximum(u.slope, alive.astype(np.float64)))
            result.append(u)
        return tuple(result)


def replaced(value: Any, **changes: Any) -> Any:
    """The dataclass with other fields."""
    from dataclasses import replace

    return replace(value, **changes)


def merged(looks: Sequence[tuple[LayerUnits, ...]]) -> tuple[LayerUnits, ...]:
    """Units over several passes: the largest derivative, means weighted by samples."""
    found: dict[tuple[str, str, str], LayerUnits] = {}
    for units in looks:
        for u in units:
            key = (u.layer, u.kind, u.block)
            old = found.get(key)
            if old is None or len(old.slope) != len(u.slope):
                found[key] = u
                continue
            n, m = old.samples, u.samples
            mean = {k: (getattr(old, k) * n + getattr(u, k) * m) / max(1, n + m) for k in ("flat", "zeros", "size")}
            rms = np.sqrt((old.rms**2 * n + u.rms**2 * m) / max(1, n + m))
            found[key] = replaced(
                old, samples=n + m, slope=np.maximum(old.slope, u.slope), rms=rms, pruned=old.pruned & u.pruned, **mean
            )
    return tuple(found.values())


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
