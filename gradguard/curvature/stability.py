"""Up to which rate an optimizer is stable on a quadratic.

With curvature lambda (after preconditioning) a momentum method is the linear iteration

    m <- beta m + s g,   x <- (1 - lr d) x - lr step,   step = m, or s g + beta m (Nesterov),   g = lambda x

of two variables. It shrinks x exactly while both eigenvalues of that map are inside the unit circle; the first to leave
does so at -1, which gives the closed forms below (Cohen et al. 2021, arXiv:2103.00065, equation 1 and appendix B; 2022,
arXiv:2207.14484, equation 3, for Adam: s = 1 - beta gives (2 + 2 beta) / (1 - beta), 38 for beta = 0.9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["StepRule"]


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """One optimizer as a linear iteration: ``momentum`` beta, ``share`` s of the new gradient, decoupled ``decay`` d."""

    momentum: float = 0.0
    share: float = 1.0
    nesterov: bool = False
    decay: float = 0.0

    def factor(self, rate: float, curvature: float) -> float:
        """By how much a deviation grows per step in the long run: the spectral radius of the iteration's matrix."""
        beta, push, kept = self.momentum, self.share * rate * curvature, 1.0 - rate * self.decay
        if self.nesterov:
            matrix = np.array([[kept - push * (1.0 + beta), -beta * beta], [push, beta]])
        else:
            matrix = np.array([[kept - push, -beta], [push, beta]])
        return float(np.max(np.abs(np.linalg.eigvals(matrix))))

    def limit(self, curvature: float) -> float:
        """The rate at which a deviation with that curvature begins to grow; infinity where no rate does (curvature <= 0).

        Without decay: 2 / lambda for gradient descent, (2 + 2 beta) / (s lambda) with momentum, and with Nesterov's
        (2 + 2 beta) / ((1 + 2 beta) s lambda). Decoupled decay d adds to the denominator what makes the matrix's
        eigenvalue -1.
        """
        beta = self.momentum
        pull = self.share * curvature * (1.0 + 2.0 * beta if self.nesterov else 1.0) + self.decay * (1.0 + beta)
        return (2.0 + 2.0 * beta) / pull if pull > 0 and curvature > 0 else float("inf")
