"""Where padding gets into real positions: the first module whose output there changes when the padded inputs do."""

from __future__ import annotations

from typing import Any

import torch

from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_leaks import change_of
from gradguard.adapters.torch_padded_batch import PaddedBatch
from gradguard.adapters.torch_spy import first_tensor
from gradguard.adapters.torch_untouched import preserved_rng

__all__ = ["first_module"]


def first_module(padded: PaddedBatch, sessions: tuple[Session, Session], seed: int) -> str:
    """Its path, of two copies of one model; empty where it is none, as where only the loss mixes positions."""
    before, after = (_outputs(padded, session, seed, noisy) for session, noisy in zip(sessions, (False, True), strict=True))
    for path, old in before.items():
        new = after.get(path)
        if path and new is not None and new.shape == old.shape and change_of(old, new, _real(padded, old)) > 1e-5:
            return path
    return ""


def _real(padded: PaddedBatch, tensor: torch.Tensor) -> Any:
    """The part of an output that belongs to real positions: all of it, where it has no positions."""
    real = ~padded.mask
    if padded.fits(tensor):
        return real if padded.samples_first(tensor) else real.T
    if tensor.ndim >= 3 and tensor.shape[0] == padded.shape[0] and tensor.shape[-1] == padded.shape[1]:
        return real.reshape(padded.shape[0], *[1] * (tensor.ndim - 2), padded.shape[1]).expand(tensor.shape)
    return ...


def _outputs(padded: PaddedBatch, session: Session, seed: int, noisy: bool) -> dict[str, torch.Tensor]:
    """First output tensor of every module in the order in which they end; with other padded inputs where ``noisy``."""
    made: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
        mask = padded.mask if padded.samples_first(tensor) else padded.mask.T
        mask = mask.to(tensor.device).reshape(*mask.shape, *[1] * (tensor.ndim - 2))
        return torch.where(mask, tensor + drawn * (tensor.detach().abs().max() + 1e-3), tensor)

    def change(module: torch.nn.Module, args: Any, output: Any) -> Any:
        mine = any(torch.equal(args[0], t) for t in padded.inputs.values()) if args else False
        return noise(output) if mine and padded.fits(output) else None

    def leave(path: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            value = first_tensor(output)
            if value is not None and value.ndim:
                made.setdefault(path, value.detach().clone())

        return hook

    handles: list[Any] = []
    batch = padded.batch
    if noisy:
        batch = padded.replaced({p: noise(t.detach()) for p, t in padded.inputs.items() if t.is_floating_point()})
        tables = [m for m in session.model.modules() if isinstance(m, torch.nn.Embedding)]
        handles += [m.register_forward_hook(change) for m in tables]
    handles += [m.register_forward_hook(leave(n)) for n, m in session.model.named_modules()]
    try:
        with kept_buffers(session.model), preserved_rng(seed):
            session.loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return made
