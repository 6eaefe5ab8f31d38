"""Everything of the user's that a check may not change, as plain values that can be compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from gradguard.adapters.nesting import flatten

__all__ = ["snapshot"]


def snapshot(*things: Any) -> dict[str, Any]:
    """The state of modules, tensors and arrays (found in containers and closures too), and of the process."""
    found: dict[str, Any] = {
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy random state": np.random.get_state()[1].tobytes(),
        "Python random state": hash(random.getstate()),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    for i, thing in enumerate(things):
        for name, value in flatten(thing, f"input {i}"):
            _add(found, name, value)
    return found


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, nn.Module):
        for path, module in value.named_modules():
            found[f"{name} {path} mode"] = module.training
            found[f"{name} {path} class"] = type(module)
            found[f"{name} {path} hooks"] = tuple(len(getattr(module, table)) for table in HOOKS if hasattr(module, table))
            found[f"{name} {path} names"] = sorted(key for key in vars(module) if not key.startswith("_"))
        for path, tensor in (*value.named_parameters(), *value.named_buffers()):
            _add(found, f"{name} {path}", tensor)
    elif isinstance(value, torch.Tensor):
        found[name] = _tensor(value)
        found[f"{name} identity"] = (id(value), value.data_ptr(), value.stride(), value.requires_grad, value.is_leaf)
        found[f"{name} grad"] = None if value.grad is None else _tensor(value.grad)
        found[f"{name} hooks"] = len(value._backward_hooks or ())
    elif isinstance(value, np.ndarray):
        found[name] = (value.dtype, value.shape, value.tobytes())
    elif callable(value) and getattr(value, "__closure__", None):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__, strict=True):
            if isinstance(cell.cell_contents, nn.Module | torch.Tensor):
                _add(found, f"{name} {variable}", cell.cell_contents)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def _tensor(tensor: torch.Tensor) -> Any:
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    if dense.dtype == torch.bfloat16:
        dense = dense.view(torch.int16)
    return (tensor.dtype, tuple(tensor.shape), dense.resolve_conj().contiguous().numpy().tobytes())
