"""What an adapter offers to measure curvature: products with the Hessian as the optimizer's step sees it.

An entry i moves by lr_i / p_i times its gradient, p_i the optimizer's own preconditioner (1 for gradient descent, the root
of the second moment for Adam). With D = diag(lr_i / p_i) the matrix

    A = D^1/2 (H + diag(weight decay)) D^1/2

has the eigenvalues of D H, is symmetric, and has no unit: a factor s on all rates multiplies it by s. So one eigenvalue
answers for parameter groups with rates of their own: rates times c / lambda_1(A) are at the limit, c the constant of
:class:`gradguard.curvature.stability.StepRule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gradguard.curvature.lanczos import Operator
from gradguard.curvature.stability import StepRule

__all__ = ["CurvedPoint", "RateGroup", "Response"]


@dataclass(frozen=True, kw_only=True)
class RateGroup:
    """One parameter group: its rate as set, the rate that A was made with, and the optimizer's step.

    ``unit`` differs from ``lr`` where a schedule holds the rate at 0 and the group names its initial rate. ``rule`` is
    None where the optimizer is unknown.
    """

    index: int
    lr: float
    unit: float
    optimizer: str
    entries: int
    rule: StepRule | None


@dataclass(frozen=True, kw_only=True)
class Response:
    """What an unknown optimizer did: the change of the parameters in one step, as its slope and curvature.

    ``slope`` is <g, u> and ``curvature`` <u, H u> for the step u that it takes now at the rates as set: the quadratic
    model's loss is lower after it while rates are multiplied by less than -2 slope / curvature.
    """

    slope: float
    curvature: float

    @property
    def limit(self) -> float:
        """The factor on all rates at which the loss of the same batch is no longer lower after the step."""
        if self.slope >= 0 or self.curvature <= 0:
            return 0.0 if self.slope > 0 else float("inf")
        return -2.0 * self.slope / self.curvature


class CurvedPoint(Protocol):
    """A model, an optimizer and a batch at one point of training, on a copy of the user's."""

    groups: tuple[RateGroup, ...]
    path: str
    """How products are made: ``double backward`` or ``differences of gradients``."""
    reason: str
    """Why not the other way."""
    gradients: int
    """Gradient evaluations so far; a product by double backward counts as two."""

    def operator(self) -> Operator:
        """The matrix A as an operator."""
        ...

    def difference_product(self, vector: Any, fraction: float) -> Any:
        """A v by differences of gradients over a step of ``fraction`` of the usual one."""
        ...

    def use_differences(self, reason: str) -> None:
        """Make products by differences of gradients from now on."""
        ...

    def gradient_norm(self) -> float:
        """The norm of the batch's gradient over all entries that the optimizer moves."""
        ...

    def share_along(self, vector: Any) -> float:
        """The part of D^1/2 times the batch's gradient that lies along a unit vector, from 0 to 1; 0 without a gradient."""
        ...

    def settle(self) -> None:
        """Take an adaptive optimizer's preconditioner as it will be after the next two steps of the quadratic model."""
        ...

    def response(self) -> Response:
        """What the optimizer's next step on this batch does to the quadratic model of its loss."""
        ...

    def measured_limit(self, curvature: float, vector: Any) -> float | None:
        """The factor on the rates at which the optimizer, run on a quadratic of that curvature, begins to diverge.

        None where its step is not a multiple of the gradient, so that one curvature does not decide.
        """
        ...
