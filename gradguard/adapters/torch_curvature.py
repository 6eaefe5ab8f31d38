"""Curvature of a torch model's loss, as its optimizer's steps see it.

Works on the model, parameters and optimizer that it is given: the caller gives copies. Products are made by double
backward through one graph; where an operator has none (some attention and recurrent kernels, ``once_differentiable``
functions, compiled modules), by central differences of gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.curvature_base import RateGroup, Response
from gradguard.adapters.torch_session import RandomState
from gradguard.adapters.torch_step_rules import coupled_decay, denominator, step_rule

__all__ = ["TorchCurvature"]

Vector = torch.Tensor
"""A flat tensor over the entries of all parameters that the optimizer holds, in their own dtype (at least float32)."""


class TorchCurvature:
    """A :class:`~gradguard.adapters.curvature_base.CurvedPoint`, and the operator A that it offers.

    ``loss()`` computes the batch's loss with a graph. ``parameters`` are those that the optimizer moves and that require
    a gradient, ordered as in its groups.
    """

    def __init__(self, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, *, double: bool = True) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.sizes = [_real(p).numel() for p in self.parameters]
        self.size = sum(self.sizes)
        self.gradients = 0
        self.path, self.reason = "double backward", ""
        self.groups = tuple(_rate_group(optimizer, index) for index in range(len(optimizer.param_groups)))
        self._random = RandomState()
        self._graph: tuple[list[torch.Tensor], list[int]] | None = None
        self._root, self._decays, self._sign = self._metric(self.optimizer)
        if not double:
            self.use_differences("asked for")

    # The operator: opaque vectors.

    def operator(self) -> TorchCurvature:
        """Itself."""
        return self

    def random(self, seed: int) -> Vector:
        """Standard normal entries where the optimizer moves anything."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.size, generator=generator, dtype=torch.float32).to(self._root)
        return drawn.mul_(self._root > 0)

    def dot(self, left: Vector, right: Vector) -> float:
        """The inner product."""
        return float(torch.dot(left, right))

    def axpy(self, factor: float, vector: Vector, target: Vector) -> Vector:
        """factor * vector + target, into target."""
        return target.add_(vector, alpha=factor)

    def scaled(self, factor: float, vector: Vector) -> Vector:
        """A new vector."""
        return vector * factor

    def product(self, vector: Vector) -> Vector:
        """A v = D^1/2 (H + decay) D^1/2 v."""
        inner = self._root * vector
        image = self._hessian(inner).mul_(self._sign).add_(self._decays * inner)
        return image.mul_(self._root)

    # Beyond the operator.

    def difference_product(self, vector: Vector, fraction: float) -> Vector:
        """A v by differences of gradients."""
        inner = self._root * vector
        return self._differences(inner, fraction).mul_(self._sign).add_(self._decays * inner).mul_(self._root)

    def use_differences(self, reason: str) -> None:
        """Make products by differences of gradients from now on."""
        self._graph = None
        self.path, self.reason = "differences of gradients", reason

    def gradient_norm(self) -> float:
        """The norm of the batch's gradient."""
        return float(torch.linalg.vector_norm(self._gradient()))

    def share_along(self, vector: Vector) -> float:
        """Of the batch's gradient, times the root of D."""
        gradient = self._root * self._gradient()
        size = float(torch.linalg.vector_norm(gradient))
        return abs(self.dot(gradient, vector)) / size if size > 0 else 0.0

    def response(self) -> Response:
        """What one step of a copy of the optimizer does to the quadratic model of this batch's loss."""
        gradient = self._gradient()
        moved = self._step(gradient)
        slope = self._sign * self.dot(gradient, moved)
        return Response(slope=slope, curvature=self._sign * self.dot(self._hessian(moved), moved))

    def measured_limit(self, curvature: float, vector: Vector) -> float | None:
        """Run copies of the optimizer on the quadratic curvature / 2 * x^2 along ``vector``, at rates that are bisected."""
        gradient = self.random(0)
        one, two = self._step(gradient), self._step(2.0 * gradient)
        none = self._step(torch.zeros_like(gradient))
        along = self.dot(one - none, gradient) / self.dot(gradient, gradient)
        size = float(torch.linalg.vector_norm(one - none))
        linear = float(torch.linalg.vector_norm(two - none - 2.0 * (one - none))) <= 1e-3 * size
        parallel = float(torch.linalg.vector_norm(one - none - along * gradient)) <= 1e-2 * size
        if not (linear and parallel and along < 0 < curvature):
            return None
        low, high = 1e-6, 1e6
        while high / low > 1.005:
            middle = (low * high) ** 0.5
            if self._shrinks(middle, curvature, vector):
                low = middle
            else:
                high = middle
        return float((low * high) ** 0.5)

    def _shrinks(self, factor: float, curvature: float, vector: Vector, steps: int = 200) -> bool:
        """Whether a deviation along ``vector`` is smaller in the second half of the steps than in the first."""
        clone = copy.deepcopy(self.optimizer)
        clone.state.clear()
        parameters = [p for group in clone.param_groups for p in group["params"] if p.requires_grad]
        for group in clone.param_groups:
            group["lr"] = group["lr"] * factor
        with torch.no_grad():
            for parameter, piece in zip(parameters, self._split(vector), strict=True):
                parameter.copy_(piece)
        sizes = []
        for _ in range(steps):
            for parameter in parameters:
                parameter.grad = curvature * parameter.detach()
            clone.step()
            sizes.append(float(torch.linalg.vector_norm(self._join([p.detach() for p in parameters]))))
            if not sizes[-1] < 1e12:
                return False
        return max(sizes[steps // 2 :]) < max(sizes[: steps // 2])

    def _step(self, gradient: Vector) -> Vector:
        """The change of the parameters in the next step, taken by a copy of the optimizer and of its parameters."""
        return self._advance(copy.deepcopy(self.optimizer), gradient)

    def _advance(self, optimizer: torch.optim.Optimizer, gradient: Vector) -> Vector:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        for parameter, piece in zip(parameters, self._split(gradient), strict=True):
            given = piece.to(parameter)
            parameter.grad = given.to_sparse(1) if isinstance(optimizer, torch.optim.SparseAdam) else given
        optimizer.step()
        return self._join([p.detach() - b for p, b in zip(parameters, before, strict=True)])

    def settle(self) -> None:
        """Take the preconditioner as it will be after the next two steps of the quadratic model.

        A short warm start leaves entries whose second moment is tiny by chance; the first step elsewhere changes their
        gradients by far more than that, and the optimizer then divides by what it has seen.
        """
        gradient = self._gradient()
        clone = copy.deepcopy(self.optimizer)
        moved = self._advance(clone, gradient)
        self._advance(clone, gradient + self._hessian(moved))
        self._root, self._decays, self._sign = self._metric(clone)

    def _metric(self, optimizer: torch.optim.Optimizer) -> tuple[Vector, Vector, float]:
        """The root of D, the coupled decay of every entry, and -1 where the optimizer maximises.

        An entry whose denominator is at most eps has never had a gradient: it does not move.
        """
        roots, decays = [], []
        for group, facts in zip(optimizer.param_groups, self.groups, strict=True):
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    continue
                scale = denominator(optimizer, group, _real_state(optimizer.state.get(parameter, {}))) if facts.rule else 1.0
                root = torch.full_like(_real(parameter), facts.unit, dtype=_work(parameter)) / scale
                if isinstance(scale, torch.Tensor) and "eps" in group:
                    root[scale <= 1.0001 * group["eps"]] = 0.0
                roots.append(root.clamp_(0, torch.finfo(root.dtype).max).sqrt_())
                decays.append(torch.full_like(root, coupled_decay(optimizer, group)))
        sign = -1.0 if any(group.get("maximize") for group in optimizer.param_groups) else 1.0
        return self._join(roots), self._join(decays), sign

    def _hessian(self, vector: Vector) -> Vector:
        if self.path == "double backward":
            try:
                return self._double_backward(vector)
            except RuntimeError as error:
                self.use_differences(_first_line(error))
        return self._differences(vector)

    def _double_backward(self, vector: Vector) -> Vector:
        if self._graph is None:
            gradients = self._evaluate(create_graph=True)
            pairs = [(g, i) for i, g in enumerate(gradients) if g is not None and g.requires_grad]
            self._graph = ([g for g, _ in pairs], [i for _, i in pairs])
        outputs, places = self._graph
        if not outputs:
            return torch.zeros_like(vector)
        pieces = self._split(vector)
        self.gradients += 2
        images = torch.autograd.grad(
            outputs, self.parameters, [pieces[i].to(g) for g, i in zip(outputs, places, strict=True)],
            retain_graph=True, allow_unused=True,
        )
        return self._join([torch.zeros_like(p) if h is None else h for p, h in zip(self.parameters, images, strict=True)])

    def _differences(self, vector: Vector, fraction: float = 1.0) -> Vector:
        """(grad(w + h v) - grad(w - h v)) / 2h, with h v a fixed part of ||w||; the parameters' own values come back."""
        length = float(torch.linalg.vector_norm(vector))
        if not length:
            return torch.zeros_like(vector)
        point = [p.detach().clone() for p in self.parameters]
        scale = float(torch.linalg.vector_norm(self._join(point))) or 1.0
        step = fraction * torch.finfo(vector.dtype).eps ** (1 / 3) * scale / length
        sides = []
        try:
            for side in (step, -step):
                with torch.no_grad():
                    for parameter, start, piece in zip(self.parameters, point, self._split(vector), strict=True):
                        parameter.copy_(start + side * piece.to(start))
                sides.append(self._gradient())
        finally:
            with torch.no_grad():
                for parameter, start in zip(self.parameters, point, strict=True):
                    parameter.copy_(start)
        return (sides[0] - sides[1]).div_(2.0 * step)

    def _gradient(self) -> Vector:
        gradients = self._evaluate(create_graph=False)
        return self._join(
            [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(self.parameters, gradients, strict=True)]
        )

    def _evaluate(self, *, create_graph: bool) -> Sequence[torch.Tensor | None]:
        self._random.restore()  # the same dropout masks each time
        self.gradients += 1
        with torch.enable_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            value = self.loss()
            if not value.requires_grad:
                return [None] * len(self.parameters)
            return torch.autograd.grad(value, self.parameters, create_graph=create_graph, allow_unused=True)

    def _split(self, vector: Vector) -> list[torch.Tensor]:
        """Pieces of each parameter's shape; complex where it is."""
        pieces = zip(self.parameters, torch.split(vector, self.sizes), strict=True)
        return [
            torch.view_as_complex(piece.view(*p.shape, 2)).to(p.device) if p.is_complex() else piece.view(p.shape).to(p.device)
            for p, piece in pieces
        ]

    def _join(self, pieces: Sequence[torch.Tensor]) -> Vector:
        if not pieces:
            return torch.zeros(0)
        device, kind = pieces[0].device, _work(pieces[0])
        return torch.cat([_real(piece).reshape(-1).to(device=device, dtype=kind) for piece in pieces])


def _rate_group(optimizer: torch.optim.Optimizer, index: int) -> RateGroup:
    group: dict[str, Any] = optimizer.param_groups[index]
    lr = float(group["lr"]) if "lr" in group else 1.0
    held = all(float(g.get("lr", 1.0)) == 0 for g in optimizer.param_groups)
    unit = float(group.get("initial_lr", 1.0)) if held else lr
    return RateGroup(
        index=index, lr=lr, unit=unit, optimizer=type(optimizer).__name__, rule=step_rule(optimizer, group),
        entries=sum(p.numel() for p in group["params"] if p.requires_grad),
    )


def _work(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """Dense and real: a complex entry is two, as in the optimizers of torch, and its gradient dL/dRe + i dL/dIm."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def _real_state(state: dict[str, Any]) -> dict[str, Any]:
    return {key: _real(v) if isinstance(v, torch.Tensor) and v.is_complex() else v for key, v in state.items()}


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
