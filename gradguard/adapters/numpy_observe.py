"""Looks at a NumPy network: declared activations per unit, outputs and labels, identical rows; on a copy in a chosen state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.adapters.numpy_training import NumpySession, NumpyTraining, preserved_rng
from gradguard.adapters.observing_base import LayerUnits, Leaks, Look, ModuleFacts, Nonfinite, OutputFacts, lengths, spreads
from gradguard.errors import UsageError

__all__ = ["NumpyHealth"]

Array = NDArray[Any]


class NumpyHealth(NumpyTraining):
    """A NumPy scenario that can be trained on copies and looked at."""

    def session(self, state: str) -> NumpySession:
        """The copy in the state ``start``, or one kept by ``run``."""
        return self.fresh() if state == "start" else self.sessions[state]

    def look(self, state: str, *, seed: int = 0, batches: int | None = None) -> Look:
        """A look at one state over the first ``batches`` batches; nothing of the copy changes."""
        count = self.batch_count if batches is None else min(batches, self.batch_count)
        with preserved_rng(seed), np.errstate(all="ignore"):
            session = self.session(state)
            layers: dict[str, list[Array]] = {}
            made: list[Array] = []
            labels: list[Array] = []
            losses: list[float] = []
            nonfinite: Nonfinite | None = None
            for index in range(count):
                batch = self.batches[index]
                losses.append(session.loss(batch, index))
                for name, values in self._activations(session, batch, index).items():
                    layers.setdefault(name, []).append(values)
                    if nonfinite is None and not np.isfinite(values).all():
                        rows = tuple(int(i) for i in np.flatnonzero(~np.isfinite(values).all(axis=1))[:8])
                        nonfinite = Nonfinite(
                            module=name,
                            owner="layer",
                            batch=index,
                            where="output",
                            before=tuple(layers)[:-1],
                            rows=rows,
                        )
                if self.scenario.outputs is not None:
                    made.append(as_rows(self.scenario.outputs(session.model, self.handed.of(batch))))
                if self.scenario.labels is not None:
                    labels.append(as_rows(self.scenario.labels(self.handed.of(batch))))
                if nonfinite is None and not math.isfinite(losses[-1]):
                    nonfinite = Nonfinite(module="", owner="", batch=index, where="loss", before=tuple(layers))
        matrices = [(n, p) for n, p in session.named if p.ndim >= 2]
        return Look(
            step=0 if state == "start" else 1,
            units=tuple(self._units(n, v, i) for i, (n, v) in enumerate(layers.items())),
            modules=tuple(
                ModuleFacts(
                    path=n,
                    owner="layer",
                    depth=i,
                    calls=len(v),
                    graph_calls=len(v),
                    rms=float(np.sqrt(np.mean(np.concatenate(v) ** 2))),
                )
                for i, (n, v) in enumerate(layers.items())
            ),
            nonfinite=nonfinite,
            outputs=output_facts(made, labels),
            loss=float(np.mean(losses)) if losses else math.nan,
            order=tuple(n for n, _ in session.named),
            matrices=tuple(n for n, _ in matrices),
            samples=sum(len(m) for m in made),
            identical_rows=tuple(n for n, p in matrices if identical_units(p)),
            zero_blocks=tuple(n for n, p in session.named if not p.any()),
        )

    def _activations(self, session: NumpySession, batch: Any, index: int) -> dict[str, Array]:
        if self.scenario.activations is None:
            return {}
        found = self.scenario.activations(session.model, self.handed.of(batch))
        if not isinstance(found, dict):
            raise UsageError(
                f"activations returned {type(found).__name__}, not a dict",
                where=f"activations(model, batch) on batch {index}",
                todo="return layer name -> array of shape (N, U)",
            )
        return {str(name): as_rows(values) for name, values in found.items()}

    @staticmethod
    def _units(name: str, batches: list[Array], depth: int) -> LayerUnits:
        """Units of declared activations: the kind is read off their range, the derivative off the value."""
        y = np.concatenate(batches).astype(np.float64)
        kind = kind_of(y)
        slope = {
            "relu": lambda: (y > 0).astype(np.float64),
            "tanh": lambda: 1 - y**2,
            "sigmoid": lambda: y * (1 - y),
        }.get(kind, lambda: np.ones_like(y))()
        flat = (np.abs(slope) < 1e-7).mean(axis=0)
        return LayerUnits(
            layer=name,
            kind=kind,
            depth=depth,
            module=name,
            samples=len(y),
            slope=np.abs(slope).max(axis=0),
            flat=flat,
            zeros=(y == 0).mean(axis=0),
            rms=np.sqrt((y**2).mean(axis=0)),
            size=np.abs(y).mean(axis=0),
            pruned=np.zeros(y.shape[1], dtype=bool),
        )

    def leaks(self, *, seed: int = 0) -> Leaks:
        """Not tried for NumPy models."""
        return Leaks(reason="leaks are looked for in torch models only")

    def underflow(self, *, seed: int = 0) -> dict[str, float]:
        """NumPy models are not trained in low precision."""
        return {}

    def dependence(self, state: str, names: tuple[str, ...], *, seed: int = 0) -> dict[str, float]:
        """The largest relative change of the loss over three batches when each block moves by a tenth of its RMS."""
        changes = {}
        with preserved_rng(seed):
            session = self.session(state)
            indices = range(min(3, self.batch_count))
            base = [session.loss(self.batches[i], i) for i in indices]
            generator = np.random.default_rng(seed)
            for name, parameter in session.named:
                if name not in names:
                    continue
                kept = parameter.copy()
                scale = float(np.sqrt(np.mean(kept**2))) or 1.0
                parameter += (0.1 * scale * generator.standard_normal(kept.shape)).astype(kept.dtype)
                moved = [session.loss(self.batches[i], i) for i in indices]
                parameter[...] = kept
                changes[name] = max(abs(m - b) / max(abs(b), 1e-12) for m, b in zip(moved, base, strict=True))
        return changes


def as_rows(values: Any) -> Array:
    """(samples, features)."""
    array = np.asarray(values)
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def kind_of(y: Array) -> str:
    """What an activation's values look like: relu (exact zeros, none below), sigmoid, tanh, or identity."""
    low, high, zeros = float(y.min()), float(y.max()), float((y == 0).mean())
    if low >= 0 and zeros > 0.01:
        return "relu"
    if low >= 0 and high <= 1:
        return "sigmoid"
    if low >= -1 and high <= 1 and max(-low, high) > 0.9:
        return "tanh"
    return "identity"


def identical_units(weight: Array) -> bool:
    """All rows or all columns of a matrix are the same: which of them are units is the user's convention."""
    limit = 1e-6 * float(np.abs(weight).max(initial=0.0))
    flat = weight.reshape(weight.shape[0], -1)
    if min(flat.shape) < 2:
        return False
    rows, columns = np.abs(flat - flat[:1]).max(), np.abs(flat - flat[:, :1]).max()
    return bool(rows <= limit and columns <= limit) or bool(not weight.any())


def output_facts(made: list[Array], labels: list[Array]) -> OutputFacts | None:
    """Statistics of declared outputs and labels."""
    if not made:
        return None
    p = np.concatenate(made).astype(np.float64)
    facts: dict[str, Any] = {
        "samples": len(p),
        "width": p.shape[1],
        **spreads(made),
        **lengths(made, labels),
        "low": float(p.min()),
        "high": float(p.max()),
    }
    facts |= {
        "rms": float(np.sqrt(np.mean(p**2))),
        "dead_columns": int((p == 0).all(axis=0).sum()),
        "source": "declared",
    }
    if not labels:
        return OutputFacts(**facts)
    y = np.concatenate(labels).astype(np.float64)
    facts |= {
        "label_low": float(y.min()),
        "label_high": float(y.max()),
        "label_rms": float(np.sqrt(np.mean(y**2))),
        "label_std": float(y.std()),
    }
    if y.shape[1] == 1 and p.shape[1] > 1 and np.all(y == np.round(y)) and y.min() >= 0 and y.max() < p.shape[1]:
        shares = np.unique(y, return_counts=True)[1] / len(y)
        probable = bool(p.min() >= 0 and np.allclose(p.sum(axis=1), 1, atol=1e-3))
        shifted = p - p.max(axis=1, keepdims=True)
        log_p = np.log(np.clip(p, 1e-12, None)) if probable else shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        each = -log_p[np.arange(len(p)), y[:, 0].astype(int)]
        facts |= {
            "kind": "cross_entropy",
            "data_loss": float(each.mean()),
            "prior": float(-(shares * np.log(shares)).sum()),
        }
    elif y.shape == p.shape:
        facts |= {"kind": "mse", "data_loss": float(np.mean((p - y) ** 2)), "prior": float(np.mean(np.var(y, axis=0)))}
    return OutputFacts(**facts)
