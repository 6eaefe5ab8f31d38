"""Curvature of a NumPy model's loss by central differences of its own gradient, as ``gg.SGD`` sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.curvature_base import RateGroup, Response
from gradguard.curvature.stability import StepRule
from gradguard.scenarios import SGD

__all__ = ["NumpyCurvature"]

Array = NDArray[np.float64]
Gradients = Callable[[], Sequence[NDArray[np.floating[Any]] | None]]


class NumpyCurvature:
    """A :class:`~gradguard.adapters.curvature_base.CurvedPoint` and its operator; ``parameters`` are moved and put back."""

    def __init__(
        self,
        gradient: Gradients,
        parameters: Sequence[NDArray[np.floating[Any]]],
        velocity: Sequence[NDArray[np.floating[Any]]],
        optimizer: SGD,
    ) -> None:
        self.gradient = gradient
        self.parameters = list(parameters)
        self.velocity = list(velocity)
        self.optimizer = optimizer
        self.sizes = [p.size for p in self.parameters]
        self.size = sum(self.sizes)
        self.gradients = 0
        self.path, self.reason = "differences of gradients", "a NumPy model has no double backward"
        self.unit = optimizer.lr or 1.0
        self.groups = (
            RateGroup(
                index=0, lr=optimizer.lr, unit=self.unit, optimizer="SGD", entries=self.size,
                rule=StepRule(momentum=optimizer.momentum),
            ),
        )
        self.precision = max((float(np.finfo(p.dtype).eps) for p in self.parameters), default=0.0)

    def operator(self) -> NumpyCurvature:
        """Itself."""
        return self

    def random(self, seed: int) -> Array:
        """Standard normal entries."""
        return np.random.default_rng(seed).standard_normal(self.size)

    def dot(self, left: Array, right: Array) -> float:
        """The inner product."""
        return float(left @ right)

    def axpy(self, factor: float, vector: Array, target: Array) -> Array:
        """factor * vector + target, into target."""
        target += factor * vector
        return target

    def scaled(self, factor: float, vector: Array) -> Array:
        """A new vector."""
        return factor * vector

    def product(self, vector: Array, fraction: float = 1.0) -> Array:
        """lr H v = lr (grad(w + h v) - grad(w - h v)) / 2h, with h v a fixed part of ||w||."""
        length = float(np.linalg.norm(vector))
        if not length:
            return np.zeros_like(vector)
        point = [p.copy() for p in self.parameters]
        scale = float(np.sqrt(sum(float(np.sum(p.astype(np.float64) ** 2)) for p in point))) or 1.0
        step = fraction * self.precision ** (1 / 3) * scale / length
        pieces = np.split(vector, np.cumsum(self.sizes)[:-1])
        sides = []
        try:
            for side in (step, -step):
                for parameter, start, piece in zip(self.parameters, point, pieces, strict=True):
                    parameter[...] = start + side * piece.reshape(start.shape)
                sides.append(self._gradient())
        finally:
            for parameter, start in zip(self.parameters, point, strict=True):
                parameter[...] = start  # assigned, not subtracted: the same bits
        image: Array = self.unit * (sides[0] - sides[1]) / (2.0 * step)
        return image

    def difference_product(self, vector: Array, fraction: float) -> Array:
        """A v."""
        return self.product(vector, fraction)

    def use_differences(self, reason: str) -> None:
        """There is no other way."""

    def gradient_norm(self) -> float:
        """The norm of the batch's gradient."""
        return float(np.linalg.norm(self._gradient()))

    def share_along(self, vector: Array) -> float:
        """Of the batch's gradient."""
        gradient = self._gradient()
        size = float(np.linalg.norm(gradient))
        return abs(self.dot(gradient, vector)) / size if size > 0 else 0.0

    def measured_limit(self, curvature: float, vector: Array) -> float | None:
        """``gg.SGD`` is known."""
        return None

    def settle(self) -> None:
        """``gg.SGD`` has no preconditioner."""

    def response(self) -> Response:
        """What the next step of ``gg.SGD`` does to the quadratic model of this batch's loss."""
        gradient = self._gradient()
        velocity = np.concatenate([v.ravel() for v in self.velocity]) if self.velocity else np.zeros(0)
        moved = -self.unit * (self.optimizer.momentum * velocity + gradient)
        return Response(slope=float(gradient @ moved), curvature=float(self.product(moved) @ moved) / self.unit)

    def _gradient(self) -> Array:
        self.gradients += 1
        found = self.gradient()
        return np.concatenate(
            [
                np.zeros(p.size) if g is None else np.asarray(g, dtype=np.float64).ravel()
                for p, g in zip(self.parameters, found, strict=True)
            ]
        )
