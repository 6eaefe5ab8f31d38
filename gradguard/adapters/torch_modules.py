"""Each module of a model alone, on the input that it had in the whole, with a fresh cotangent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradguard.adapters.nesting import flatten, rebuild
from gradguard.adapters.torch_leaves import differentiable, dtype_name, parameter_places
from gradguard.adapters.torch_problem import TorchProblem
from gradguard.adapters.torch_session import RandomState, Session
from gradguard.blocks import Block

__all__ = ["TorchModuleProblem"]


class TorchModuleProblem(TorchProblem):
    """A problem that knows the modules it is made of."""

    def __init__(self, *args: Any, modules: Sequence[tuple[str, torch.nn.Module]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.roots = list(modules)
