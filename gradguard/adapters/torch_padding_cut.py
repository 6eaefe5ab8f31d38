"""The loss of one sample, with and without its padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradguard.adapters.torch_batch_parts import one_sample
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_padded_batch import PaddedBatch
from gradguard.adapters.torch_untouched import preserved_rng
from gradguard.errors import UsageError

__all__ = ["Cut", "cut"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The relative change; whether it is that of a mean over the padded length; why it could not be tried."""

    change: float | None = None
    scaled: bool = False
    reason: str = ""


def cut(padded: PaddedBatch, session: Session, seed: int) -> Cut:
    """Of the sample with most padding, where that lies at one of its ends.

    Numbers that are drawn in another shape are other numbers: where the loss draws any, it is asked again with the copy in
    eval mode (batch statistics stay as they are), and where it draws still, it is not asked.
    """
    keep = _real_part(padded)
    if keep is None:
        return Cut(reason="padding is not at one end of a sample")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in session.model.parameters()):
        return Cut(reason="low precision: samples of two lengths differ by rounding")
    row, part = keep
    for quiet in (False, True):
        if quiet:
            for module in session.model.modules():
                module.training = module.training and getattr(module, "running_mean", None) is not None
        losses, drew = [], False
        for positions in (slice(None), part):
            try:
                with kept_buffers(session.model), preserved_rng(seed):
                    before = torch.get_rng_state()
                    losses.append(float(session.loss(one_sample(padded.batch, row, padded.shape, positions)).detach()))
                    drew |= not torch.equal(before, torch.get_rng_state())
            except UsageError as error:
                return Cut(reason=f"one sample without its padding: {error.what}")
        if not drew:
            whole, shorter = losses
            length = part.stop - part.start
            return Cut(
                change=abs(whole - shorter) / max(abs(whole), abs(shorter), 1e-6),
                scaled=abs(whole * padded.shape[1] - shorter * length) <= 1e-4 * abs(shorter) * length,
            )
    return Cut(reason="the loss draws random numbers: samples of two lengths cannot be compared")


def _real_part(padded: PaddedBatch) -> tuple[int, slice] | None:
    """The sample with most padding (and something real), and where it is real; None where that is not one end of it."""
    positions = padded.shape[1]
    lengths = (~padded.mask).sum(dim=1)
    row = int(torch.where(lengths > 0, lengths, positions).argmin())
    length = int(lengths[row])
    if not 0 < length < positions:
        return None
    for part in (slice(0, length), slice(positions - length, positions)):
        if not bool(padded.mask[row, part].any()):
            return row, part
    return None
