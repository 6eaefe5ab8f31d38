"""How noisy is a computed function? ECnoise.

J. J. More and S. M. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISE_POINTS", "Noise", "estimate_noise"]

NOISE_POINTS = 7
"""Equally spaced values that :func:`estimate_noise` takes: the paper recommends 6 to 8."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The standard deviation of one evaluation's error; ``measured`` is False where only the floor is known."""

    sigma: float
    measured: bool


def estimate_noise(values: NDArray[np.float64], floor: float) -> Noise:
    """The noise of a function from values at equally spaced points, shape (m + 1,).

    With the k-th differences D^k f, ``sigma_k^2 = gamma_k / (m + 1 - k) * sum_i (D^k f_i)^2`` and
    ``gamma_k = (k!)^2 / (2k)!`` (equation 3.1 there). The first level whose differences change sign and whose next two
    sigmas agree within a factor 4 is taken. Never below ``floor``, the rounding error that the values must have.
    """
    differences = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(differences)):
        return Noise(sigma=floor, measured=False)
    sigmas: list[float] = []
    alternates: list[bool] = []
    for k in range(1, len(values)):
        differences = np.diff(differences)
        gamma = factorial(k) ** 2 / factorial(2 * k)
        sigmas.append(float(np.sqrt(gamma * np.mean(differences**2))))
        alternates.append(bool(np.min(differences) * np.max(differences) < 0))
    for k in range(len(sigmas) - 2):
        window = sigmas[k : k + 3]
        if alternates[k] and max(window) <= 4 * min(window):
            return Noise(sigma=max(sigmas[k], floor), measured=True)
    return Noise(sigma=floor, measured=False)
