"""A torch function at a point, as numbers: values along tangents, analytical slopes, facts of a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.base import BlockFacts, Counts, Identity, Outside
from gradguard.adapters.nesting import flatten
from gradguard.adapters.torch_causes import first_difference
from gradguard.adapters.torch_failures import failure_of
from gradguard.adapters.torch_leaves import differentiable, graph_leaves
from gradguard.adapters.torch_session import Habits, Session
from gradguard.blocks import SIGNIFICANT, Block, Tangent, axis_name, draw, window_slices
from gradguard.errors import UsageError

__all__ = ["TorchProblem", "real_view"]

DENSE_BYTES = 1 << 22
"""Tangents are kept as float64 up to this size in all, else as one byte an entry."""
NOTICED = 1e-12
"""Relative difference of two equal calls from which on its cause is looked for."""
CHUNK = 1 << 20
"""Entries that a sum over a block converts at a time."""


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as real pairs (..., 2), a real one as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@dataclass
class Outputs:
    """The differentiable outputs of a pass: tensors, their names, and what was skipped."""

    tensors: list[torch.Tensor]
    names: list[str]
    skipped: list[str] = field(default_factory=list)


class TorchProblem:
    """phi(t) = Re <v, f(x + t u)> for a call on leaf tensors, within a session.

    ``call()`` runs the user's function on the leaves as they are; ``leaves`` holds the tensor of each block. All passes
    start from the session's state, so dropout and batch statistics are the same in each.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        blocks: Sequence[Block],
        leaves: Sequence[torch.Tensor],
        session: Session,
        *,
        originals: Sequence[torch.Tensor],
        seed: int,
        path: str,
        where: str,
        notes: Sequence[str] = (),
        counts: Counts | None = None,
        share: float = 1.0,
        scalar: bool = False,
        habits: Habits | None = None,
    ) -> None:
        self.call = call
        self.blocks = tuple(blocks)
        self.leaves = list(leaves)
        self.session = session
        self.originals = list(originals)
        self.seed = seed
        self.path = path
        self.where = where
        self.notes = tuple(notes)
        self.counts = counts or Counts()
        self.share = share
        self.scalar = scalar
        self.grad_mode = False
        self.habits = habits or Habits(session.lift, session.lift)
        self.known_habits = habits is not None
        self.names: list[str] = []
        self.integers: list[torch.Tensor] = []
        """The integer inputs: indices, labels."""
        self.frozen: dict[int, list[int]] = {}
        self.exchange: dict[int, torch.Tensor] = {}
        self.failure: Fault | None = None
        self._offset: tuple[Tangent, float] | None = None
        self._cotangents: list[torch.Tensor] | None = None
        self._base: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor | None] | None = None
        self._shapes: list[str] = []
        self._tangents: dict[int, tuple[Tangent, list[torch.Tensor | None]]] = {}
        self._scale = 0.0
        self._rms = [self._root_mean_square(t) for t in self.originals]

    @contextmanager
    def exchanged(self, leaf: torch.Tensor, value: torch.Tensor) -> Iterator[None]:
        """The call with another tensor in the place of an input."""
        self.exchange[id(leaf)] = value
        try:
            yield
        finally:
            del self.exchange[id(leaf)]

    # -- passes ---------------------------------------------------------------------------------------------------

    def collect(self, result: Any) -> Outputs:
        """The differentiable outputs among all leaves of a result."""
        outputs = Outputs([], [])
        floating: list[tuple[str, torch.Tensor]] = []
        for name, value in flatten(result, ""):
            if not isinstance(value, torch.Tensor):
                if value is not None and not isinstance(value, int | float | str | bool):
                    outputs.skipped.append(f"output {name or type(value).__name__}: {type(value).__name__} is no tensor")
                continue
            if differentiable(value):
                floating.append((name or "output", value))
        # An output without entries says nothing, unless there is no other.
        floating = [(n, t) for n, t in floating if t.numel()] or floating
        if self.scalar:
            only = floating[0][1] if len(floating) == 1 else None
            if only is None or only.numel() != 1:
                shapes = ", ".join(str(tuple(t.shape)) for _, t in floating) or type(result).__name__
                raise UsageError(
                    f"the loss is not a scalar: got {shapes}",
                    where=self.where,
                    todo="reduce it, for example with .mean()",
                )
        outputs.names = [name for name, _ in floating]
        outputs.tensors = [tensor for _, tensor in floating]
        return outputs

    def prepare(self, outputs: Outputs) -> None:
        """After the first pass: which outputs take part, their cotangents, and their base values."""
        kept = [i for i, t in enumerate(outputs.tensors) if t.requires_grad] or list(range(len(outputs.tensors)))
        self.used = kept
        self.names = [outputs.names[i] for i in kept]
        self.notes = (*self.notes, *outputs.skipped)
        self._cotangents = []
        for position, i in enumerate(kept):
            tensor = outputs.tensors[i].detach()
            values = real_view(tensor)
            if torch.isnan(values).any():
                bad = int(torch.isnan(values).sum())
                raise UsageError(
                    f"the {'loss' if self.scalar else 'output'} is NaN at this point "
                    f"({outputs.names[i]}: {bad} of {values.numel()} entries)",
                    where=self.where,
                    todo="check the inputs and the parameters for NaN, log(0), 0/0 and overflow",
                )
            pattern = torch.from_numpy(draw(self.seed + 7919, position, values.numel())).to(values.device)
            cotangent = (pattern.to(values.dtype) / SIGNIFICANT).reshape(values.shape)
            infinite = torch.isinf(values)
            if infinite.any():
                if infinite.all() and infinite.numel():
                    raise UsageError(
                        f"the {'loss' if self.scalar else 'output'} is infinite at this point ({outputs.names[i]})",
                        where=self.where,
                        todo="check the inputs and the parameters for log(0) and overflow",
                    )
                cotangent = torch.where(infinite, torch.zeros_like(cotangent), cotangent)
                self.notes = (*self.notes, f"{outputs.names[i]}: {int(infinite.sum())} infinite entries left out")
            self._cotangents.append(torch.view_as_complex(cotangent) if tensor.is_complex() else cotangent)

    def first_pass(self) -> list[torch.Tensor]:
        """Forward and backward at the point; everything later is compared with it.

        Returns the leaves that require a gradient in the graph of the outputs.

        Raises:
            UsageError: the output is NaN, there is none, or a loss is not scalar.
        """
        self._place(None, 0.0)
        self.session.reset(self.habits)
        with self._learning(), torch.enable_grad():
            result = self.call()
        self.counts.forwards += self.share
        outputs = self.collect(result)
        if not outputs.tensors:
            raise UsageError(
                "the model returns no floating-point tensor",
                where=f"{self.where}; it returned {type(result).__name__}",
                todo="return a tensor, or give loss=lambda output: ... that picks one",
            )
        self.prepare(outputs)
        leaves, frozen = graph_leaves(outputs.tensors[i] for i in self.used)
        self._freeze(frozen)
        with self._learning(backward=True):
            self._gradients, self._shapes = self._backward([outputs.tensors[i] for i in self.used])
        taped = [outputs.tensors[i].detach().clone() for i in self.used]
        del outputs, result
        if not self.known_habits:
            self.session.learn(self.habits)
        try:
            first = self._plain_outputs()
        except UsageError:
            raise
        except Exception:  # it takes gradients inside, or hooks its activations: it only runs with a graph
            self.grad_mode = True
            first = self._plain_outputs()
        self._base = [t.clone() for t in first]  # an output may share a leaf's memory
        self.tape_difference = self._difference(taped, self._base)
        if self.tape_difference > 0:
            self.grad_mode = True
            self._base = [t.clone() for t in self._plain_outputs()]
            self.tape_difference = self._difference(taped, self._base)
        assert self._cotangents is not None
        self._scale = sum(
            float((real_view(v).abs().double() * _finite(real_view(b)).abs().double()).sum())
            for v, b in zip(self._cotangents, self._base, strict=True)
        )
        return leaves

    def _freeze(self, frozen: dict[int, set[int]]) -> None:
        """Rows without a gradient by design stay where they are: no tangent moves them."""
        for i, leaf in enumerate(self.leaves):
            if id(leaf) in frozen and i not in self.frozen:
                self.frozen[i] = sorted(frozen[id(leaf)])
                self.notes = (
                    *self.notes,
                    f"{self.blocks[i].name}: padding row {self.frozen[i]} has no gradient by design; left out",
                )

    def _learning(self, *, backward: bool = False) -> AbstractContextManager[None]:
        if self.known_habits:
            return self.habits.mode(backward=backward)
        return self.session.learning(self.habits, backward=backward)

    def _plain_outputs(self) -> list[torch.Tensor]:
        result = self.session.call(self.call, self.habits, grad=self.grad_mode)
        self.counts.forwards += self.share
        outputs = self.collect(result)
        if len(outputs.tensors) <= max(self.used):
            raise UsageError("the number of outputs changes from call to call", where=self.where)
        return [outputs.tensors[i].detach() for i in self.used]

    @staticmethod
    def _difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        """The largest difference relative to the largest magnitude of that output; infinite where shapes differ."""
        worst = 0.0
        for one, other in zip(a, b, strict=True):
            if one.shape != other.shape:
                return float("inf")
            size = change = 0.0
            flat, again = real_view(one).reshape(-1), real_view(other).reshape(-1)
            for start in range(0, flat.numel(), CHUNK):
                x, y = (_finite(t[start : start + CHUNK]).double() for t in (flat, again))
                size, change = max(size, float(x.abs().max())), max(change, float((x - y).abs().max()))
            worst = max(worst, change / max(size, 1e-300))
        return worst

    def _backward(self, outputs: list[torch.Tensor]) -> tuple[list[torch.Tensor | None], list[str]]:
        assert self._cotangents is not None
        pairs = [(o, v) for o, v in zip(outputs, self._cotangents, strict=True) if o.requires_grad]
        self.counts.backwards += self.share
        if not pairs or not any(leaf.requires_grad for leaf in self.leaves):
            return [None] * len(self.leaves), [""] * len(self.leaves)
        # A copy: a backward that writes into its cotangent must not change ours.
        heads, cotangents = [o for o, _ in pairs], [v.to(o.dtype, copy=True) for o, v in pairs]
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        found: tuple[torch.Tensor | None, ...]
        try:
            with self.habits.mode(backward=True):
                found = torch.autograd.grad(heads, wanted, cotangents, allow_unused=True)
        except Exception as error:
            if not isinstance(error, RuntimeError) or "checkpoint" not in str(error):
                # Where lifting is what it cannot take, the native path decides.
                self.failure = None if self.path.startswith("lifted") else failure_of(self, error)
                if self.failure is not None:
                    return [None] * len(self.leaves), ["none: backward fails"] * len(self.leaves)
                raise UsageError(
                    f"backward raised {type(error).__name__}: {error}",
                    where=self.where,
                    todo="run loss.backward() on the same inputs to see it outside gradguard",
                ) from error
            found = self._backward_through_grad(heads, wanted, cotangents)
        by_leaf = iter(found)
        gradients: list[torch.Tensor | None] = []
        shapes: list[str] = []
        for leaf in self.leaves:
            gradient = next(by_leaf) if leaf.requires_grad else None
            if gradient is not None:
                gradient = gradient.detach()
                if gradient.layout != torch.strided:
                    gradient = gradient.to_dense()
            wrong = gradient is not None and gradient.shape != leaf.shape
            shapes.append(f"{tuple(gradient.shape)}" if wrong and gradient is not None else "")
            gradients.append(gradient)
        return gradients, shapes

    def _backward_through_grad(
        self, heads: list[torch.Tensor], wanted: list[torch.Tensor], cotangents: list[torch.Tensor]
    ) -> tuple[torch.Tensor | None, ...]:
        """For reentrant checkpointing, which refuses ``autograd.grad``: accumulate into ``.grad``, and put it back."""
        kept = [leaf.grad for leaf in wanted]
        # The session runs the graph again: the same state, a fresh tape.
        try:
            for leaf in wanted:
                leaf.grad = None
            self.session.reset(self.habits)
            with self.habits.mode(), torch.enable_grad():
                outputs = self.collect(self.call())
                live = [outputs.tensors[i] for i in self.used if outputs.tensors[i].requires_grad]
                torch.autograd.backward(live, cotangents)
            self.counts.forwards += self.share
            return tuple(leaf.grad for leaf in wanted)
        finally:
            for leaf, grad in zip(wanted, kept, strict=True):
                leaf.grad = grad

    # -- tangents -------------------------------------------------------------------------------------------------

    def _direction(self, tangent: Tangent) -> list[torch.Tensor | None]:
        """u, one tensor per block in the shape of its real view: float where small, one byte an entry where large."""
        cached = self._tangents.get(id(tangent))
        if cached is not None and cached[0] is tangent:
            return cached[1]
        if len(self._tangents) > 1 or sum(t.numel() for t in self.originals) * 8 > DENSE_BYTES:
            self._tangents.clear()
        dense = sum(self.originals[i].numel() for i in tangent.blocks) * 8 <= DENSE_BYTES
        result: list[torch.Tensor | None] = [None] * len(self.leaves)
        for i, scale in tangent.scales.items():
            target = real_view(self.leaves[i].data)
            pattern = torch.from_numpy(draw(tangent.seed, i, target.numel())).to(target.device).reshape(target.shape)
            if dense or tangent.relative:
                pattern = pattern.to(target.dtype) * (scale / SIGNIFICANT)
                if tangent.relative:
                    size = real_view(self.originals[i]).to(target.dtype).abs()
                    pattern *= torch.clamp(size / (self._rms[i] or 1.0), min=1e-3, max=1.0)
            if i in self.frozen:
                pattern[self.frozen[i]] = 0
            if i in tangent.windows:
                inside = window_slices(tangent.windows[i], self.leaves[i].dim())
                part = torch.zeros_like(pattern)
                part[inside] = pattern[inside]
                pattern = part
            result[i] = pattern
        for chosen in tangent.entries:
            target = real_view(self.leaves[chosen.block].data)
            single = torch.zeros(target.numel(), dtype=target.dtype, device=target.device)
            where = torch.tensor(chosen.indices, device=target.device)
            step = 2 if self.leaves[chosen.block].is_complex() else 1
            single[where * step] = torch.tensor(chosen.values, dtype=target.dtype, device=target.device)
            base = result[chosen.block]
            single = single.reshape(target.shape)
            if chosen.block in self.frozen:
                single[self.frozen[chosen.block]] = 0
            result[chosen.block] = single if base is None else base + single
        self._tangents[id(tangent)] = (tangent, result)
        return result

    def _add(self, i: int, direction: torch.Tensor, tangent: Tangent, t: float) -> None:
        data = real_view(self.leaves[i].data)
        alpha = t * tangent.scales[i] / SIGNIFICANT if direction.dtype == torch.int8 else t
        data.add_(direction, alpha=alpha)

    def _place(self, tangent: Tangent | None, t: float) -> None:
        """Set the leaves to x + offset + t u."""
        direction = self._direction(tangent) if tangent is not None else []
        offset = self._direction(self._offset[0]) if self._offset is not None else []
        with torch.no_grad():
            # Another problem on the same leaves (a point nearby, a module alone) may have left them elsewhere.
            elsewhere = self.session.moved
            moved = [
                i for i, leaf in enumerate(self.leaves) if id(leaf) in elsewhere or (direction and direction[i] is not None)
            ]
            if moved:
                torch._foreach_copy_([self.leaves[i].data for i in moved], [self.originals[i] for i in moved])
                elsewhere.difference_update(id(self.leaves[i]) for i in moved)
            if self._offset is not None:
                for i, u in enumerate(offset):
                    if u is not None:
                        self._add(i, u, self._offset[0], self._offset[1])
                        elsewhere.add(id(self.leaves[i]))
            if tangent is not None and t != 0.0:
                active = [i for i, u in enumerate(direction) if u is not None]
                floats = [(i, u) for i, u in enumerate(direction) if u is not None and u.dtype != torch.int8]
                if floats:
                    torch._foreach_add_([real_view(self.leaves[i].data) for i, _ in floats], [u for _, u in floats], alpha=t)
                for i in active:
                    u = direction[i]
                    if u is not None and u.dtype == torch.int8:
                        self._add(i, u, tangent, t)
                elsewhere.update(id(self.leaves[i]) for i in active)

    # -- Differentiable -------------------------------------------------------------------------------------------

    def values(self, tangents: Sequence[Tangent], steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi(t) - phi(0), shape (K, S): the difference is taken entry by entry, before the sum over outputs."""
        steps = np.broadcast_to(steps, (len(tangents), np.shape(steps)[-1]))
        result = np.empty(steps.shape)
        for k, tangent in enumerate(tangents):
            for s, t in enumerate(steps[k]):
                self._place(tangent, float(t))
                result[k, s] = self._value()
        self._place(None, 0.0)
        return result

    def values_by_slice(self, tangent: Tangent, steps: NDArray[np.float64], axis: int) -> NDArray[np.float64] | None:
        """phi(t) - phi(0) split by the outputs' index along an axis, shape (S, extent); None where there is no such axis."""
        self._ensure()
        if any(base.dim() <= axis for base in self._base) or len({base.shape[axis] for base in self._base}) != 1:
            return None
        result = np.empty((len(steps), self._base[0].shape[axis]))
        for s, t in enumerate(steps):
            self._place(tangent, float(t))
            result[s] = self._change_by_slice(axis)
        self._place(None, 0.0)
        return result

    def _change_by_slice(self, axis: int) -> NDArray[np.float64]:
        assert self._cotangents is not None
        total: torch.Tensor | None = None
        for v, now, base in zip(self._cotangents, self._plain_outputs(), self._base, strict=True):
            weights = real_view(v).double()
            change = real_view(now).double() - real_view(base).double()
            part = torch.where(weights != 0, change, torch.zeros_like(change)) * weights
            part = part.movedim(axis, 0).reshape(part.shape[axis], -1).sum(dim=1)
            total = part if total is None else total + part
        assert total is not None
        return total.cpu().numpy()

    def variants(self, block: int, tangent: Tangent) -> dict[str, float]:
        """<g', u> for gradients g' that are a common mistake away from g: transposed, rows moved, and the like."""
        g, u = self._ensure()[block], self._direction(tangent)[block]
        if g is None or u is None or g.is_complex() or g.dim() < 1 or g.shape != u.shape:
            return {}
        g, u = g.double(), u.double() * (tangent.scales[block] / SIGNIFICANT if u.dtype == torch.int8 else 1.0)
        found: dict[str, torch.Tensor] = {}
        for axis in range(g.dim()):
            what = axis_name(axis, g.dim())
            found[f"{what} reversed"] = g.flip(axis)
            found[f"{what} moved by one"] = g.roll(1, axis)
            found[f"{what} moved back by one"] = g.roll(-1, axis)
        if g.dim() >= 2:
            found["transposed"] = g.reshape(*g.shape[:-2], g.shape[-1], g.shape[-2]).transpose(-1, -2)
        return {name: float((other * u).sum()) for name, other in found.items()}

    def repeated_indices(self) -> frozenset[int]:
        """The values that the integer inputs hold more than once."""
        found: set[int] = set()
        for tensor in self.integers:
            values, counts = torch.unique(tensor, return_counts=True)
            found.update(int(k) for k in values[counts > 1][:1000])
        return frozenset(found)

    def slice_shares(self, block: int, tangent: Tangent, axis: int, index: int) -> NDArray[np.float64]:
        """<g_j, u_index> for every slice j along an axis, shape (extent,): which stands where ``index`` should?"""
        g, u = self._ensure()[block], self._direction(tangent)[block]
        if g is None or u is None or g.is_complex() or g.dim() < 1:
            return np.zeros(0)
        factor = tangent.scales[block] / SIGNIFICANT if u.dtype == torch.int8 else 1.0
        flat = g.double().movedim(axis, 0).reshape(g.shape[axis], -1)
        return (flat @ (u.select(axis, index).double().reshape(-1) * factor)).cpu().numpy()

    def _value(self) -> float:
        assert self._cotangents is not None
        try:
            outputs = self._plain_outputs()
        except UsageError:
            raise
        except (ValueError, RuntimeError, ArithmeticError):  # the user's own check of its domain
            return float("nan")
        total = 0.0
        for v, now, base in zip(self._cotangents, outputs, self._base, strict=True):
            if now.shape != base.shape:
                return float("nan")
            weights = real_view(v)
            change = real_view(now).double() - real_view(base).double()
            used = weights != 0
            change = torch.where(used, change, torch.zeros_like(change))
            total += float((change * weights.double()).sum())
        return total

    def _ensure(self) -> list[torch.Tensor | None]:
        if self._gradients is None:
            self.first_pass()
        assert self._gradients is not None
        return self._gradients

    def slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64]:
        """<g_i, u_i>, shape (K, number of blocks)."""
        return self.shares(tangents)[0]

    def shares(self, tangents: Sequence[Tangent]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """<g_i, u_i> and ||g_i * u_i||, each of shape (K, number of blocks), in one pass over the blocks."""
        gradients = self._ensure()
        sums = np.zeros((2, len(tangents), len(self.blocks)))
        for k, tangent in enumerate(tangents):
            where: list[int] = []
            parts: list[torch.Tensor] = []
            for i, u in enumerate(self._direction(tangent)):
                g = gradients[i]
                if u is None or g is None or g.shape != self.leaves[i].shape:
                    continue
                factor = tangent.scales[i] / SIGNIFICANT if u.dtype == torch.int8 else 1.0
                flat_g, flat_u = real_view(g).reshape(-1), u.reshape(-1)
                for start in range(0, flat_g.numel(), CHUNK):
                    product = flat_g[start : start + CHUNK].double() * flat_u[start : start + CHUNK]
                    where.append(i)
                    parts += [product.sum() * factor, torch.dot(product, product) * factor**2]
            if parts:  # one transfer for all blocks
                values = torch.stack([p.to(parts[0].device) for p in parts]).cpu().numpy()
                np.add.at(sums[0, k], where, values[0::2])
                np.add.at(sums[1, k], where, values[1::2])
        return sums[0], np.sqrt(sums[1])

    def facts(self) -> tuple[BlockFacts, ...]:
        """One backward pass' statistics, one per block."""
        result = []
        for i, gradient in enumerate(self._ensure()):
            if gradient is None:
                came = self._shapes[i]
                result.append(BlockFacts(gradient_norm=0.0, value_rms=self._rms[i], missing=True, zero=True, wrong_shape=came))
                continue
            values = real_view(gradient)
            norm = float(torch.linalg.vector_norm(values.double() if values.numel() <= CHUNK else values))
            bad, first = 0, None
            if not np.isfinite(norm) and not bool(torch.isfinite(values).all()):
                wrong = ~torch.isfinite(values).reshape(-1)
                bad, first = int(wrong.sum()), int(torch.nonzero(wrong)[0]) // (2 if gradient.is_complex() else 1)
            zero = norm == 0.0 and not bool(values.any())
            result.append(
                BlockFacts(
                    gradient_norm=norm,
                    value_rms=self._rms[i],
                    zero=zero,
                    nonfinite=bad,
                    first_nonfinite=first,
                    wrong_shape=self._shapes[i],
                )
            )
        return tuple(result)

    def scale_of_value(self) -> float:
        """|v| . |f|."""
        self._ensure()
        return self._scale

    def identity(self) -> Identity:
        """Forward and backward again, from the same state: do value and gradient repeat?"""
        # Both gradients at once would be a model's worth of memory too many: a random projection of each block stands for it.
        scales = {i: 1.0 for i, block in enumerate(self.blocks) if block.size}
        seen = Tangent(seed=self.seed + 11, scales=scales)
        absent = [g is None for g in self._ensure()]
        first, sizes = (rows[0] for rows in self.shares([seen]))
        self._place(None, 0.0)
        self._gradients = None
        outputs = self.collect(self.session.call(self.call, self.habits, grad=True))
        self.counts.forwards += self.share
        live = [outputs.tensors[i] for i in self.used]
        self._gradients, self._shapes = self._backward(live)
        self.session.reset(self.habits)
        value = max(self._difference([t.detach() for t in live], self._base), self.tape_difference)
        again, _ = (rows[0] for rows in self.shares([seen]))
        changed = np.abs(again - first) / np.maximum(sizes, 1e-300)
        changed[[was != (g is None) for was, g in zip(absent, self._gradients, strict=True)]] = np.inf
        changed[~np.isfinite(first) & ~np.isfinite(again)] = 0.0
        worst = float(np.nan_to_num(changed, nan=np.inf).max(initial=0.0))
        name = self.blocks[int(np.argmax(changed))].name if worst > 0 else ""
        cause = first_difference(self, value=value > NOTICED) if max(value, worst) > NOTICED else ""
        return Identity(value_difference=value, gradient_difference=worst, block=name, cause=cause)

    def at(self, nudge: Tangent | None, size: float) -> TorchProblem:
        """The same problem at x + size * u; the session is shared."""
        other = TorchProblem(
            self.call,
            self.blocks,
            self.leaves,
            self.session,
            originals=self.originals,
            seed=self.seed,
            path=self.path,
            where=self.where,
            counts=self.counts,
            share=self.share,
            scalar=self.scalar,
        )
        other._offset = None if nudge is None else (nudge, size)
        return other

    def outside(self, nudges: Sequence[Tangent], size: float, most: int, share: float) -> tuple[Outside, ...]:
        """The entries outside the span of the gradients at x + size * nudge, furthest first."""
        own = self._ensure()
        low = [None if g is None else real_view(g).double().clone() for g in own]
        high = [None if g is None else g.clone() for g in low]
        for nudge in nudges:
            for i, g in enumerate(self.at(nudge, size)._ensure()):
                a, b = low[i], high[i]
                if g is not None and a is not None and b is not None and g.shape == self.leaves[i].shape:
                    # At the first nudge the point's own gradient must not widen the span.
                    now = real_view(g).double()
                    first = nudge is nudges[0]
                    low[i] = now.clone() if first else torch.fmin(a, now)
                    high[i] = now.clone() if first else torch.fmax(b, now)
        self._place(None, 0.0)
        found: list[Outside] = []
        for i, g in enumerate(own):
            a, b = low[i], high[i]
            if g is None or a is None or b is None or not a.numel():
                continue
            now = real_view(g).double()
            distance = torch.clamp(torch.maximum(a - now, now - b), min=0.0).reshape(-1)
            largest = float(torch.maximum(a.abs(), b.abs()).max())
            values, where = torch.topk(distance, min(most, distance.numel()))
            for d, k in zip(values.tolist(), where.tolist(), strict=True):
                if d > share * max(largest, 1e-300):
                    ends = (float(now.reshape(-1)[k]), float(a.reshape(-1)[k]), float(b.reshape(-1)[k]))
                    index = k // 2 if g.is_complex() else k
                    found.append(Outside(block=i, index=index, value=ends[0], low=ends[1], high=ends[2], distance=d))
        return tuple(sorted(found, key=lambda o: -o.distance / max(abs(o.low), abs(o.high), 1e-300))[:most])

    def entries(self, block: int, indices: Sequence[int]) -> NDArray[np.float64]:
        """Analytical entries, shape (n,); of complex ones the real part."""
        gradient = self._ensure()[block]
        if gradient is None:
            return np.zeros(len(indices))
        flat = gradient.reshape(-1)
        chosen = flat[torch.tensor(list(indices), device=flat.device, dtype=torch.long)]
        return (chosen.real if chosen.is_complex() else chosen).double().cpu().numpy()

    @staticmethod
    def _root_mean_square(tensor: torch.Tensor) -> float:
        if not tensor.numel():
            return 0.0
        values = real_view(tensor.detach())
        norm = float(torch.linalg.vector_norm(values.float() if values.element_size() < 4 else values))
        return float(norm / values.numel() ** 0.5)


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(tensor), tensor, torch.zeros_like(tensor))
