"""A batch with padding: which of its tensors are padded, and how they lie."""

from __future__ import annotations

from typing import Any

import torch

from gradguard.adapters.torch_batch_parts import mapped, tensors_of

__all__ = ["PaddedBatch"]


class PaddedBatch:
    """A batch and its mask (B, T), True where padded. ``inputs`` are its padded tensors by path."""

    def __init__(self, batch: Any, mask: torch.Tensor) -> None:
        self.batch, self.mask = batch, mask
        self.shape = (int(mask.shape[0]), int(mask.shape[1]))
        self.turned = False
        self.inputs = self._inputs()
        if self.shape[0] == self.shape[1] and not any(self._filled(t) for t in self.inputs.values()):
            self.turned = True  # as many samples as positions: the layout in which what is padded holds one value
            turned = self._inputs()
            self.turned = any(self._filled(t) for t in turned.values())
            self.inputs = turned if self.turned else self.inputs

    def _inputs(self) -> dict[str, torch.Tensor]:
        """Those whose padding is one value; where there is none, the first that fits: of two sequences of one length, the
        other has its own padding."""
        fitting = {p: t for p, t in tensors_of(self.batch).items() if self.fits(t) and not self._is_mask(t)}
        filled = {p: t for p, t in fitting.items() if self._filled(t)}
        return filled or dict(list(fitting.items())[:1])

    def _filled(self, tensor: torch.Tensor) -> bool:
        """Padded positions hold one value, and real ones others as well."""
        value = self.padded(tensor).reshape(-1)[:1]
        return bool((self.padded(tensor) == value).all()) and not bool((self.real(tensor) == value).all())

    def _is_mask(self, tensor: torch.Tensor) -> bool:
        if tensor.dtype == torch.bool:
            return True
        laid = self.laid(tensor)
        if laid.ndim != 2 or not bool(((laid == 0) | (laid == 1)).all()):
            return False
        same = laid.bool() == self.mask
        return bool(same.all()) or not bool(same.any())

    def samples_first(self, tensor: torch.Tensor) -> bool:
        """The axes are samples and positions, and not the other way round."""
        return tuple(tensor.shape[:2]) == self.shape and not self.turned

    def fits(self, tensor: torch.Tensor) -> bool:
        """The first two axes are samples and positions, in either order."""
        return tuple(tensor.shape[:2]) in (self.shape, self.shape[::-1])

    def laid(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with samples first and positions second."""
        return tensor if self.samples_first(tensor) else tensor.transpose(0, 1)

    def padded(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values at padded positions."""
        return self.laid(tensor)[self.mask]

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values at real positions."""
        return self.laid(tensor)[~self.mask]

    def replaced(self, new: dict[str, torch.Tensor]) -> Any:
        """The batch with other tensors at some paths."""
        return mapped(self.batch, lambda path, tensor: new.get(path, tensor))
