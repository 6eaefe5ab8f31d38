"""Every entry of a block at once: ``torch.func.vmap`` over perturbed copies of it, or a loop where that cannot be."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.blocks import Entries, Tangent
from gradguard.errors import INTERRUPTS

if TYPE_CHECKING:
    from gradguard.adapters.torch_modules import TorchModuleProblem

__all__ = ["Batching", "entry_differences"]

LARGEST_BATCH = 512
"""Entries in one vectorised pass; more gains nothing."""
TRIAL = 8
"""Entries in the pass that decides whether batching works and pays."""


class _Whole(torch.nn.Module):
    """The user's call as a module, so that ``functional_call`` can exchange any parameter below it."""

    def __init__(self, call: Any, roots: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.call = call
        self.roots = torch.nn.ModuleList(roots)

    def forward(self) -> Any:
        return self.call()


class Batching:
    """How one block's entries are evaluated: decided once, by trying."""

    def __init__(self, problem: TorchModuleProblem, block: int, budget: int) -> None:
        self.problem = problem
        self.block = block
        self.leaf = problem.leaves[block]
        self.name = ""
        self.path = "loop"
        self.reason = ""
        rows = budget // max(16 * self.leaf.numel() * self.leaf.element_size(), 1)
        self.batch = int(min(LARGEST_BATCH, max(rows, 1)))
        if self.leaf.is_complex():
            self.reason = "a complex block"
        elif problem.blocks[block].kind == "input":
            self.input = True
            self._try()
        else:
            self.input = False
            self.name = next(
                (n for n, p in _Whole(None, [m for _, m in problem.roots]).named_parameters() if p is self.leaf), ""
            )
            if self.name:
                self._try()
            else:
                self.reason = "a tensor outside of any module"

    def _try(self) -> None:
        """Batch where it works, gives the values of the loop, and is faster."""
        count = min(TRIAL, self.leaf.numel())
        indices = list(range(count))
        step = 2.0**-12
        try:
            self.vectorised(indices[:1], step)
            start = time.perf_counter()
            together = self.vectorised(indices, step)
            batched = time.perf_counter() - start
        except INTERRUPTS:
            raise
        except Exception as error:  # whatever functorch refuses: the loop is always right
            self.reason = (
                f"vmap refuses: {str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__}"
            )
            return
        start = time.perf_counter()
        one_by_one = self.loop(indices, step)
        looped = time.perf_counter() - start
        noise = 1e3 * float(torch.finfo(self.leaf.dtype).eps) * max(self.problem.scale_of_value(), 1e-300)
        if not np.allclose(together, one_by_one, rtol=1e-6, atol=noise, equal_nan=True):
            self.reason = "vmap gives other values than the loop"
        elif batched > looped and self.leaf.numel() > 64:
            self.reason = "batching gains nothing at this size"
        else:
            self.path = "vmap"

    def loop(self, indices: Sequence[int], step: float) -> NDArray[np.float64]:
        """One forward per value."""
        result = np.empty((len(indices), 2))
        for row, index in enumerate(indices):
            single = Tangent(entries=(Entries(block=self.block, indices=(index,), values=(1.0,)),))
            result[row] = self.problem.values([single], np.array([step, -step]))[0]
        return result

    def vectorised(self, indices: Sequence[int], step: float) -> NDArray[np.float64]:
        """All values in passes of ``batch`` entries, both signs together."""
        parts = [self._pass(indices[i : i + self.batch], step) for i in range(0, len(indices), self.batch)]
        return np.concatenate(parts)

    def _pass(self, indices: Sequence[int], step: float) -> NDArray[np.float64]:
        problem, leaf, n = self.problem, self.leaf, len(indices)
        problem._place(None, 0.0)
        with torch.no_grad():
            rows = leaf.data.reshape(1, -1).repeat(2 * n, 1)
            where = torch.tensor(list(indices), device=leaf.device)
            at = torch.arange(n, device=leaf.device)
            moved = torch.full((n,), step, dtype=leaf.dtype, device=leaf.device)
            if self.block in problem.frozen:
                width = leaf.numel() // leaf.shape[0]
                still = torch.tensor(problem.frozen[self.block], device=leaf.device)
                moved[torch.isin(where // width, still)] = 0
            rows[at, where] += moved
            rows[at + n, where] -= moved
            batch = rows.reshape(2 * n, *leaf.shape)
            problem.session.reset(problem.habits)
            with problem.habits.mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # functorch tells of slow paths; the table says which path ran
                values = torch.func.vmap(self._single, randomness="same")(batch)
        problem.counts.forwards += 2 * n * problem.share
        result = values.double().cpu().numpy()
        return np.stack([result[:n], result[n:]], axis=1)

    def _single(self, value: torch.Tensor) -> torch.Tensor:
        problem = self.problem
        if self.input:
            with problem.exchanged(self.leaf, value):
                outputs = problem.collect(problem.call())
        else:
            whole = _Whole(problem.call, [m for _, m in problem.roots])
            outputs = problem.collect(torch.func.functional_call(whole, {self.name: value}, ()))
        assert problem._cotangents is not None
        total = torch.zeros((), dtype=torch.float64, device=value.device)
        for v, i, base in zip(problem._cotangents, problem.used, problem._base, strict=True):
            change = outputs.tensors[i] - base
            if change.is_complex():
                change, v = torch.view_as_real(change), torch.view_as_real(v)
            total = total + (torch.where(v != 0, change, torch.zeros_like(change)) * v).sum().double()
        return total


def entry_differences(
    problem: TorchModuleProblem, batching: Batching, indices: Sequence[int], step: float
) -> tuple[NDArray[np.float64], str, str]:
    """phi(+step e_k) - phi(0) and phi(-step e_k) - phi(0), shape (n, 2); the path that ran, and why not the other."""
    run = batching.vectorised if batching.path == "vmap" else batching.loop
    return run(indices, step), batching.path, batching.reason
