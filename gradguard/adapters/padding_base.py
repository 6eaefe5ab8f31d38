"""What padding does to a loss, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["PaddingFacts", "PaddingObservable"]


@dataclass(frozen=True, kw_only=True)
class PaddingFacts:
    """How far a loss depends on the padded positions of one batch.

    ``loss`` is the largest entry of d loss / d input at padded positions over the largest at real ones; ``outputs`` the
    same for a random combination of the outputs at real positions; ``counted`` the same for d loss / d output. None where
    that could not be followed. The input is the padded tensor itself, or the embeddings of its tokens. ``..._of_zeros`` are
    the same for inputs that are exactly 0 where they are padded: that such a derivative is not 0 need not mean that they
    matter. ``counted_zero``: the outputs are exactly 0 at padded positions.

    ``trimmed`` is the relative change of the loss of the sample with most padding when its padding is cut off; ``scaled``:
    that is what dividing by the padded length gives. ``module``: the first whose output at real positions depends on it.
    """

    declared: bool = True
    padded: int = 0
    positions: int = 0
    input: str = ""
    loss: float | None = None
    loss_of_zeros: float | None = None
    outputs: float | None = None
    outputs_of_zeros: float | None = None
    counted: float | None = None
    counted_zero: bool = False
    trimmed: float | None = None
    scaled: bool = False
    module: str = ""
    reason: str = ""


@runtime_checkable
class PaddingObservable(Protocol):
    """A problem that can be asked what padding does."""

    def padding(self, *, seed: int = 0) -> PaddingFacts:
        """What padding does to the loss of the first batch that has any.

        Raises:
            UsageError: ``padding(batch)`` is no mask over samples and positions.
        """
        ...
