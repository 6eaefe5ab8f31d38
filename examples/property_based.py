"""A kernel that works in blocks of four drops what is left over. Its fixed test has eight columns, and passes.

    python examples/property_based.py

Hypothesis draws sizes around the block, zeros, ties and layouts, and shrinks what it finds to the smallest failing input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradguard as gg
from gradguard import strategies

Array = NDArray[np.float64]
BLOCK = 4


def swish(x: Array) -> Array:
    """x * sigmoid(x)."""
    return np.asarray(x / (1 + np.exp(-x)))


def swish_vjp(g: Array, x: Array) -> Array:
    """Its gradient, in blocks of four columns."""
    gradient = np.zeros_like(x)
    for start in range(0, x.shape[-1] // BLOCK * BLOCK, BLOCK):
        here = (..., slice(start, start + BLOCK))
        s = 1 / (1 + np.exp(-x[here]))
        gradient[here] = g[here] * (s + x[here] * s * (1 - s))
    return gradient


def check_fixed() -> gg.Report:
    """The test that one writes first."""
    return gg.check_gradients(swish, np.linspace(-2.0, 2.0, 16).reshape(2, 8), vjp=swish_vjp)


@gg.given(x=strategies.arrays(block=BLOCK))
def check_drawn(x: Any) -> None:
    """The same on inputs that are drawn on purpose."""
    gg.check_gradients(swish, x, vjp=swish_vjp).raise_if_failed()


def main() -> None:
    print("fixed input:", "passes" if check_fixed().ok else "fails")
    try:
        check_drawn()
    except gg.GradGuardError as error:
        print(f"drawn inputs: {error}")
        print("\n".join(getattr(error, "__notes__", [])))


if __name__ == "__main__":
    main()
