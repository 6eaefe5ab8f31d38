"""What padding does to a loss: one pass with its backward, and the loss of one sample with and without its padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gradguard.adapters.padding_base import PaddingFacts
from gradguard.adapters.torch_batch_parts import tensors_of
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_padded_batch import PaddedBatch
from gradguard.adapters.torch_padding_cut import Cut, cut
from gradguard.adapters.torch_padding_gradients import derivatives
from gradguard.adapters.torch_padding_place import first_module
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_training import TorchTraining
from gradguard.adapters.torch_untouched import preserved_rng, untouched
from gradguard.errors import UsageError

__all__ = ["padding_of"]


def padding_of(problem: TorchTraining, *, seed: int) -> PaddingFacts:
    """What padding does to the loss of the batch that has most, declared or told by an ``attention_mask``."""
    declared = problem.scenario.padding
    found: tuple[int, Any, Any] = (0, None, None)
    for batch in problem.batches:
        mask = _declared(declared, problem.handed.of(batch, "padding")) if declared is not None else _visible(batch)
        padded = int(mask.sum()) if mask is not None else 0
        if mask is not None and found[0] < padded < mask.numel():
            found = (padded, batch, mask)
    _, batch, mask = found
    if mask is None:
        reason = f"no padded position in {len(problem.batches)} batches" if declared is not None else "padding is not declared"
        return PaddingFacts(declared=declared is not None, reason=reason)
    try:
        with untouched(problem.scenario.model), preserved_rng(seed), torch.enable_grad():
            return _facts(problem, PaddedBatch(batch, mask), seed, declared is not None)
    except Exception as error:  # a pass that cannot be followed is said; what is wrong with it, other checks tell
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


def _facts(problem: TorchTraining, padded: PaddedBatch, seed: int, declared: bool) -> PaddingFacts:
    """Everything that is asked of one batch."""
    session = _followed(problem)
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    leaves = {p: t.detach().clone().requires_grad_(True) for p, t in padded.inputs.items() if t.is_floating_point()}
    batch = padded.replaced({p: t.clone() for p, t in leaves.items()})  # their graph leads to the leaves
    problem.counts.backwards += 1
    with kept_buffers(session.model), watched_outputs(session.model) as made:
        torch.manual_seed(seed)
        loss = session.loss(batch)
        outputs = [t for t in made if t.requires_grad and padded.fits(t)]
        of_loss = derivatives(padded, loss, parameters, leaves, outputs)
    silent = bool(outputs) and all(not bool(padded.padded(t.detach()).any()) for t in outputs)
    of_outputs = None
    if problem.scenario.outputs is not None:
        batch = padded.replaced({p: t.clone() for p, t in leaves.items()})
        with kept_buffers(session.model):
            torch.manual_seed(seed)
            output = first_tensor(problem.scenario.outputs(session.model, problem.handed.of(batch, "outputs")))
            if output is not None and output.requires_grad:
                weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
                if padded.fits(output):
                    padded.laid(weights)[padded.mask] = 0
                of_outputs = derivatives(padded, (output * weights).sum(), parameters, leaves, [])
    leaks = any(ratio > 0 for one in (of_loss, of_outputs) if one is not None for ratio in one.inputs.values())
    shorter = cut(padded, _followed(problem), seed) if declared or leaks else Cut()
    module = first_module(padded, (_followed(problem), _followed(problem)), seed) if leaks else ""
    reasons = [shorter.reason]
    if not padded.inputs:
        reasons.insert(0, f"the batch holds no tensor of shape {padded.shape}, that of the mask")
    return PaddingFacts(
        declared=declared,
        padded=int(padded.mask.sum()),
        positions=padded.mask.numel(),
        input=" and ".join(p if p in leaves else f"the embedding of {p}" for p in of_loss.inputs),
        loss=of_loss.largest(zero=False),
        loss_of_zeros=of_loss.largest(zero=True),
        outputs=of_outputs.largest(zero=False) if of_outputs is not None else None,
        outputs_of_zeros=of_outputs.largest(zero=True) if of_outputs is not None else None,
        counted=max(of_loss.outputs, default=None),
        counted_zero=silent,
        trimmed=shorter.change,
        scaled=shorter.scaled,
        module=module,
        reason="; ".join(r for r in reasons if r),
    )


def _followed(problem: TorchTraining) -> Session:
    """A copy in which everything that can have a gradient has one: a frozen embedding is followed, too."""
    session = problem.fresh()
    for parameter in session.model.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    return session


@contextmanager
def watched_outputs(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The tensors that the model itself returns while the block runs."""
    made: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: made.extend(tensors_of(output).values()))
    try:
        yield made
    finally:
        handle.remove()
