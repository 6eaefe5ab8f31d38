"""Forward and backward passes of the user's function, always from the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from gradguard.adapters.backward_base import Fault
from gradguard.adapters.base import Counts
from gradguard.adapters.nesting import flatten
from gradguard.adapters.torch_failures import failure_of
from gradguard.adapters.torch_leaves import differentiable, graph_leaves
from gradguard.adapters.torch_placement import TorchPlacement, real_view
from gradguard.adapters.torch_session import Habits, Session
from gradguard.blocks import SIGNIFICANT, Block, draw
from gradguard.errors import INTERRUPTS, UsageError

__all__ = ["CHUNK", "Outputs", "TorchPasses", "finite"]

CHUNK = 1 << 18
"""Entries that a sum over a block converts at a time."""


@dataclass
class Outputs:
    """The differentiable outputs of a pass: tensors, their names, and what was skipped."""

    tensors: list[torch.Tensor]
    names: list[str]
    skipped: list[str] = field(default_factory=list)


def finite(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(tensor), tensor, torch.zeros_like(tensor))


class TorchPasses(TorchPlacement):
    """A call on leaf tensors within a session, with a fixed random cotangent over its outputs.

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
        super().__init__(list(leaves), list(originals), session)
        self.call = call
        self.blocks = tuple(blocks)
        self.seed = seed
        self.path = path
        self.where = where
        self.notes = tuple(notes)
        self.counts = counts or Counts()
        self.share = share
        self.scalar = scalar
        self.grad_mode = False
        self.habits = habits or Habits(session.lift, session.lift, drawn=session.drawn)
        self.known_habits = habits is not None
        self.names: list[str] = []
        self.integers: list[torch.Tensor] = []
        """The integer inputs: indices, labels."""
        self.exchange: dict[int, torch.Tensor] = {}
        self.failure: Fault | None = None
        self._cotangents: list[torch.Tensor] | None = None
        self._base: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor | None] | None = None
        self._shapes: list[str] = []
        self._scale = 0.0

    @contextmanager
    def exchanged(self, leaf: torch.Tensor, value: torch.Tensor) -> Iterator[None]:
        """The call with another tensor in the place of an input."""
        self.exchange[id(leaf)] = value
        try:
            yield
        finally:
            del self.exchange[id(leaf)]

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
                number = isinstance(result, int | float)
                todo = "return the tensor itself: .item() and float() leave its graph" if number else "reduce it: loss.mean()"
                raise UsageError(f"the loss is not a scalar tensor: got {shapes}", where=self.where, todo=todo)
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
        if not self.known_habits and self.failure is None:  # looking for the fault ran the model again, from the start
            self.session.learn(self.habits)
        try:
            first = self._plain_outputs()
        except (UsageError, *INTERRUPTS):
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
            float((real_view(v).abs().double() * finite(real_view(b)).abs().double()).sum())
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
                x, y = (finite(t[start : start + CHUNK]).double() for t in (flat, again))
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
        except INTERRUPTS:
            raise
        except Exception as error:
            if not isinstance(error, RuntimeError) or "checkpoint" not in str(error):
                # Where lifting is what it cannot take, the native path decides.
                self.failure = None if self.path.startswith("lifted") else failure_of(self, error)
                if self.failure is not None:
                    return [None] * len(self.leaves), [""] * len(self.leaves)
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

    def _ensure(self) -> list[torch.Tensor | None]:
        if self._gradients is None:
            self.first_pass()
        assert self._gradients is not None
        return self._gradients
