"""Lanczos against numpy.linalg.eigvalsh: values within their error bars, few products, exact where the space is small."""

from __future__ import annotations

import numpy as np
import pytest

from gradguard.curvature.lanczos import extremes
from tests.learning_rate.matrices import Matrix, with_spectrum

SPECTRA = {
    "one large": np.r_[100.0, np.linspace(0, 10, 199)],
    "clustered": np.linspace(-1, 100, 300),
    "like a Hessian": np.r_[50.0, 40, 30, 20, np.random.default_rng(0).exponential(0.3, 300) - 0.1],
    "all negative": -np.arange(1, 50.0),
    "rank one": np.r_[np.zeros(99), 7.0],
    "zero": np.zeros(20),
    "one entry": np.array([3.0]),
    "two entries": np.array([2.0, 5.0]),
    "eight decades": np.logspace(-6, 2, 200),
    "identity": np.ones(50),
    "tiny": 1e-9 * np.linspace(1, 3, 40),
    "huge": 1e12 * np.linspace(-3, 1, 40),
}


@pytest.mark.parametrize("kept", [24, 8])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("name", SPECTRA)
def test_largest_is_within_its_error_bar(name: str, noise: float, kept: int) -> None:
    dense = with_spectrum(SPECTRA[name])
    operator = Matrix(dense, noise)
    truth = np.linalg.eigvalsh(dense)
    found = extremes(operator, kept=kept)
    width = max(abs(truth))
    slack = 1e-12 * width + noise * width
    assert found.converged
    assert found.products == operator.products <= 60
    assert abs(found.largest.value - truth[-1]) <= found.largest.error_bar + slack
    assert found.largest.error_bar <= 0.01 * abs(truth[-1]) + 10 * noise * width + 1e-12 * width
    assert abs(found.smallest.value - truth[0]) <= found.smallest.error_bar + slack


def test_vector_belongs_to_the_value() -> None:
    dense = with_spectrum(SPECTRA["like a Hessian"])
    found = extremes(Matrix(dense))
    assert np.linalg.norm(found.top) == pytest.approx(1.0)
    assert np.linalg.norm(dense @ found.top - found.largest.value * found.top) <= found.largest.error_bar + 1e-10


def test_number_of_vectors_is_bounded() -> None:
    found = extremes(Matrix(with_spectrum(np.linspace(0, 1, 500) ** 3)), kept=10, tolerance=1e-6)
    assert found.products > 20
    assert found.vectors <= 10 + 5
    assert found.largest.value == pytest.approx(1.0, rel=1e-3)


def test_out_of_products_says_so() -> None:
    found = extremes(Matrix(with_spectrum(np.linspace(-1, 1, 400))), products=5)
    assert not found.converged
    assert found.reason == "not converged in 5 products"
    assert found.largest.error_bar > 0.01


def test_nonfinite_product_ends_it() -> None:
    dense = np.eye(5)
    dense[0, 0] = np.nan
    found = extremes(Matrix(dense))
    assert np.isnan(found.largest.value)
    assert found.reason == "a product with the Hessian is not finite"


def test_empty_space() -> None:
    found = extremes(Matrix(np.zeros((0, 0))))
    assert found.reason == "there is nothing to vary: the operator's space is empty"


def test_same_seed_same_result() -> None:
    dense = with_spectrum(SPECTRA["clustered"])
    assert extremes(Matrix(dense), seed=3).largest == extremes(Matrix(dense), seed=3).largest
