"""Kernel of linear fits to data whose scatter beyond their errors is unknown and of which a few are odd."""

from __future__ import annotations

import numpy as np
from numba import njit

ITERATIONS = 4
"""Times that the weights follow the residuals, for each scatter that is tried."""


@njit("f8(f8[:, ::1], f8[:, ::1])", cache=True, nogil=True)
def _factorise(matrix: np.ndarray, lower: np.ndarray) -> float:
    """Cholesky factor of a small symmetric positive matrix, written to `lower`; logarithm of the determinant."""
    n = matrix.shape[0]
    total = 0.0
    for i in range(n):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = np.sqrt(max(value, 1e-300))
                total += 2.0 * np.log(lower[i, i])
            else:
                lower[i, j] = value / lower[j, j]
    return total


@njit("void(f8[:, ::1], f8[:, ::1])", cache=True, nogil=True)
def _substitute(lower: np.ndarray, right: np.ndarray) -> None:
    """Solve L L^T x = b in place for every column of `right`."""
    n, columns = right.shape
    for c in range(columns):
        for i in range(n):
            for k in range(i):
                right[i, c] -= lower[i, k] * right[k, c]
            right[i, c] /= lower[i, i]
        for i in range(n - 1, -1, -1):
            for k in range(i + 1, n):
                right[i, c] -= lower[k, i] * right[k, c]
            right[i, c] /= lower[i, i]


@njit(
    "Tuple((f8[:, ::1], f8, f8))(f8[:, ::1], f8[:, ::1], f8[::1], f8[::1], f8, f8, f8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def fit_with_scatter(
    design: np.ndarray,
    values: np.ndarray,
    error: np.ndarray,
    start: np.ndarray,
    odd: float,
    odd_fraction: float,
    scatters: np.ndarray,
) -> tuple[np.ndarray, float, float]:
    """Most likely linear fit and scatter when a few of the data are odd.

    A residual r is normal with variance error^2 + s^2 in each column or, with the chance `odd_fraction`, with odd^2 more. For
    each s the weighted fit is iterated with the chance that a datum is not odd, once from the assumption that all are alike and
    once from `start`; the s of the largest restricted likelihood (Patterson & Thompson 1971, Biometrika 58, 545: the fitted
    terms counted) is taken.

    Parameters
    ----------
    design : (n, terms) float64
    values : (n, axes) float64
        The columns share s.
    error : (n,) float64
        1 sigma in each column.
    start : (n,) float64
        Squared residuals, summed over the columns, of a robust first guess.
    odd, odd_fraction : float
        How far odd data lie off, and how many they are.
    scatters : (m,) float64
        Scatters that are tried.

    Returns
    -------
    (terms, axes) float64, float, float
        Coefficients, s, variance of the mean.
    """
    n, terms = design.shape
    axes = values.shape[1]
    near_part, far_part = np.log1p(-odd_fraction), np.log(odd_fraction)
    square, variance, weight = np.empty(n), np.empty(n), np.empty(n)
    normal, lower = np.empty((terms, terms)), np.zeros((terms, terms))
    right, best = np.empty((terms, axes)), np.zeros((terms, axes))
    best_likelihood, best_scatter, best_variance = -np.inf, 0.0, np.inf
    small = 0.0
    for i in range(n):
        small += 1e-9 / (error[i] * error[i]) / n  # solvable even for stars in a row
    for which in range(2 * scatters.size):
        s = scatters[which // 2]
        for i in range(n):
            variance[i] = error[i] * error[i] + s * s + 1e-6
            square[i] = start[i] if which % 2 else 0.0
        logarithm = 0.0
        for _ in range(ITERATIONS):
            normal[:], right[:] = 0.0, 0.0
            for i in range(n):
                wide = variance[i] + odd * odd
                near = near_part - 0.5 * (square[i] / variance[i] + axes * np.log(variance[i]))
                far = far_part - 0.5 * (square[i] / wide + axes * np.log(wide))
                chance = 1.0 / (1.0 + np.exp(min(max(far - near, -50.0), 50.0)))
                w = chance / variance[i] + (1.0 - chance) / wide
                weight[i] = w
                for p in range(terms):
                    wp = w * design[i, p]
                    for q in range(p + 1):
                        normal[p, q] += wp * design[i, q]
                    for c in range(axes):
                        right[p, c] += wp * values[i, c]
            for p in range(terms):
                normal[p, p] += small
            logarithm = _factorise(normal, lower)
            _substitute(lower, right)
            for i in range(n):
                square[i] = 0.0
                for c in range(axes):
                    r = values[i, c]
                    for p in range(terms):
                        r -= design[i, p] * right[p, c]
                    square[i] += r * r
        likelihood, total = -0.5 * axes * logarithm, 0.0
        for i in range(n):
            wide = variance[i] + odd * odd
            near = near_part - 0.5 * (square[i] / variance[i] + axes * np.log(variance[i]))
            far = far_part - 0.5 * (square[i] / wide + axes * np.log(wide))
            high = max(near, far)
            likelihood += high + np.log1p(np.exp(min(near, far) - high))
            total += weight[i]
        if likelihood > best_likelihood:
            best_likelihood, best_scatter, best_variance = likelihood, s, 1.0 / total
            best[:] = right
    return best, best_scatter, best_variance
