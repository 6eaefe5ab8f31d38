"""Evidence for the health rules, typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradguard.adapters.observing_base import LayerUnits, Look, ModuleFacts, OutputFacts
from gradguard.adapters.training_base import OptimizerFacts, ParameterFacts, StepFacts, Trace
from gradguard.finding import Outcome
from gradguard.measurements.base import Measurement
from gradguard.measurements.flow import Flow, LayerFlow
from gradguard.measurements.long_run import LongRun
from gradguard.measurements.passes import Passes
from gradguard.measurements.training_run import TrainingRun
from gradguard.measurements.units import LayerState, UnitStates

WORKS = (2.3, 0.2)
FAILS = (2.3, 2.3)
BLOCKS = ("fc1.weight", "fc2.weight", "fc3.weight")


def trace(
    losses: tuple[float, float] = WORKS,
    steps: int = 300,
    gradient: Any = None,
    blocks: Sequence[str] = BLOCKS,
    **columns: Any,
) -> Trace:
    """A run whose loss goes evenly from the first value to the last."""
    values = np.linspace(*losses, steps)
    shape = (steps, len(blocks))
    facts = tuple(
        StepFacts(step=i, batch=0, loss=float(v), grad_norm=1.0, lr=(0.1,), update_ratio=1e-3) for i, v in enumerate(values)
    )
    start, end = (losses[0],) * 4, (losses[1],) * 4
    middle = tuple(0.5 * (a + b) for a, b in zip(start, end, strict=True))
    given: dict[str, Any] = {
        "steps": facts,
        "blocks": tuple(blocks),
        "gradient": np.ones(shape) if gradient is None else gradient,
        "weight": np.ones(shape),
        "update": 1e-3 * np.ones(shape),
        "loss_start": start,
        "loss_middle": middle,
        "loss_end": end,
        "movement": np.ones(len(blocks)),
    }
    return Trace(**{**given, **columns})


def parameters(blocks: Sequence[str] = BLOCKS, **columns: Any) -> tuple[ParameterFacts, ...]:
    """Matrices of (8, 8), one for each block."""
    facts: dict[str, Any] = {"shape": (8, 8), "dtype": "float32", "owner": "Linear", "group": 0, **columns}
    return tuple(ParameterFacts(name=b, module=b.rpartition(".")[0], **facts) for b in blocks)


def run(losses: tuple[float, float] = WORKS, steps: int = 300, **columns: Any) -> TrainingRun:
    """A training run; columns of the trace or of the run."""
    of_trace = {k: columns.pop(k) for k in ("gradient", "stopped", "blocks", "movement", "loss_middle") if k in columns}
    facts: dict[str, Any] = {
        "parameters": parameters(),
        "optimizer": OptimizerFacts(name="SGD", lrs=(0.1,), owned=3),
        "asked": steps,
    }
    return TrainingRun(trace=trace(losses, steps, **of_trace), **{**facts, **columns})


def outputs(loss: float = 0.2, **columns: Any) -> OutputFacts:
    """Predictions of ten balanced classes."""
    facts: dict[str, Any] = {
        "samples": 128,
        "width": 10,
        "spread": 0.3,
        "rms": 1.0,
        "kind": "cross_entropy",
        "data_loss": loss,
        "prior": 2.3,
    }
    return OutputFacts(**{**facts, **columns})


def passes(start: Mapping[str, Any] | None = None, end: Mapping[str, Any] | None = None, loss: float = 0.2) -> Passes:
    """Looks before and after."""
    common: dict[str, Any] = {
        "order": BLOCKS,
        "matrices": BLOCKS,
        "modules": tuple(module(f"fc{i + 1}", i) for i in range(3)),
    }
    first = {"outputs": outputs(2.3), **common, **(start or {})}
    return Passes(start=Look(step=0, **first), end=Look(step=1, **{"outputs": outputs(loss), **common, **(end or {})}))


def module(path: str, depth: int, rms: float = 1.0) -> ModuleFacts:
    return ModuleFacts(path=path, owner="Linear", depth=depth, calls=1, graph_calls=1, rms=rms)


def longer(losses: tuple[float, float] = FAILS, loss: float = 2.3, **columns: Any) -> LongRun:
    """A longer run and its end."""
    return LongRun(trace=trace(losses, 300, **columns), look=Look(step=300, outputs=outputs(loss)))


def state(
    dead: int, *, units: int = 64, born: int | None = None, samples: int = 512, saturated: int = 0, kind: str = "relu"
) -> LayerState:
    return LayerState(
        layer="act",
        kind=kind,
        block="fc1.weight",
        module="fc1",
        depth=0,
        step=300,
        units=units,
        samples=samples,
        dead=dead,
        born_dead=dead if born is None else born,
        saturated=saturated,
        dormant=0,
        zero_fraction=0.5,
        rms=1.0,
    )


def states(*layers: LayerState) -> UnitStates:
    return UnitStates(start=layers, end=layers)


def units(slope: Sequence[float], *, kind: str = "relu", pruned: Sequence[bool] | None = None) -> LayerUnits:
    n = len(slope)
    return LayerUnits(
        layer="act",
        kind=kind,
        depth=0,
        block="fc1.weight",
        module="fc1",
        samples=100,
        slope=np.array(slope),
        flat=np.zeros(n),
        zeros=np.zeros(n),
        rms=np.ones(n),
        size=np.ones(n),
        pruned=np.zeros(n, dtype=bool) if pruned is None else np.array(pruned),
    )


def flow(*late: float) -> Flow:
    """Layers with those products of gradient and weight, late."""
    from gradguard.measurements.flow import fitted_growth

    layers = tuple(
        LayerFlow(
            block=f"fc{i}.weight",
            module=f"fc{i}",
            depth=i,
            start=v,
            late=v,
            size=64,
            grad_start=v,
            grad_late=v,
            weight=1.0,
            update_ratio=1e-3,
        )
        for i, v in enumerate(late)
    )
    return Flow(layers=layers, growth=fitted_growth(np.array(late)), growth_start=1.0, steps=300)


def evidence(*measured: Measurement) -> dict[str, Measurement]:
    return {m.name: m for m in measured}


def severities(outcome: Outcome) -> list[str]:
    return [f.severity for f in outcome.findings]
