"""Evidence typed by hand for the rules that judge gradients."""

from __future__ import annotations

from typing import Any

from gradguard.adapters.base import Cut, Identity
from gradguard.blocks import Block
from gradguard.measurements.base import Measurement
from gradguard.measurements.block_results import BlockResult, Gradients
from gradguard.measurements.detached import Detached
from gradguard.measurements.determinism import Determinism
from gradguard.measurements.kinks import KinkEntry, Kinks
from gradguard.measurements.localisation import Localisation, Place

WEIGHT = Block(name="fc1.weight", shape=(4, 3), dtype="float32", module="fc1", owner="Linear")
BIAS = Block(name="fc1.bias", shape=(4,), dtype="float32", module="fc1", owner="Linear")


def result(block: Block = WEIGHT, verdict: str = "pass", **columns: Any) -> BlockResult:
    usual = {"analytical": 1.0, "numerical": 1.0, "error_bar": 1e-9, "z": 0.5, "resolution": 1e-9}
    return BlockResult(block=block, verdict=verdict, **{**usual, **columns})


def wrong(block: Block = WEIGHT, **columns: Any) -> BlockResult:
    return result(block, "fail", **{"analytical": 1.01, "z": 1e7, **columns})


def evidence(*results: BlockResult, **more: Any) -> dict[str, Measurement]:
    at_point = more.pop("at_point", True)
    found: dict[str, Measurement] = {"gradients": Gradients(results=results, at_point=at_point)}
    found.update({name: measured for name, measured in more.items() if measured is not None})
    return found


def determinism(value: float = 0.0, gradient: float = 0.0, block: str = "") -> Determinism:
    identity = Identity(value_difference=value, gradient_difference=gradient, block=block)
    return Determinism(identity=identity, epsilon=2.0**-52)


def detached(*explained: str, declared: bool = False) -> Detached:
    return Detached(cuts=(Cut(location="model.py:7", operation="detach", declared=declared),), explained=explained)


def kink(analytical: float, left: float, right: float, *, kinked: bool, outside: bool) -> KinkEntry:
    return KinkEntry(
        block=WEIGHT, index=5, analytical=analytical, left=left, right=right, error_bar=1e-9, kink=kinked, outside=outside
    )


__all__ = [
    "BIAS", "WEIGHT", "Kinks", "Localisation", "Place", "detached", "determinism", "evidence", "kink", "result", "wrong",
]
