"""A NumPy network as a (nested) dict of arrays with a hand-written gradient, trained on copies by ``gg.SGD``."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.base import Counts, Settings
from gradguard.adapters.batch_copies import BatchCopies
from gradguard.adapters.training_base import Observer, OptimizerFacts, ParameterFacts, StepFacts, Trace, read_batches
from gradguard.blocks import Block
from gradguard.errors import INTERRUPTS, UsageError
from gradguard.scenarios import SGD, Scenario

__all__ = ["NumpySession", "NumpyTraining", "flatten"]


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Python's and NumPy's global random states restored afterwards."""
    import random

    python, numpy = random.getstate(), np.random.get_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, lists and tuples by dotted name."""
    if isinstance(tree, Mapping):
        pairs = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        pairs = [(str(i), value) for i, value in enumerate(tree)]
    else:
        return {prefix: tree}
    result: dict[str, Any] = {}
    for key, value in pairs:
        result.update(flatten(value, f"{prefix}.{key}" if prefix else key))
    return result


def is_float(value: Any) -> bool:
    """Whether it is a floating-point NumPy array."""
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)


class NumpySession:
    """A deep copy of the model that trains with ``gg.SGD``: v = momentum v + g, w = w - lr v."""

    def __init__(self, problem: NumpyTraining, rate_scale: float = 1.0) -> None:
        self.problem = problem
        self.model = copy.deepcopy(problem.scenario.model)
        self.named = [(name, value) for name, value in flatten(self.model).items() if is_float(value)]
        self.params = [value for _, value in self.named]
        optimizer = problem.scenario.optimizer
        self.lr = (optimizer.lr if optimizer is not None else 0.0) * rate_scale
        self.momentum = optimizer.momentum if optimizer is not None else 0.0
        self.velocity = [np.zeros_like(p) for p in self.params]

    def loss(self, batch: Any, index: int = 0) -> float:
        """The user's loss of one batch.

        Raises:
            UsageError: it raises, or returns no number.
        """
        self.problem.counts.forwards += 1
        try:
            with np.errstate(all="ignore"):
                value = self.problem.scenario.loss(self.model, self.problem.handed.of(batch))
        except (UsageError, *INTERRUPTS):
            raise
        except Exception as error:
            raise UsageError(
                f"the loss raised {type(error).__name__}: {error}".splitlines()[0],
                where=f"loss(model, batch) on batch {index}",
            ) from error
        if np.size(value) != 1:
            raise UsageError(
                f"the loss returned an array of shape {np.shape(value)}, not a number",
                where=f"loss(model, batch) on batch {index}",
                todo="reduce it: loss.mean()",
            )
        return float(np.asarray(value).reshape(()))

    def gradient(self, batch: Any, index: int = 0) -> list[NDArray[np.floating[Any]] | None]:
        """The user's gradient, one array per parameter, None where it has none.

        Raises:
            UsageError: it raises, names a parameter that is not there, or has another shape.
        """
        self.problem.counts.backwards += 1
        grad = self.problem.scenario.grad
        assert grad is not None
        try:
            with np.errstate(all="ignore"):
                found = flatten(grad(self.model, self.problem.handed.of(batch)))
        except (UsageError, *INTERRUPTS):
            raise
        except Exception as error:
            raise UsageError(
                f"grad raised {type(error).__name__}: {error}".splitlines()[0],
                where=f"grad(model, batch) on batch {index}",
            ) from error
        result: list[NDArray[np.floating[Any]] | None] = []
        for name, parameter in self.named:
            value = found.get(name)
            if value is not None and np.shape(value) != parameter.shape:
                raise UsageError(
                    f"grad returned shape {np.shape(value)} for {name}, whose shape is {parameter.shape}",
                    where=f"grad(model, batch) on batch {index}",
                    todo="sum the gradient over the batch",
                )
            result.append(None if value is None else np.asarray(value))
        return result

    def step(self, gradient: Sequence[NDArray[np.floating[Any]] | None]) -> None:
        """One step of the optimizer, in place on the copy."""
        with np.errstate(all="ignore"):
            for parameter, velocity, g in zip(self.params, self.velocity, gradient, strict=True):
                if g is None:
                    continue
                velocity *= self.momentum
                velocity += g
                parameter -= self.lr * velocity


def norms(arrays: Sequence[NDArray[np.floating[Any]] | None]) -> NDArray[np.float64]:
    """The 2-norm of each array, shape (P,); NaN for None, infinite where an entry is not finite."""
    with np.errstate(all="ignore"):
        found = [math.nan if a is None else float(np.linalg.norm(np.asarray(a, dtype=np.float64).ravel())) for a in arrays]
    return np.array(
        [math.inf if a is not None and math.isnan(n) else n for a, n in zip(arrays, found, strict=True)],
        dtype=np.float64,
    )


class NumpyTraining:
    """A NumPy scenario that can be trained on copies; see :class:`gradguard.adapters.training_base.Trainable`."""

    def __init__(self, scenario: Scenario, settings: Settings) -> None:
        self.scenario = scenario
        self.settings = settings
        self.counts = Counts()
        self.path = "a copy of the arrays"
        self.objective = scenario.objective
        self.notes: tuple[str, ...] = ()
        self.sessions: dict[str, NumpySession] = {}
        named = [(n, v) for n, v in flatten(scenario.model).items() if is_float(v)]
        if not named:
            raise UsageError("the model has no parameters", where="model", todo="give a (nested) dict of floating-point arrays")
        if scenario.grad is None:
            raise UsageError(
                "a NumPy model needs its gradient",
                where="grad",
                todo="grad=lambda model, batch: {...}, mirroring the model",
            )
        if scenario.optimizer is not None and not isinstance(scenario.optimizer, SGD):
            raise UsageError(
                f"a NumPy model is trained with gg.SGD, got {type(scenario.optimizer).__name__}",
                where="optimizer",
                todo="optimizer=gg.SGD(lr=0.1)",
            )
        with preserved_rng(settings.seed):
            self.batches = read_batches(scenario.batches, settings.steps).items
        self.handed = BatchCopies(self.batches)
        self.batch_count = len(self.batches)
        held = 0 if scenario.optimizer is not None else None
        self.parameters = tuple(
            ParameterFacts(name=n, shape=v.shape, dtype=str(v.dtype), module=n.rpartition(".")[0] or n, group=held)
            for n, v in named
        )
        self.optimizer = (
            OptimizerFacts(name="SGD", lrs=(scenario.optimizer.lr,), owned=len(named))
            if scenario.optimizer is not None
            else OptimizerFacts()
        )
        self.blocks = tuple(Block(name=p.name, shape=p.shape, dtype=p.dtype, module=p.module) for p in self.parameters)

    def fresh(self, rate_scale: float = 1.0) -> NumpySession:
        """A new copy of the model in the user's state."""
        return NumpySession(self, rate_scale)

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
        """Train a fresh copy; see :meth:`gradguard.adapters.training_base.Trainable.run`."""
        order = list(batches) if batches is not None else list(range(self.batch_count))
        compared = order[:compare]
        with preserved_rng(seed):
            session = self.fresh(rate_scale)
            for name, parameter in session.named:
                parameter *= (weight_scales or {}).get(name, 1.0)
            start = tuple(session.loss(self.batches[i], i) for i in compared)
            first = [p.copy() for p in session.params]
            facts: list[StepFacts] = []
            rows: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
            stopped = ""
            middle: tuple[float, ...] = ()
            for step in range(steps):
                if step == steps // 2 and step:
                    middle = tuple(session.loss(self.batches[i], i) for i in compared)
                index = order[step % len(order)]
                batch = self.batches[index]
                value = session.loss(batch, index)
                gradients = session.gradient(batch, index)
                gradient, weight = norms(gradients), norms(session.params)
                for observer in observers:
                    observer(step, session)
                nonfinite = int(np.isinf(gradient).sum()) + (not math.isfinite(value))
                before = [p.copy() for p in session.params]
                after = None
                if nonfinite:
                    stopped = f"{'the loss' if not math.isfinite(value) else 'a gradient'} is not finite at step {step}"
                else:
                    session.step(gradients)
                    after = session.loss(batch, index) if same_batch else None
                update = norms([p - b for p, b in zip(session.params, before, strict=True)])
                rows.append((gradient, weight, update))
                positive = (weight > 0) & np.isfinite(update)
                facts.append(
                    StepFacts(
                        step=step,
                        batch=index,
                        loss=value,
                        loss_after=after,
                        grad_norm=float(np.sqrt(np.nansum(gradient**2))),
                        lr=(session.lr,),
                        nonfinite=nonfinite,
                        update_ratio=float(np.median(update[positive] / weight[positive])) if positive.any() else math.nan,
                    )
                )
                if stopped:
                    break
            end = tuple(session.loss(self.batches[i], i) for i in compared)
        if keep:
            self.sessions[keep] = session
        start_norm = norms(first)
        moved = norms([p - f for p, f in zip(session.params, first, strict=True)])
        with np.errstate(divide="ignore", invalid="ignore"):
            movement = np.where(start_norm > 0, moved / start_norm, math.nan)
        shape = (len(rows), len(session.params))
        columns = [np.array([row[k] for row in rows]).reshape(shape) for k in range(3)]
        return Trace(
            steps=tuple(facts),
            blocks=tuple(n for n, _ in session.named),
            gradient=columns[0],
            weight=columns[1],
            update=columns[2],
            stopped=stopped,
            loss_start=start,
            loss_end=end,
            loss_middle=middle,
            movement=movement,
        )
