"""Right gradients at hard points, in hard layouts, and of unusual inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.cases.case import Case, Checked

__all__ = ["complex_cases", "layout_cases", "numpy_cases", "point_cases"]


def t(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


SIZES = np.array([1e8, 1.0, 1e-8])

KINKS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "relu at 0": (torch.relu, t(-1, 0, 0, 2)),
    "relu at 0 only": (torch.relu, t(0, 0, 0)),
    "leaky_relu at 0": (lambda x: functional.leaky_relu(x, 0.1), t(0, 1, -1)),
    "relu6 at its ends": (functional.relu6, t(0, 6, 3)),
    "hardtanh at its ends": (functional.hardtanh, t(-1, 1, 0.3)),
    "hardsigmoid at its ends": (functional.hardsigmoid, t(-3, 3, 0)),
    "abs at 0": (torch.abs, t(-1, 0, 2)),
    "max of ties": (lambda x: x.max(), t(3, 1, 3)),
    "max along an axis with ties": (lambda x: x.reshape(2, 2).max(dim=1).values, t(1, 1, 2, 0)),
    "amax of ties": (lambda x: x.amax(), t(3, 1, 3)),
    "min of ties": (lambda x: x.amin(), t(1, 1, 3)),
    "maximum of equal": (lambda x: torch.maximum(x, x.flip(0)), t(1, 2, 1)),
    "clamp at its limits": (lambda x: x.clamp(0, 1), t(0, 1, 0.5)),
    "sign": (lambda x: torch.sign(x) * x, t(1, -2, 3)),
    "norm away from 0": (lambda x: x.norm(), t(3, 4)),
    "norm at 0": (lambda x: x.norm(), t(0, 0)),
    "l1 norm with zeros": (lambda x: x.norm(p=1), t(0, 1, -2)),
    "median": (lambda x: x.median(), t(3, 1, 2)),
    "sort with ties": (lambda x: x.sort().values, t(2, 1, 2)),
    "topk with ties": (lambda x: x.topk(2).values, t(2, 1, 2)),
    "max_pool of equal": (lambda x: functional.max_pool1d(x.reshape(1, 1, -1), 2), t(1, 1, 0, 0)),
    "huber at its threshold": (lambda x: functional.huber_loss(x, torch.zeros_like(x)), t(1, -1, 0)),
    "smooth_l1 at its threshold": (lambda x: functional.smooth_l1_loss(x, torch.zeros_like(x)), t(1, -1, 0)),
    "where at its threshold": (lambda x: torch.where(x > 0, x * x, x * 0), t(0, 1, -1)),
    "prod with a zero": (torch.prod, t(0, 2, 3)),
    "prod with two zeros": (torch.prod, t(0, 0, 3)),
    "cumprod with a zero": (lambda x: torch.cumprod(x, 0), t(2, 0, 3)),
}

CURVED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "sin(1e5 x)": (lambda x: torch.sin(1e5 * x), t(0.3, -1.2, 2.0)),
    "sin(1e3 x)": (lambda x: torch.sin(1e3 * x), t(0.3, -1.2, 2.0)),
    "sin(1e9 x)": (lambda x: torch.sin(1e9 * x), t(0.3, -1.2, 2.0)),  # the usual steps meet it at random
    "sin of mixed sizes": (lambda x: torch.sin(x / t(1e8, 1, 1e-8)), t(1.3e8, 1.3, 1.3e-8)),
    "positions of 1e6": (lambda x: torch.sin(x[:, None] * t(1, 1e-1, 1e-2)), t(1e4, 2e4, 1e6)),
    "log near 0": (torch.log, t(1e-7, 1e-5, 0.1)),
    "log at 1e-12": (torch.log, t(1e-12)),
    "log of mixed sizes": (torch.log, t(1e-6, 1.0, 1e6)),
    "sqrt near 0": (torch.sqrt, t(1e-6, 1e-8, 2.0)),
    "sqrt at 1e-10": (torch.sqrt, t(1e-10)),
    "log of 1e-30 beside 1": (torch.log, t(1e-30, 1e-12, 0.7)),
    "x ** 2.5 at 0": (lambda x: x**2.5, t(0, 1, 2)),  # there is nothing below 0
    "sqrt where positive": (lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0), t(1, 0, -1, 4)),
    "entropy with zeros": (lambda p: torch.where(p > 0, p * torch.where(p > 0, p, 1.0).log(), 0.0), t(0, 0.3, 0.7)),
    "reciprocal near 0": (torch.reciprocal, t(1e-4, -1e-3, 1.0)),
    "x ** 0.1 near 0": (lambda x: x**0.1, t(1e-6, 0.5)),
    "exp of 50": (torch.exp, t(50, -50, 0)),
    "softmax of large": (lambda x: (1000 * x).softmax(0), t(0.5, 0.5001, 0.1)),
    "logsumexp of large": (lambda x: x.logsumexp(0), t(1e4, 1e4 + 1, 0)),
    "sigmoid saturated": (torch.sigmoid, t(40, -40, 0.3)),
    "tanh saturated": (torch.tanh, t(20, -18, 0)),
    "a large offset": (lambda x: x.sin() + 1e8, t(0.3, 1.0)),
    "a large offset in the sum": (lambda x: (x.sin() + 1e8).sum(), t(0.3, 1.0)),
    "tiny gradient": (lambda x: 1e-9 * x.sin(), t(0.3, 1.0)),
    "huge gradient": (lambda x: 1e12 * x.sin(), t(0.3, 1.0)),
    "x ** 3 at 0": (lambda x: x**3, t(0, 0, 0)),
    "a flat function": (lambda x: x * 0 + 1, t(1, 2)),
    "a constant plus": (lambda x: x.detach().sum() + x.sum(), t(1, 2)),
    "lgamma": (torch.lgamma, t(0.3, 2.5, 7)),
    "erfinv": (torch.erfinv, t(0.999, -0.5)),
    "acos near 1": (torch.acos, t(1 - 1e-6, 0.0)),
    "matrix inverse": (lambda x: torch.linalg.inv(x.reshape(2, 2)), t(2, 1, 1, 3)),
    "eigvalsh": (lambda x: torch.linalg.eigvalsh((x.reshape(2, 2) + x.reshape(2, 2).T) / 2), t(2, 1, 1, 3)),
    "svdvals": (lambda x: torch.linalg.svdvals(x.reshape(2, 3)), t(2, 1, 1, 3, -1, 0.5)),
    "cholesky": (lambda x: torch.linalg.cholesky(x.reshape(2, 2) @ x.reshape(2, 2).T + torch.eye(2)), t(2, 1, 1, 3)),
    "logdet": (lambda x: torch.logdet(x.reshape(2, 2)), t(2, 1, 1, 3)),
}


def point_cases() -> Iterator[Case]:
    """Kinks, ties, zeros, thresholds; and functions whose scale is not the usual one."""
    for name, (f, x) in {**KINKS, **CURVED}.items():
        yield Case(name, _function(f, x))


def _function(f: Callable[..., Any], *inputs: torch.Tensor) -> Callable[[], Checked]:
    return lambda: Checked(f, tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs))


def layout_cases() -> Iterator[Case]:
    """Expanded, transposed, sliced, channels_last, empty, scalar, overlapping and integer inputs."""
    wide = torch.randn(4, 6, dtype=torch.float64)
    image = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    layouts: dict[str, torch.Tensor] = {
        "expanded": wide[:1].expand(4, 6),
        "transposed": wide.T,
        "sliced": wide[::2, ::3],
        "flipped": wide.flip(0),
        "empty": wide[:0],
        "scalar": wide[0, 0],
        "one entry": wide[:1, :1],
    }
    for name, x in layouts.items():
        yield Case(f"{name} input of a function", lambda x=x: Checked(torch.tanh, (x.detach().requires_grad_(),)))
        yield Case(
            f"{name} input of a module",
            lambda x=x: Checked(nn.Sequential(nn.Flatten(0), nn.Tanh()).double(), (x.detach().requires_grad_(),)),
        )
    yield Case(
        "channels_last convolution",
        lambda: Checked(
            nn.Conv2d(3, 4, 3).double().to(memory_format=torch.channels_last),
            (image.clone(memory_format=torch.channels_last).requires_grad_(),),
        ),
    )
    yield Case(
        "permuted convolution", lambda: Checked(nn.Conv2d(4, 4, 3, padding=1).double(), (image.permute(0, 2, 1, 3).clone(),))
    )
    yield Case("empty batch of a linear layer", lambda: Checked(nn.Linear(6, 3).double(), (wide[:0],)))
    yield Case("a layer without entries", lambda: Checked(nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3)).double(), (wide,)))
    yield Case("integer input", _function(lambda x, i: x[i].sin(), wide, torch.tensor([0, 2, 2])))
    yield Case("boolean mask", _function(lambda x, m: x[m].sin(), wide, wide > 0))
    yield Case("masked_fill with -inf", _function(lambda x, m: x.masked_fill(m, float("-inf")).softmax(-1), wide, wide > 1))
    yield Case("an output with -inf", _function(lambda x, m: x.masked_fill(m, float("-inf")), wide, wide > 1))
    yield Case("gather of duplicates", _function(lambda x, i: x.gather(1, i), wide, torch.zeros(4, 3, dtype=torch.long)))
    yield Case(
        "index_add",
        _function(lambda x, i: torch.zeros(2, 6, dtype=x.dtype).index_add(0, i, x), wide, torch.tensor([0, 1, 1, 0])),
    )
    yield Case("as_strided windows", _function(lambda x: x.reshape(-1).unfold(0, 5, 2).sin(), wide))
    yield Case("broadcast", _function(lambda x, y: (x[:, None] * y[None]).sin(), wide[0], wide[1]))
    yield Case("two outputs", _function(lambda x: (x.sin(), x.cos()), wide))
    yield Case("a nested output", _function(lambda x: {"a": [x.sin(), (x.cos(),)], "n": 3, "none": None}, wide))
    yield Case("an integer output beside", _function(lambda x: x.max(dim=1), wide))
    yield Case(
        "keyword inputs",
        lambda: Checked(lambda x, *, scale: (x * scale).sin(), {"x": wide.clone().requires_grad_(), "scale": wide + 1}),
    )
    yield Case("nested inputs", lambda: Checked(lambda p: (p["w"] * p["b"][0]).sin(), ({"w": wide.clone(), "b": [wide + 1]},)))
    yield Case("kwargs", lambda: Checked(lambda x, power: x**power, wide.clone(), {"kwargs": {"power": 3}}))
    yield Case("in place on a copy", _function(lambda x: x.clone().mul_(2).add_(x).sin_(), wide))
    yield Case("float16", lambda: Checked(torch.tanh, wide.half().requires_grad_()))
    yield Case("bfloat16", lambda: Checked(torch.tanh, wide.bfloat16().requires_grad_()))


def complex_cases() -> Iterator[Case]:
    """Complex inputs, outputs, and both."""
    z = torch.randn(4, 3, dtype=torch.complex128)
    x = torch.randn(8, dtype=torch.float64)
    functions: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
        "z squared": (lambda z: z * z, z),
        "modulus": (lambda z: z.abs(), z),
        "angle": (lambda z: z.angle(), z),
        "conjugate": (lambda z: z.conj() * z, z),
        "real part": (lambda z: z.real, z),
        "imaginary part": (lambda z: z.imag, z),
        "complex exp": (torch.exp, z),
        "complex tanh": (torch.tanh, z),
        "complex matmul": (lambda z: z @ z.mH, z),
        "complex loss": (lambda z: (z.abs() ** 2).sum(), z),
        "fft": (torch.fft.fft, z),
        "rfft": (torch.fft.rfft, x),
        "irfft": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2), x),
        "view_as_complex": (lambda x: torch.view_as_complex(x.reshape(4, 2)).exp(), x),
        "stft": (lambda x: torch.stft(x.repeat(4), 8, window=torch.hann_window(8, dtype=x.dtype), return_complex=True), x),
        "complex sgn": (lambda z: torch.sgn(z), z),
        "complex reciprocal": (torch.reciprocal, z),
    }
    for name, (f, at) in functions.items():
        yield Case(name, lambda f=f, at=at: Checked(f, (at.clone().requires_grad_(),)))
    yield Case("complex64", lambda: Checked(lambda z: z * z, z.to(torch.complex64).requires_grad_()))
    yield Case("complex linear layer", lambda: Checked(nn.Linear(3, 2).to(torch.complex128), (z,)))


def numpy_cases() -> Iterator[Case]:
    """NumPy functions with right gradients."""
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    z = x + 1j * y
    rows: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "sum of squares": (lambda x: (x**2).sum(), x, {"grad": lambda x: 2 * x}),
        "log of mixed sizes": (np.log, np.array([1e-300, 1e-12, 0.3]), {"vjp": lambda g, x: g / x}),
        "sin of mixed sizes": (
            lambda x: np.sin(x / SIZES), 1.3 * SIZES, {"vjp": lambda g, x: g * np.cos(x / SIZES) / SIZES},
        ),
        "float32 squares": (lambda x: (x**2).sum(), x.astype(np.float32), {"grad": lambda x: 2 * x}),
        "computes in float32": (
            lambda x: np.sum(np.tanh(x.astype(np.float32)) ** 2), x,
            {"grad": lambda x: 2 * np.tanh(x) * (1 - np.tanh(x) ** 2)},
        ),
        "product of two": (lambda a, b: (a * b).sum(), (x, y), {"grad": lambda a, b: (b, a)}),
        "relu at 0": (lambda x: np.maximum(x, 0).sum(), np.array([0.0, 1.0, -1.0]), {"grad": lambda x: (x > 0) * 1.0}),
        "abs at 0": (lambda x: np.abs(x).sum(), np.array([0.0, 1.0, -1.0]), {"grad": np.sign}),
        "max of ties": (lambda x: x.max(), np.array([2.0, 2.0]), {"grad": lambda x: np.eye(2)[x.argmax()]}),
        "sin(1e5 x)": (lambda x: np.sin(1e5 * x).sum(), x, {"grad": lambda x: 1e5 * np.cos(1e5 * x)}),
        "log near 0": (lambda x: np.log(x).sum(), np.array([1e-7, 0.5]), {"grad": lambda x: 1 / x}),
        "sqrt near 0": (lambda x: np.sqrt(x).sum(), np.array([1e-6, 0.5]), {"grad": lambda x: 0.5 / np.sqrt(x)}),
        "complex modulus": (lambda z: (np.abs(z) ** 2).sum(), z, {"grad": lambda z: 2 * z}),
        "complex square": (lambda z: z * z, z, {"vjp": lambda g, z: g * np.conj(2 * z)}),
        "transposed": (lambda x: np.tanh(x), x.T, {"vjp": lambda g, x: g * (1 - np.tanh(x) ** 2)}),
        "broadcast": (lambda x, b: x + b, (x, y[0]), {"vjp": lambda g, x, b: (g, g.sum(axis=0))}),
        "where, both branches safe": (
            lambda x: np.where(x > 0, x**2, -x).sum(),
            x,
            {"grad": lambda x: np.where(x > 0, 2 * x, -1.0)},
        ),
        "nested": (
            lambda p: (p["layers"][0] @ p["layers"][1].T).sum(),
            {"p": {"layers": [x, y]}},
            {"grad": lambda p: {"layers": [np.ones((4, 4)) @ p["layers"][1], np.ones((4, 4)).T @ p["layers"][0]]}},
        ),
        "labels are constants": (
            lambda w, y: ((w - y) ** 2).sum(),
            (x, y),
            {"grad": lambda w, y: 2 * (w - y)},
        ),
        "entrywise": (lambda x: (x**3).sum(), x, {"grad": lambda x: 3 * x**2, "method": "entrywise"}),
    }
    for name, (f, inputs, options) in rows.items():
        yield Case(f"NumPy: {name}", lambda f=f, inputs=inputs, options=options: Checked(f, inputs, options))
