"""What an adapter offers to the learning-rate checks: restartable runs at other rates, curvature, and cheap looks at a loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from gradguard.adapters.base import Problem, Settings
from gradguard.adapters.curvature_base import CurvedPoint
from gradguard.adapters.training_base import Trace, Trainable
from gradguard.errors import INTERRUPTS, UsageError

if TYPE_CHECKING:
    from gradguard.scenarios import Scenario

__all__ = ["ALONG", "HORIZON", "LOOK_EVERY", "Plan", "RateProblem", "SplitLoss", "Until", "adapt_rates", "called_schedule"]

HORIZON = 10_000
"""Up to which step a schedule is looked at."""
SAME = 1e-6
"""Factors of a schedule that differ by less than this part of them are the same."""
ALONG = 4
"""Batches whose loss is followed along a line of weights."""
LOOK_EVERY = 5
"""Every so many steps of a short run, the step's size is compared with that of the weights."""

Until = Callable[[int, int, float], str]
"""``until(step, batch, loss)``, called after a step: why the run need not go on, or an empty text."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the user's loop does around the optimizer: a schedule and clipping.

    ``factors`` multiply the rates from step to step (the last one stays), ``source`` says where they come from. ``clip``
    is the norm to which the whole gradient is clipped. Curvature is measured on ``curvature_batches`` batches. Without
    ``refine`` the training limit is looked for by decades only.
    """

    factors: tuple[float, ...] = ()
    source: str = ""
    clip: float | None = None
    curvature_batches: int = 1
    refine: bool = True

    @property
    def peak(self) -> tuple[float, int]:
        """The largest factor and the first step at which it is reached, but for rounding: a cosine comes back to it."""
        if not self.factors:
            return 1.0, 0
        largest = max(self.factors)
        return largest, next(step for step, factor in enumerate(self.factors) if factor >= (1.0 - SAME) * largest)

    @property
    def idle(self) -> int:
        """How many steps the schedule holds the rate at 0 from the first one on; all that are known where it always does."""
        return next((step for step, factor in enumerate(self.factors) if factor > 0), len(self.factors))

    def largest(self, steps: int) -> float:
        """The largest factor within so many steps."""
        return max(self.factors[: max(1, steps)], default=1.0)

    def factor(self, step: int) -> float:
        """The factor at a step."""
        return self.factors[min(step, len(self.factors) - 1)] if self.factors else 1.0


@dataclass(frozen=True, kw_only=True)
class SplitLoss:
    """The loss of a batch of B samples and of its two halves (of B // 2 samples each)."""

    whole: float
    halves: tuple[float, float]
    samples: int


class KeptTrainable(Trainable, Protocol):
    """Copies that runs have kept, by name."""

    sessions: dict[str, Any]


@runtime_checkable
class RateProblem(Problem, Protocol):
    """A scenario whose rate can be judged."""

    training: KeptTrainable
    plan: Plan
    objective: str

    def run(
        self,
        steps: int,
        *,
        rate_scale: float = 1.0,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        compare: int = 0,
        keep: str = "",
    ) -> Trace:
        """A run of the training copy with the plan's schedule and clipping; see ``Trainable.run``."""
        ...

    def attempt(
        self,
        steps: int,
        *,
        factor: float,
        seed: int = 0,
        batches: Sequence[int] | None = None,
        same_batch: bool = False,
        until: Until | None = None,
        keep: str = "",
    ) -> Trace:
        """The same at ``factor`` times the rates, and cheaper: the trace has losses and the weights' movement only.

        ``until`` can end it early.
        """
        ...

    def follow(
        self, steps: int, *, factor: float, batch: int, seed: int = 0, until: Callable[[Sequence[float]], bool]
    ) -> tuple[float, ...]:
        """The losses of one batch before and after each of the first steps on it alone, as many as ``steps`` + 1.

        From the user's state but for momentum, which is zeroed; at ``factor`` times the rates, with the plan's clipping and
        without its schedule; with the same random numbers each time. ``until(losses)`` can end it. A loss that is maximised
        has the other sign.
        """
        ...

    def normalised(self, *, seed: int = 0) -> bool:
        """Whether the rate alone sets the size of a step: a hundredfold gradient makes hardly a larger one."""
        ...

    def point(self, *, batch: int = 0, warm_steps: int = 0, rate_scale: float = 1.0, seed: int = 0) -> CurvedPoint:
        """The curvature of one batch's loss after some steps of training at the scaled rates."""
        ...

    def adaptive(self) -> bool:
        """Whether the optimizer's step depends on gradients seen before, and it has seen none yet."""
        ...

    def null_losses(self, batches: Sequence[int], *, seed: int = 0) -> tuple[float, ...]:
        """The losses of batches with every trainable parameter at zero: what the model is worth without its weights."""
        ...

    def along(self, state: str, multiples: Sequence[float], *, seed: int = 0) -> tuple[float, ...]:
        """The mean loss of a few batches at w_0 + s (w - w_0), for each s; w are the weights that a run has kept."""
        ...

    def split_loss(self, batch: int, *, seed: int = 0) -> SplitLoss | None:
        """The loss of a batch and of its halves; None where the batch cannot be split along a common first axis."""
        ...


def adapt_rates(
    scenario: Scenario, settings: Settings, *, schedule: Any = None, clip: float | None = None
) -> RateProblem:
    """The scenario as a problem whose learning rate can be judged.

    Raises:
        UsageError: there is no optimizer, or what :func:`gradguard.adapters.training_base.adapt_training` refuses.
    """
    if scenario.optimizer is None:
        raise UsageError(
            "there is no optimizer, so there is no learning rate to judge",
            where="optimizer",
            todo="optimizer=torch.optim.SGD(model.parameters(), lr=0.1), or gg.SGD(lr=0.1) for a NumPy model",
        )
    if clip is not None and not clip > 0:
        raise UsageError(f"clip takes the norm that gradients are clipped to, got {clip!r}", todo="clip=1.0, or None")
    if isinstance(scenario.model, dict):
        from gradguard.adapters.numpy_rates import NumpyRates

        return cast(RateProblem, NumpyRates(scenario, settings, schedule=schedule, clip=clip))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(scenario.model, torch.nn.Module):
        from gradguard.adapters.torch_rates import TorchRates

        return cast(RateProblem, TorchRates(scenario, settings, schedule=schedule, clip=clip))
    raise UsageError(
        f"cannot train a {type(scenario.model).__name__}",
        where="model",
        todo="give a torch.nn.Module, or for NumPy a (nested) dict of arrays with grad(model, batch)",
    )


def called_schedule(schedule: Callable[[int], float], steps: int) -> tuple[float, ...]:
    """The factors of a function step -> factor, up to the horizon, or to where it ends: a list of factors has a last one.

    Raises:
        UsageError: within the first ``steps``, it raises or returns something that is not a number of at least 0.
    """
    factors: list[float] = []
    for step in range(HORIZON):
        try:
            factor = float(schedule(step))
        except INTERRUPTS:
            raise
        except Exception as error:
            if step >= steps:
                break
            raise UsageError(
                f"the schedule raised {type(error).__name__} at step {step}: {error}".splitlines()[0],
                where="schedule",
                todo="schedule is a function step -> factor on the optimizer's rates, or a torch scheduler",
            ) from error
        if not 0 <= factor < float("inf"):
            if step >= steps:
                break
            raise UsageError(f"the schedule returned {factor!r} at step {step}", where="schedule", todo="return a factor >= 0")
        factors.append(factor)
    return tuple(factors)
