"""The user's own precision with faithful kernels: every operator of torch computes in float64 and rounds its result once.

Kernels add up in few bits: torch's own backward of a layer normalisation sums bfloat16 in bfloat16 on a CPU, that of a
batch normalisation leaves an error in its means. That is no fault of the model: what is left of an error with these
operators is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradguard.adapters.torch_lift import LIFT, LiftMode

__all__ = ["FaithfulKernels"]


class FaithfulKernels(TorchDispatchMode):
    """Results have the precision that they would have, and the value of float64, rounded.

    Operators that write into their arguments, draw random numbers, or are not torch's own run as they are.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without types
        self.lifted = LiftMode()

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        plain = func(*args, **(kwargs or {}))
        aliased = any(r.alias_info is not None for r in func._schema.returns)
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if func.namespace not in ("aten", "prims") or func._schema.is_mutable or aliased or drawn:
            return plain
        native = plain if isinstance(plain, tuple | list) else (plain,)
        low = [isinstance(value, torch.Tensor) and value.dtype in LIFT and value.layout == torch.strided for value in native]
        if not any(low):
            return plain
        try:
            wide = self.lifted.__torch_dispatch__(func, types, args, kwargs)
        except RuntimeError:  # no float64 kernel
            return plain
        for value, exact, wanted in zip(native, wide if isinstance(wide, tuple | list) else (wide,), low, strict=True):
            if wanted and value.shape == exact.shape:
                value.copy_(exact)
        return plain
