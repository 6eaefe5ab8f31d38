"""The largest and the smallest eigenvalue of a symmetric operator from products with vectors.

Thick-restart Lanczos with full reorthogonalisation (Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22(2), section 3;
Parlett, *The Symmetric Eigenvalue Problem*, chapter 13). Vectors are opaque: the operator's owner knows what they are
(a flat array, a tensor on a device, a list of shards); here they are only added, scaled and multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Eigenvalue", "Operator", "Spectrum", "extremes"]

Vector = Any
LEAST = 8
"""Products before the stopping rule is believed: a random start may first settle on an inner eigenvalue."""


class Operator(Protocol):
    """A symmetric linear map over opaque vectors, with their arithmetic."""

    size: int
    """The dimension of the space."""

    def random(self, seed: int) -> Vector:
        """A vector of independent standard normal entries, or zero where the operator is not defined."""
        ...

    def product(self, vector: Vector) -> Vector:
        """A new vector A v."""
        ...

    def dot(self, left: Vector, right: Vector) -> float:
        """The inner product in which A is symmetric."""
        ...

    def axpy(self, factor: float, vector: Vector, target: Vector) -> Vector:
        """factor * vector + target; target may be overwritten."""
        ...

    def scaled(self, factor: float, vector: Vector) -> Vector:
        """A new vector factor * vector."""
        ...


@dataclass(frozen=True, kw_only=True)
class Eigenvalue:
    """An eigenvalue and how far it may be from the true one.

    ``error_bar`` is the residual ||A y - value y||, which bounds the distance to an eigenvalue (Parlett, theorem 4.5.1;
    residual^2 / gap is smaller, but the gap to what was not seen is unknown), plus the operator's own noise, which is
    measured as the asymmetry of the projected matrix.
    """

    value: float
    error_bar: float


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Both ends of a spectrum. ``products`` were spent; ``converged`` says whether the largest met its tolerance.

    ``noise`` is half the spectral norm of the asymmetry seen, in the unit of the eigenvalues. ``top`` is the unit
    eigenvector of the largest eigenvalue. ``vectors`` is the largest number of vectors that were held at one time.
    """

    largest: Eigenvalue
    smallest: Eigenvalue
    products: int
    converged: bool
    noise: float
    vectors: int
    reason: str = ""
    top: Vector = field(default=None, compare=False, repr=False)


def extremes(
    operator: Operator,
    *,
    products: int = 60,
    kept: int = 24,
    tolerance: float = 1e-2,
    seed: int = 0,
    start: Vector = None,
) -> Spectrum:
    """Both ends of the operator's spectrum within ``products`` products.

    ``kept`` vectors are held before a restart, which keeps the Ritz vectors of a third of them. It stops when the error
    bar of the largest is within ``tolerance`` of it and that of the smallest within 4 ``tolerance`` of the spectrum's
    width, or when the space is exhausted. A product that is not finite ends it: the values are then NaN and ``reason``
    says so.
    """
    kept = max(4, min(kept, products))
    basis: list[Vector] = []
    projected = np.zeros((kept + 1, kept + 1))
    vector = start if start is not None else operator.random(seed)
    length = operator.dot(vector, vector) ** 0.5
    if not length > 0:
        return _ended("there is nothing to vary: the operator's space is empty", 0)
    vector = operator.scaled(1.0 / length, vector)
    used, held, noise, worst = 0, 1, 0.0, 0.0
    while True:
        basis.append(vector)
        j = len(basis) - 1
        image = operator.product(vector)
        used += 1
        size = operator.dot(image, image) ** 0.5
        if not np.isfinite(size):
            return _ended("a product with the Hessian is not finite", used)
        worst = max(worst, size)
        for _ in range(2):  # twice is enough (Parlett, section 6.9)
            for i, other in enumerate(basis):
                overlap = operator.dot(other, image)
                projected[i, j] += overlap
                image = operator.axpy(-overlap, other, image)
        beta = operator.dot(image, image) ** 0.5
        now = projected[: j + 1, : j + 1]
        noise = max(noise, float(np.linalg.norm(now - now.T, 2)) / 2.0)
        ritz, weights = np.linalg.eigh((now + now.T) / 2.0)
        residuals = beta * np.abs(weights[-1])
        high, low = float(residuals[-1]) + noise, float(residuals[0]) + noise
        exhausted = beta <= 1e-10 * worst or used >= operator.size
        enough = used >= min(LEAST, operator.size)
        converged = enough and high <= max(tolerance * abs(ritz[-1]), 2.0 * noise, 1e-12 * worst)
        width = max(abs(ritz[-1]), abs(ritz[0]))
        done = converged and low <= max(4.0 * tolerance * width, 2.0 * noise)
        held = max(held, len(basis) + 2)
        if exhausted or done or used >= products:
            break
        if len(basis) == kept:
            chosen = _chosen(len(ritz))
            held = max(held, len(basis) + len(chosen) + 2)
            basis = [_combine(operator, basis, weights[:, c]) for c in chosen]
            projected = np.zeros_like(projected)
            projected[range(len(chosen)), range(len(chosen))] = ritz[chosen]
            # A Y = Y diag(ritz) + v s': the next vector's row, to which its own products must be equal.
            projected[len(chosen), : len(chosen)] = beta * weights[-1, chosen]
        else:
            projected[j + 1, j] = beta
        vector = operator.scaled(1.0 / beta, image)
    return Spectrum(
        largest=Eigenvalue(value=float(ritz[-1]), error_bar=0.0 if exhausted and not noise else high),
        smallest=Eigenvalue(value=float(ritz[0]), error_bar=0.0 if exhausted and not noise else low),
        products=used, converged=bool(converged or exhausted), noise=noise, vectors=held,
        reason="" if converged or exhausted else f"not converged in {products} products",
        top=_combine(operator, basis, weights[:, -1]),
    )


def _chosen(count: int) -> list[int]:
    """Which Ritz vectors a restart keeps: a fifth from above, a tenth from below, at least one of each."""
    above, below = max(1, count // 5), max(1, count // 10)
    return [*range(below), *range(count - above, count)]


def _combine(operator: Operator, basis: list[Vector], weights: NDArray[np.float64]) -> Vector:
    total = operator.scaled(float(weights[0]), basis[0])
    for weight, vector in zip(weights[1:], basis[1:], strict=True):
        total = operator.axpy(float(weight), vector, total)
    return total


def _ended(reason: str, used: int) -> Spectrum:
    missing = Eigenvalue(value=float("nan"), error_bar=float("nan"))
    return Spectrum(
        largest=missing, smallest=missing, products=used, converged=False, noise=0.0, vectors=1, reason=reason
    )
