"""What padding does to a loss: derivatives with respect to what is padded, and the loss of a sample without its padding.

Token ids are never changed: models read their mask from them. The derivative with respect to their embeddings is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gradguard.adapters.padding_base import PaddingFacts
from gradguard.adapters.torch_batch_parts import mapped, one_sample, tensors_of
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_leaks import change_of
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_training import Session, TorchTraining, preserved_rng, untouched
from gradguard.errors import UsageError

__all__ = ["padding_of"]

Leaves = dict[str, torch.Tensor]
INDEXED = {
    "EmbeddingBackward0": ("_saved_indices",), "IndexBackward0": ("_saved_indices",), "IndexSelectBackward0": ("_saved_index",),
}  # fmt: skip
"""Autograd nodes that look rows up, and where they keep the rows' numbers."""


def padding_of(problem: TorchTraining, *, seed: int) -> PaddingFacts:
    """What padding does to the loss of the batch that has most, declared or told by an ``attention_mask``."""
    declared = problem.scenario.padding
    found: tuple[int, Any, Any] = (0, None, None)
    for batch in problem.batches:
        mask = _declared(declared, batch) if declared is not None else _visible(batch)
        padded = int(mask.sum()) if mask is not None else 0
        if mask is not None and found[0] < padded < mask.numel():
            found = (padded, batch, mask)
    _, batch, mask = found
    if mask is None:
        reason = f"no padded position in {len(problem.batches)} batches" if declared is not None else "padding is not declared"
        return PaddingFacts(declared=declared is not None, reason=reason)
    asked = Padded(problem, batch, mask, seed)
    try:
        with untouched(problem.scenario.model), preserved_rng(seed), torch.enable_grad():
            return asked.facts(declared is not None)
    except (UsageError, RuntimeError) as error:  # a pass that cannot be followed: the checks of training tell of it
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return PaddingFacts(declared=declared is not None, padded=found[0], positions=mask.numel(), reason=reason)


def _declared(padding: Any, batch: Any) -> torch.Tensor:
    """The user's mask (B, T), True where padded.

    Raises:
        UsageError: it raises, is no mask, or looks turned round.
    """
    todo = "padding=lambda batch: batch['attention_mask'] == 0, True where a position is padding"
    try:
        given = padding(batch)
    except Exception as error:
        raise UsageError(
            f"padding raised {type(error).__name__}: {error}".splitlines()[0], where="padding(batch)", todo=todo
        ) from error
    mask = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        shown = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(given).__name__
        raise UsageError(f"padding returned {shown}, not a mask (samples, positions)", where="padding(batch)", todo=todo)
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise UsageError("padding returned values that are neither 0 nor 1", where="padding(batch)", todo=todo)
    mask = mask.detach().bool()
    if bool(mask.all(dim=1).any()) and bool(mask.any(dim=1).all()):
        raise UsageError(
            "padding says of a whole sample that it is padding, and of no sample that it has none: is it turned round?",
            where="padding(batch)",
            todo=todo,
        )
    return mask


def _visible(batch: Any) -> torch.Tensor | None:
    """The complement of a batch's ``attention_mask`` (B, T); None without one."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask == 0 if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


class Padded:
    """One batch with padding, and a fresh copy of the model for each question."""

    def __init__(self, problem: TorchTraining, batch: Any, mask: torch.Tensor, seed: int) -> None:
        self.problem, self.batch, self.mask, self.seed = problem, batch, mask, seed
        self.used: set[str] = set()
        self.shape = (int(mask.shape[0]), int(mask.shape[1]))
        self.given = self._inputs()

    def _inputs(self) -> dict[str, torch.Tensor]:
        """The padded tensors of the batch by path: those whose padding is one value; where there is none, the first that
        fits (of two sequences of one length, the other has its own padding)."""
        fitting = {p: t for p, t in tensors_of(self.batch).items() if self.along(t) is not None and not self._is_mask(t)}
        filled = {p: t for p, t in fitting.items() if self._filled(self.laid(t))}
        return filled or dict(list(fitting.items())[:1])

    def _filled(self, laid: torch.Tensor) -> bool:
        """Padded positions hold one value, and real ones others as well."""
        value = laid[self.mask].reshape(-1)[:1]
        return bool((laid[self.mask] == value).all()) and not bool((laid[~self.mask] == value).all())

    def along(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """The axes of samples and positions: (0, 1), (1, 0), or None."""
        if tuple(tensor.shape[:2]) == self.shape:
            return 0, 1
        return (1, 0) if tuple(tensor.shape[:2]) == self.shape[::-1] else None

    def laid(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with samples first and positions second."""
        return tensor if self.along(tensor) == (0, 1) else tensor.transpose(0, 1)

    def _is_mask(self, tensor: torch.Tensor) -> bool:
        if tensor.dtype == torch.bool:
            return True
        laid = self.laid(tensor)
        if laid.ndim != 2 or not bool(((laid == 0) | (laid == 1)).all()):
            return False
        same = laid.bool() == self.mask
        return bool(same.all()) or not bool(same.any())

    def session(self) -> Session:
        """A copy in which everything that can have a gradient has one: a frozen embedding is followed, too."""
        session = self.problem.fresh()
        for parameter in session.model.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(True)
        return session

    def facts(self, declared: bool) -> PaddingFacts:
        """Everything that is asked of this batch."""
        session, found = self.session(), dict[str, Any]()
        leaves = {p: t.detach().clone().requires_grad_(True) for p, t in self.given.items() if t.is_floating_point()}
        batch = self._with(leaves)
        with kept_buffers(session.model):
            with watched_outputs(session.model) as made:
                torch.manual_seed(self.seed)
                loss = session.loss(batch)
            found.update(self._derivatives(session, loss, leaves, made))
        if self.problem.scenario.outputs is not None:
            with kept_buffers(session.model):
                torch.manual_seed(self.seed)
                output = first_tensor(self.problem.scenario.outputs(session.model, batch))
                found["outputs"] = self._of_outputs(session, output, leaves)
        found["trimmed"], found["scaled"], note = self._trimmed()
        if any((found.get(k) or 0.0) > 0 for k in ("loss", "outputs")):
            found["module"] = self._first_module()
        if not self.given:
            note = f"the batch holds no tensor of shape {self.shape}, that of the mask" + (f"; {note}" if note else "")
        return PaddingFacts(
            declared=declared,
            padded=int(self.mask.sum()),
            positions=self.mask.numel(),
            input=" and ".join(p if p in leaves else f"the embedding of {p}" for p in self.given if p in self.used),
            reason=note,
            **found,
        )

    def _with(self, new: dict[str, torch.Tensor]) -> Any:
        return mapped(self.batch, lambda path, tensor: new.get(path, tensor))

    # derivatives

    def _derivatives(self, session: Session, loss: torch.Tensor, leaves: Leaves, made: list[torch.Tensor]) -> dict[str, Any]:
        """The derivative of the loss with respect to the padded input, and to outputs at padded positions."""
        outputs = [t for t in made if t.requires_grad and self.along(t) is not None]
        found: dict[str, Any] = {}
        into, values, ofs = self._gradients(session, loss, leaves, outputs)
        found["loss"] = self.ratio(into)
        padded = [self.laid(v)[self.mask] for v in values]
        found["zero"] = bool(padded) and all(not bool(v.any()) for v in padded)
        ratios = [r for r in (self.ratio([g]) for g in ofs if g is not None) if r is not None]
        found["counted"] = max(ratios) if ratios else None
        found["counted_zero"] = bool(outputs) and all(not bool(self.laid(t.detach())[self.mask].any()) for t in outputs)
        return found

    def _of_outputs(self, session: Session, output: torch.Tensor | None, leaves: Leaves) -> float | None:
        """The same for a random combination of the outputs at real positions."""
        if output is None or not output.requires_grad:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(output.shape, generator=generator).to(output)
        if self.along(output) is not None:
            self.laid(weights)[self.mask] = 0
        into, _, _ = self._gradients(session, (output * weights).sum(), leaves, [])
        return self.ratio(into)

    def _gradients(
        self, session: Session, value: torch.Tensor, leaves: Leaves, outputs: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor | None]]:
        """Gradients at the padded input (or the embeddings of its tokens), those inputs' values, gradients at outputs."""
        if not value.requires_grad:
            return [], [], []
        into: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        handles = []
        for path, node, rows in self._lookups(value):
            handles.append(node.register_prehook(lambda grads: into.append(grads[0].detach())))
            values.append(rows)
            self.used.add(path)
        wanted = [*leaves.values(), *outputs]
        parameters = [p for p in session.model.parameters() if p.requires_grad]
        self.problem.counts.backwards += 1
        try:
            found = torch.autograd.grad(value, [*wanted, *parameters], allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        for (path, leaf), gradient in zip(leaves.items(), found, strict=False):
            if gradient is not None:
                into.append(gradient)
                values.append(leaf.detach())
                self.used.add(path)
        return [self._shaped(g) for g in into], [self._shaped(v) for v in values], list(found[len(leaves) : len(wanted)])

    def _shaped(self, tensor: torch.Tensor) -> torch.Tensor:
        """What was looked up with a flat index, as (B, T, ...)."""
        if self.along(tensor) is not None:
            return tensor
        return tensor.reshape(*self.shape, *tensor.shape[1:])

    def _lookups(self, value: torch.Tensor) -> Iterator[tuple[str, Any, torch.Tensor]]:
        """Nodes of the graph that look up padded tokens (or these and an offset), with the rows that they gave."""
        queue, seen = [value.grad_fn], set()
        tokens = {p: self.laid(t).reshape(-1) for p, t in self.given.items() if not t.is_floating_point()}
        while queue:
            node = queue.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            queue.extend(parent for parent, _ in node.next_functions)
            for name in INDEXED.get(node.name(), ()):
                saved = getattr(node, name)
                index = next((i for i in saved if i is not None), None) if isinstance(saved, tuple) else saved
                table = getattr(node.next_functions[0][0], "variable", None)
                if index is None or table is None or index.dtype == torch.bool or index.numel() != self.mask.numel():
                    continue
                flat = self.laid(index).reshape(-1) if self.along(index) is not None else index.reshape(-1)
                for path, ids in tokens.items():
                    offset = flat.to(ids) - ids
                    if bool((offset == offset[0]).all()):
                        yield path, node, table.detach()[index]
                        break

    def ratio(self, gradients: list[torch.Tensor]) -> float | None:
        """The largest entry at padded positions over the largest at real ones; None where there is no gradient."""
        padded = [float(self.laid(g)[self.mask].abs().max()) for g in gradients]
        real = [float(self.laid(g)[~self.mask].abs().max()) for g in gradients]
        if not padded or max(max(padded), max(real)) == 0:
            return None
        return max(padded) / max(max(real), 1e-3 * max(padded))

    # the loss of one sample, with and without its padding

    def _trimmed(self) -> tuple[float | None, bool, str]:
        """The relative change of one sample's loss when its padding is cut off, whether it is that of a mean over the
        padded length, and why it was not tried."""
        lengths = (~self.mask).sum(dim=1)
        some = torch.where(lengths > 0, lengths, self.shape[1])
        row = int(some.argmin())
        length = int(lengths[row])
        trailing = bool((~self.mask[row, :length]).all())
        keep = slice(0, length) if trailing else slice(self.shape[1] - length, self.shape[1])
        if not 0 < length < self.shape[1] or bool(self.mask[row, keep].any()):
            return None, False, "padding is not at one end of a sample"
        losses: list[float] = []
        session = self.session()
        for quiet in (False, True):
            losses.clear()
            if quiet:  # numbers drawn in another shape are other numbers: without dropout; batch statistics as they were
                for module in session.model.modules():
                    if getattr(module, "running_mean", None) is None:
                        module.training = False
            drew = False
            for part in (slice(None), keep):
                try:
                    with torch.no_grad(), kept_buffers(session.model), preserved_rng(self.seed):
                        before = torch.get_rng_state()
                        losses.append(float(session.loss(one_sample(self.batch, row, self.shape, part))))
                        drew |= not torch.equal(before, torch.get_rng_state())
                except UsageError as error:
                    return None, False, f"one sample without its padding: {error.what}"
            if not drew:
                break
        if drew:
            return None, False, "the loss draws random numbers: samples of two lengths cannot be compared"
        whole, cut = losses
        change = abs(whole - cut) / max(abs(whole), abs(cut), 1e-6)
        return change, abs(whole * self.shape[1] - cut * length) <= 1e-4 * abs(cut) * length, ""

    # where

    def _first_module(self) -> str:
        """The first module whose output at real positions changes when the padded inputs do; empty where it is none."""
        runs = []
        for noisy in (False, True):
            session = self.session()
            runs.append(self._outputs(session, noisy))
        before, after = runs
        for path, old in before.items():
            new = after.get(path)
            if path and new is not None and new.shape == old.shape and change_of(old, new, self._real(old)) > 1e-5:
                return path
        return ""

    def _real(self, tensor: torch.Tensor) -> Any:
        """The part of an output that belongs to real positions: all of it, where it has no positions."""
        axes = self.along(tensor)
        real = ~self.mask
        if axes is not None:
            return real if axes == (0, 1) else real.T
        if tensor.ndim >= 3 and tensor.shape[0] == self.shape[0] and tensor.shape[-1] == self.shape[1]:
            middle = [1] * (tensor.ndim - 2)
            return real.reshape(self.shape[0], *middle, self.shape[1]).expand(tensor.shape)
        return ...

    def _outputs(self, session: Session, noisy: bool) -> dict[str, torch.Tensor]:
        """First output tensor of every module in the order in which they end; with other padded inputs where ``noisy``."""
        made: dict[str, torch.Tensor] = {}
        handles: list[Any] = []
        batch = self.batch
        generator = torch.Generator().manual_seed(self.seed)

        def noise(tensor: torch.Tensor) -> torch.Tensor:
            drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
            mask = self.mask if self.along(tensor) == (0, 1) else self.mask.T
            mask = mask.to(tensor.device).reshape(*mask.shape, *[1] * (tensor.ndim - 2))
            return torch.where(mask, tensor + drawn * (tensor.detach().abs().max() + 1e-3), tensor)

        def change(module: torch.nn.Module, args: Any, output: Any) -> Any:
            mine = any(torch.equal(args[0], t) for t in self.given.values()) if args else False
            return noise(output) if mine and self.along(output) is not None else None

        def leave(path: str) -> Any:
            def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
                value = first_tensor(output)
                if value is not None and value.ndim and value.is_floating_point():
                    made.setdefault(path, value.detach().clone())

            return hook

        if noisy:
            batch = self._with({p: noise(t.detach()) for p, t in self.given.items() if t.is_floating_point()})
            embeddings = [m for m in session.model.modules() if isinstance(m, torch.nn.Embedding)]
            handles.extend(m.register_forward_hook(change) for m in embeddings)
        handles.extend(m.register_forward_hook(leave(n)) for n, m in session.model.named_modules())
        try:
            with torch.no_grad(), kept_buffers(session.model), preserved_rng(self.seed):
                session.loss(batch)
        finally:
            for handle in handles:
                handle.remove()
        return made


@contextmanager
def watched_outputs(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The tensors that the model itself returns while the block runs."""
    made: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: made.extend(tensors_of(output).values()))
    try:
        yield made
    finally:
        handle.remove()
