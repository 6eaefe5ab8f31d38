"""Explicit matrices as operators: the oracle for Lanczos is numpy.linalg.eigvalsh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Matrix:
    """A dense symmetric matrix, with relative noise on each product if asked."""

    def __init__(self, dense: NDArray[np.float64], noise: float = 0.0) -> None:
        self.dense = dense
        self.size = len(dense)
        self.noise = noise
        self.generator = np.random.default_rng(9)
        self.products = 0

    def random(self, seed: int) -> NDArray[np.float64]:
        return np.random.default_rng(seed).standard_normal(self.size)

    def product(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        self.products += 1
        image = self.dense @ vector
        if self.noise:
            image = image + self.noise * np.linalg.norm(image) / self.size**0.5 * self.generator.standard_normal(self.size)
        return image

    def dot(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
        return float(left @ right)

    def axpy(self, factor: float, vector: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        return factor * vector + target

    def scaled(self, factor: float, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return factor * vector


def with_spectrum(eigenvalues: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """A dense symmetric matrix with those eigenvalues, in a random basis."""
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.standard_normal((len(eigenvalues), len(eigenvalues))))
    dense = basis @ np.diag(eigenvalues) @ basis.T
    return (dense + dense.T) / 2
