"""A torch function at a point, as numbers: values along tangents, analytical slopes, facts of a backward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from gradguard.adapters.base import BlockFacts, Identity, Outside
from gradguard.adapters.torch_causes import first_difference
from gradguard.adapters.torch_passes import CHUNK, TorchPasses
from gradguard.adapters.torch_placement import real_view
from gradguard.blocks import SIGNIFICANT, Tangent
from gradguard.errors import UsageError

__all__ = ["TorchProblem"]

NOTICED = 1e-12
"""Relative difference of two equal calls from which on its cause is looked for."""


class TorchProblem(TorchPasses):
    """phi(t) = Re <v, f(x + t u)> for a call on leaf tensors: what the protocol ``Differentiable`` asks for."""

    def values(self, tangents: Sequence[Tangent], steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi(t) - phi(0), shape (K, S): the difference is taken entry by entry, before the sum over outputs."""
        steps = np.broadcast_to(steps, (len(tangents), np.shape(steps)[-1]))
        result = np.empty(steps.shape)
        for k, tangent in enumerate(tangents):
            for s, t in enumerate(steps[k]):
                self._place(tangent, float(t))
                result[k, s] = self._value()
        self._place(None, 0.0)
        return result

    def _value(self) -> float:
        assert self._cotangents is not None
        try:
            outputs = self._plain_outputs()
        except UsageError:
            raise
        except (ValueError, RuntimeError, ArithmeticError):  # the user's own check of its domain
            return float("nan")
        total = 0.0
        for v, now, base in zip(self._cotangents, outputs, self._base, strict=True):
            if now.shape != base.shape:
                return float("nan")
            weights = real_view(v)
            change = real_view(now).double() - real_view(base).double()
            used = weights != 0
            change = torch.where(used, change, torch.zeros_like(change))
            total += float((change * weights.double()).sum())
        return total

    def slopes(self, tangents: Sequence[Tangent]) -> NDArray[np.float64]:
        """<g_i, u_i>, shape (K, number of blocks)."""
        return self.shares(tangents)[0]

    def shares(self, tangents: Sequence[Tangent]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """<g_i, u_i> and ||g_i * u_i||, each of shape (K, number of blocks), in one pass over the blocks."""
        gradients = self._ensure()
        sums = np.zeros((2, len(tangents), len(self.blocks)))
        for k, tangent in enumerate(tangents):
            where: list[int] = []
            parts: list[torch.Tensor] = []
            for i, u in enumerate(self._direction(tangent)):
                g = gradients[i]
                if u is None or g is None or g.shape != self.leaves[i].shape:
                    continue
                factor = tangent.scales[i] / SIGNIFICANT if u.dtype == torch.int8 else 1.0
                flat_g, flat_u = real_view(g).reshape(-1), u.reshape(-1)
                for start in range(0, flat_g.numel(), CHUNK):
                    product = flat_g[start : start + CHUNK].double() * flat_u[start : start + CHUNK]
                    where.append(i)
                    parts += [product.sum() * factor, torch.dot(product, product) * factor**2]
            if parts:  # one transfer for all blocks
                values = torch.stack([p.to(parts[0].device) for p in parts]).cpu().numpy()
                np.add.at(sums[0, k], where, values[0::2])
                np.add.at(sums[1, k], where, values[1::2])
        return sums[0], np.sqrt(sums[1])

    def facts(self) -> tuple[BlockFacts, ...]:
        """One backward pass' statistics, one per block."""
        result = []
        for i, gradient in enumerate(self._ensure()):
            if gradient is None:
                failed = "" if self.failure is None else self.failure.detail
                result.append(BlockFacts(gradient_norm=0.0, value_rms=self._rms[i], missing=True, zero=True, failed=failed))
                continue
            values = real_view(gradient)
            norm = float(torch.linalg.vector_norm(values.double() if values.numel() <= CHUNK else values))
            bad, first = 0, None
            if not np.isfinite(norm) and not bool(torch.isfinite(values).all()):
                wrong = ~torch.isfinite(values).reshape(-1)
                bad, first = int(wrong.sum()), int(torch.nonzero(wrong)[0]) // (2 if gradient.is_complex() else 1)
            zero = norm == 0.0 and not bool(values.any())
            result.append(
                BlockFacts(
                    gradient_norm=norm,
                    value_rms=self._rms[i],
                    zero=zero,
                    nonfinite=bad,
                    first_nonfinite=first,
                    wrong_shape=self._shapes[i],
                )
            )
        return tuple(result)

    def scale_of_value(self) -> float:
        """|v| . |f|."""
        self._ensure()
        return self._scale

    def identity(self) -> Identity:
        """Forward and backward again, from the same state: do value and gradient repeat?"""
        # Both gradients at once would be a model's worth of memory too many: a random projection of each block stands for it.
        scales = {i: 1.0 for i, block in enumerate(self.blocks) if block.size}
        seen = Tangent(seed=self.seed + 11, scales=scales)
        absent = [g is None for g in self._ensure()]
        first, sizes = (rows[0] for rows in self.shares([seen]))
        self._place(None, 0.0)
        self._gradients = None
        outputs = self.collect(self.session.call(self.call, self.habits, grad=True))
        self.counts.forwards += self.share
        live = [outputs.tensors[i] for i in self.used]
        self._gradients, self._shapes = self._backward(live)
        self.session.reset(self.habits)
        value = max(self._difference([t.detach() for t in live], self._base), self.tape_difference)
        again, _ = (rows[0] for rows in self.shares([seen]))
        changed = np.abs(again - first) / np.maximum(sizes, 1e-300)
        changed[[was != (g is None) for was, g in zip(absent, self._gradients, strict=True)]] = np.inf
        changed[~np.isfinite(first) & ~np.isfinite(again)] = 0.0
        worst = float(np.nan_to_num(changed, nan=np.inf).max(initial=0.0))
        name = self.blocks[int(np.argmax(changed))].name if worst > 0 else ""
        cause = first_difference(self, value=value > NOTICED) if max(value, worst) > NOTICED else ""
        return Identity(value_difference=value, gradient_difference=worst, block=name, cause=cause)

    def at(self, nudge: Tangent | None, size: float) -> Self:
        """The same problem at x + size * u; session, leaves, costs and what is known of its passes are shared."""
        other = copy.copy(self)
        other._offset = None if nudge is None else (nudge, size)
        other._gradients, other._cotangents, other._base, other._tangents = None, None, [], {}
        other.known_habits = True
        return other

    def outside(self, nudges: Sequence[Tangent], size: float, most: int, share: float) -> tuple[Outside, ...]:
        """The entries outside the span of the gradients at x + size * nudge, furthest first."""
        own = self._ensure()
        low = [None if g is None else real_view(g).double().clone() for g in own]
        high = [None if g is None else g.clone() for g in low]
        for nudge in nudges:
            for i, g in enumerate(self.at(nudge, size)._ensure()):
                a, b = low[i], high[i]
                if g is not None and a is not None and b is not None and g.shape == self.leaves[i].shape:
                    # At the first nudge the point's own gradient must not widen the span.
                    now = real_view(g).double()
                    first = nudge is nudges[0]
                    low[i] = now.clone() if first else torch.fmin(a, now)
                    high[i] = now.clone() if first else torch.fmax(b, now)
        self._place(None, 0.0)
        found: list[Outside] = []
        for i, g in enumerate(own):
            a, b = low[i], high[i]
            if g is None or a is None or b is None or not a.numel():
                continue
            now = real_view(g).double()
            distance = torch.clamp(torch.maximum(a - now, now - b), min=0.0).reshape(-1)
            largest = float(torch.maximum(a.abs(), b.abs()).max())
            values, where = torch.topk(distance, min(most, distance.numel()))
            for d, k in zip(values.tolist(), where.tolist(), strict=True):
                if d > share * max(largest, 1e-300):
                    ends = (float(now.reshape(-1)[k]), float(a.reshape(-1)[k]), float(b.reshape(-1)[k]))
                    index = k // 2 if g.is_complex() else k
                    found.append(Outside(block=i, index=index, value=ends[0], low=ends[1], high=ends[2], distance=d))
        return tuple(sorted(found, key=lambda o: -o.distance / max(abs(o.low), abs(o.high), 1e-300))[:most])

    def entries(self, block: int, indices: Sequence[int]) -> NDArray[np.float64]:
        """Analytical entries, shape (n,); of complex ones the real part."""
        gradient = self._ensure()[block]
        if gradient is None:
            return np.zeros(len(indices))
        flat = gradient.reshape(-1)
        chosen = flat[torch.tensor(list(indices), device=flat.device, dtype=torch.long)]
        return (chosen.real if chosen.is_complex() else chosen).double().cpu().numpy()
