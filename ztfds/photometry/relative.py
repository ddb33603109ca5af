"""Epochs of one field solved together: relative zero points and the magnitudes of their common stars, without a catalog."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ztfds.astrometry.quality import cell_medians

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_FLOOR_MAG, _FIRST_CLIP = 0.001, 10.0


@dataclass(frozen=True)
class RelativeSolution:
    """M_i = m_ij + z_j for star i in epoch j.

    Attributes
    ----------
    zero, zero_error : (epochs,) float64
        z_j, mag, with that of the reference epoch 0 by definition, and its 1 sigma error; NaN for an epoch without stars.
    scatter : (epochs,) float64
        Scatter of an epoch's magnitudes about the solution beyond their stated errors, mag (robust).
    number : (epochs,) int64
        Magnitudes used.
    mag, mag_error : (stars,) float64
        M_i on the scale of the reference epoch and its 1 sigma error, mag; NaN for a star without a used magnitude.
    residual : (n,) float64
        m_ij + z_j - M_i of each measurement, mag.
    used : (n,) bool
        Measurements that were not clipped.
    """

    zero: FloatArray
    zero_error: FloatArray
    scatter: FloatArray
    number: IntArray
    mag: FloatArray
    mag_error: FloatArray
    residual: FloatArray
    used: NDArray[np.bool_]


def solve_together(
    star: IntArray,
    epoch: IntArray,
    mag: FloatArray,
    sigma: FloatArray,
    *,
    reference: int = 0,
    clip_sigma: float = 4.0,
    iterations: int = 30,
) -> RelativeSolution:
    """Relative zero points and star magnitudes by alternating weighted means, robust against bad stars and bad epochs.

    An epoch's own scatter is measured and enters its weights, so that one taken through clouds neither moves the others
    nor the stars (as in Honeycutt 1992, PASP 104, 435, with the scatter solved for).

    Parameters
    ----------
    star, epoch : (n,) int64
        Numbers from 0 of the star and the epoch of each measurement.
    mag, sigma : (n,) float64
        Instrumental magnitude and its 1 sigma error.
    reference : int
        Epoch whose zero point is 0.
    clip_sigma : float
        Measurements further off than this many sigma (stated error and the epoch's scatter) are left out.

    Returns
    -------
    RelativeSolution

    Raises
    ------
    ValueError
        No magnitudes.
    """
    if mag.size == 0:
        raise ValueError("there are no magnitudes to solve for")
    n_epochs = int(epoch.max()) + 1
    zero, extra = _start(star, epoch, mag, reference, n_epochs), np.full(n_epochs, 0.02)
    used = np.isfinite(mag) & np.isfinite(zero[epoch])
    # One bad magnitude pulls a mean so far that good ones would be clipped: the medians of the stars decide at first.
    medians = cell_medians(star[used], (mag + zero[epoch])[used], int(star.max()) + 1)
    used &= np.abs(mag + zero[epoch] - medians[star]) <= _FIRST_CLIP * np.hypot(sigma, 0.02)
    for _ in range(iterations):
        weight = np.where(used, 1.0 / (sigma**2 + extra[epoch] ** 2), 0.0)
        stars, star_weight = _means(star, weight, mag + zero[epoch])
        before, (zero, _) = zero, _means(epoch, weight, stars[star] - mag)
        zero = zero - zero[reference]
        residual = mag + zero[epoch] - stars[star]
        # A star of few measurements follows them: a residual has only 1 minus its share of the star's weight left.
        freedom = np.sqrt(np.clip(1.0 - weight / np.maximum(star_weight[star], 1e-12), 1e-6, 1.0))
        extra = _scatter(epoch, residual / freedom, sigma, used & (freedom > 0.1), extra)
        with np.errstate(invalid="ignore"):
            used = np.abs(residual) <= clip_sigma * freedom * np.hypot(sigma, extra[epoch])
        if np.nanmax(np.abs(zero - before), initial=0.0) < 1e-7:
            break
    _, epoch_weight = _means(epoch, weight, mag)
    number = np.bincount(epoch[used], minlength=n_epochs)
    with np.errstate(divide="ignore"):
        errors = epoch_weight**-0.5, star_weight**-0.5
    return RelativeSolution(zero, errors[0], extra, number, stars, errors[1], residual, used)


def _means(group: IntArray, weight: FloatArray, value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean of each group (NaN where there is nothing), and its weight."""
    total = np.bincount(group, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(group, np.where(weight > 0, weight * value, 0.0)) / total, np.asarray(total, np.float64)


def _start(star: IntArray, epoch: IntArray, mag: FloatArray, reference: int, n_epochs: int) -> FloatArray:
    """First zero points: medians against the reference epoch's magnitudes."""
    first = np.full(int(star.max()) + 1, np.nan)
    first[star[epoch == reference]] = mag[epoch == reference]
    offset = first[star] - mag
    ok = np.isfinite(offset)
    return np.array(
        [np.median(offset[ok & (epoch == k)]) if (ok & (epoch == k)).any() else np.nan for k in range(n_epochs)]
    )


def _scatter(
    epoch: IntArray, residual: FloatArray, sigma: FloatArray, used: NDArray[np.bool_], before: FloatArray
) -> FloatArray:
    """Robust scatter of each epoch beyond the stated errors; an epoch without measurements keeps what it had."""
    found = before.copy()
    for k in range(before.size):
        mine = used & (epoch == k)
        if mine.sum() >= 5:
            whole = (1.4826 * np.median(np.abs(residual[mine]))) ** 2 - np.median(sigma[mine] ** 2)
            found[k] = np.sqrt(max(whole, _FLOOR_MAG**2))
    return found
