"""The kernel of fits with unknown scatter, against the likelihood written down with scipy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from ztfds.kernels.scatter import fit_with_scatter

ODD, FRACTION = 0.5, 0.1
SCATTERS = np.concatenate([[0.0], np.geomspace(0.002, 1.0, 41)])


def fitted(design: np.ndarray, values: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, float, float]:
    start = np.sum((values - np.median(values, axis=0)) ** 2, axis=1)
    return fit_with_scatter(design, values, error, start, ODD, FRACTION, SCATTERS)


def profile(design: np.ndarray, values: np.ndarray, error: np.ndarray, coefficients: np.ndarray, s: float) -> float:
    """Log likelihood, one column, of a scatter with given coefficients and the restricted term for a fit without odd data."""
    residual = (values - design @ coefficients)[:, 0]
    sigma = np.sqrt(error**2 + s**2 + 1e-6)
    mixture = (1 - FRACTION) * norm.pdf(residual, 0, sigma) + FRACTION * norm.pdf(residual, 0, np.hypot(sigma, ODD))
    normal = design.T @ (design / sigma[:, None] ** 2)
    return float(np.sum(np.log(mixture)) - 0.5 * np.linalg.slogdet(normal)[1])


def data(rng: np.random.Generator, n: int, terms: int, scatter: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    design = np.column_stack([np.ones(n), *rng.uniform(-1, 1, (terms - 1, n))])
    error = rng.uniform(0.01, 0.04, n)
    truth = np.linspace(0.3, -0.2, terms)[:, None]
    return design, design @ truth + rng.normal(0, np.hypot(error, scatter))[:, None], error


@pytest.mark.parametrize("terms", [1, 3, 6])
def test_without_odd_data_it_is_the_weighted_fit(rng: np.random.Generator, terms: int) -> None:
    design, values, error = data(rng, 100, terms, 0.03)
    coefficients, scatter, variance = fitted(design, values, error)
    weight = 1 / (error**2 + scatter**2 + 1e-6)
    plain = np.linalg.solve(design.T @ (design * weight[:, None]), design.T @ (values * weight[:, None]))
    np.testing.assert_allclose(coefficients, plain, atol=0.003)
    assert variance == pytest.approx(1 / weight.sum(), rel=0.1)


def test_the_scatter_is_the_most_likely_one(rng: np.random.Generator) -> None:
    design, values, error = data(rng, 300, 3, 0.05)
    coefficients, scatter, _ = fitted(design, values, error)
    likelihoods = [profile(design, values, error, coefficients, s) for s in SCATTERS]
    assert abs(int(np.argmax(likelihoods)) - int(np.flatnonzero(scatter == SCATTERS)[0])) <= 1
    assert scatter == pytest.approx(0.05, rel=0.2)


def test_two_columns_share_one_scatter(rng: np.random.Generator) -> None:
    design, values, error = data(rng, 200, 1, 0.0)
    wide = values + rng.normal(0, 0.2, values.shape)
    _, scatter, _ = fitted(design, np.hstack([values, wide]), error)
    assert 0.05 < scatter < 0.2


def test_odd_data_do_not_pull(rng: np.random.Generator) -> None:
    design, values, error = data(rng, 60, 1, 0.0)
    clean = fitted(design, values, error)[0][0, 0]
    values[:6] += 1.0
    coefficients, scatter, _ = fitted(design, values, error)
    assert coefficients[0, 0] == pytest.approx(clean, abs=0.01)
    assert scatter < 0.02
