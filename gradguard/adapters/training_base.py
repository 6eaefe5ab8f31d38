"""What an adapter offers to training checks, in plain numbers: a copy that trains, restartable any number of times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from gradguard.adapters.base import Problem, Settings
from gradguard.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gradguard.scenarios import Scenario

__all__ = [
    "OptimizerFacts",
    "ParameterFacts",
    "StepFacts",
    "Trace",
    "Trainable",
    "adapt_training",
    "read_batches",
]


@dataclass(frozen=True, kw_only=True)
class ParameterFacts:
    """One parameter tensor, as training sees it.

    ``group`` is its group in the optimizer, None where no optimizer holds it; ``aliases`` are its other names (tied
    weights); ``module`` is the path of the module that owns it and ``owner`` that module's class.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    module: str = ""
    owner: str = ""
    trainable: bool = True
    group: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """An optimizer: its class, the rate of every group, and how many tensors it holds that are not the model's."""

    name: str = ""
    lrs: tuple[float, ...] = ()
    foreign: int = 0
    owned: int = 0
    same: int = 0
    """How many optimizers hold exactly the parameters of another one."""
    replaced: tuple[str, ...] = ()
    """Parameters that no optimizer holds, where tensors of another model of the same shapes are held."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """One optimizer step.

    ``batch`` is the index of the batch, ``loss`` its loss before the step, ``loss_after`` the loss of the same batch with
    the same random state after it (None where it was not asked for). ``grad_norm`` is over all blocks, ``lr`` per group,
    ``update_ratio`` the median over blocks of ||update|| / ||weight||, ``nonfinite`` the number of blocks whose gradient
    is not finite (plus one for the loss).
    """

    step: int
    batch: int
    loss: float
    loss_after: float | None = None
    grad_norm: float = math.nan
    lr: tuple[float, ...] = ()
    update_ratio: float = math.nan
    nonfinite: int = 0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A run: its steps, and per block the norms (T, P) of gradient (NaN: none came), weight before, and update.

    ``gradient`` is the sum over micro-batches, as the optimizer sees it. ``stopped`` says why the run ended early.
    ``loss_start``, ``loss_middle`` and ``loss_end`` are the losses of the same batches (n,) before the first step, after half
    of them and after the last.
    """

    steps: tuple[StepFacts, ...]
    blocks: tuple[str, ...]
    gradient: NDArray[np.float64]
    weight: NDArray[np.float64]
    update: NDArray[np.float64]
    stopped: str = ""
    loss_start: tuple[float, ...] = ()
    loss_end: tuple[float, ...] = ()
    loss_middle: tuple[float, ...] = ()
    movement: NDArray[np.float64] | None = None
    """||w_T - w_0|| / ||w_0|| per block, shape (P,); NaN where w_0 is 0."""
    stray: tuple[str, ...] = ()
    """Tensors that the loss needs a gradient of and the model holds, but neither its parameters nor the optimizer list."""

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of every step, before it."""
        return tuple(step.loss for step in self.steps)


Observer = Any
"""``observer(step, session)``, called after backward and before the optimizer's step; only adapters write these."""


@runtime_checkable
class Trainable(Problem, Protocol):
    """A model, data, loss and optimizer that can be trained on a copy, from the same state any number of times."""

    parameters: tuple[ParameterFacts, ...]
    optimizer: OptimizerFacts
    objective: str
    batch_count: int
    """How many batches are there; runs longer than that begin again with the first."""

    def run(
        self,
        steps: int,
        *,
        rate_scale: float = 1.0,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        compare: int = 0,
        observers: Sequence[Observer] = (),
        keep: str = "",
        weight_scales: Mapping[str, float] | None = None,
    ) -> Trace:
        """Train a fresh copy for some steps; ``keep`` names the trained copy for later looks at it.

        ``rate_scale`` multiplies every group's rate, ``batches`` chooses batches by index (in that order, repeated),
        ``same_batch`` evaluates each step's batch again after the step, ``compare`` is the number of batches whose loss
        is taken before the first and after the last step, ``weight_scales`` multiplies parameters of the copy by name before
        anything else. A loss or gradient that is not finite ends the run.

        Raises:
            UsageError: the loss raises, or does not return a scalar of the framework.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches that were read, at most as many as there are steps."""

    items: tuple[Any, ...]
    more: bool = False
    """There were more than were read."""
    notes: tuple[str, ...] = field(default=())


def read_batches(batches: Any, limit: int) -> Batches:
    """At most ``limit`` batches of what the user gave.

    Raises:
        UsageError: it cannot be iterated, or is empty.
    """
    import itertools

    try:
        iterator = iter(batches)
    except TypeError:
        raise UsageError(
            f"batches takes a list, a DataLoader or another iterable of batches, got {type(batches).__name__}",
            todo="wrap a single batch in a list: batches=[batch]",
        ) from None
    items = list(itertools.islice(iterator, max(1, limit)))
    if not items:
        raise UsageError(
            "batches is empty: there is nothing to train on",
            where=f"batches is a {type(batches).__name__}",
            todo="give at least one batch (an iterator that was read before is empty: pass a list or a DataLoader)",
        )
    return Batches(items=tuple(items), more=len(items) >= limit)


def adapt_training(scenario: Scenario, settings: Settings) -> Trainable:
    """The scenario as a problem that can be trained on a copy.

    Raises:
        UsageError: the model is neither a torch module nor a dict of NumPy arrays, has no parameters, there are no
            batches, or the optimizer is none.
    """
    import sys

    if isinstance(scenario.model, dict):
        from gradguard.adapters.numpy_observe import NumpyHealth

        return cast(Trainable, NumpyHealth(scenario, settings))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(scenario.model, torch.nn.Module):
        from gradguard.adapters.torch_observe import TorchHealth

        return cast(Trainable, TorchHealth(scenario, settings))
    raise UsageError(
        f"cannot train a {type(scenario.model).__name__}",
        where="model",
        todo="give a torch.nn.Module, or for NumPy a (nested) dict of arrays with grad(model, batch)",
    )
