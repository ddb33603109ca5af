"""Bright stars in a difference: their pixels without a measurement, and their light beyond the stamps of the PSFs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from ztfds.config.difference import DifferenceConfig
from ztfds.difference.subtract import Tile, which_tile
from ztfds.kernels import zogy as kernels
from ztfds.kernels.psf import add_wings

STAMP_GRID = 33
"""Side of the grid, pixels, on which PSF stamps are shifted: odd, with room for what a shift moves over their edge."""
RINGS_PX = np.array([12.5, 14.5, 17.0, 20.0, 24.0, 29.0, 36.0, 45.0, 60.0])
"""Borders of the rings in which the light beyond the stamps is measured."""
STEP_PX = 0.25
"""Step of the tabulated profile of that light."""
SLOPE = 5.0
"""Fall of the wings that seeing makes, r^-5: what is interpolated between rings is the light over it."""


@dataclass(frozen=True)
class Stars:
    """Stars of the science image.

    Attributes
    ----------
    x, y : (n,) float64
        0-based pixels.
    flux : (n,) float64, DN
        Light within the stamp of the PSF.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


def bright_stars(psfcat: np.ndarray, outside: float, least: float, shape: tuple[int, int]) -> Stars:
    """Stars on the image with at least so much light (DN), brightest first; catalog fluxes count the light beyond the stamp."""
    x, y = np.asarray(psfcat["xpos"], float), np.asarray(psfcat["ypos"], float)
    flux = np.asarray(psfcat["flux"], float) / (1.0 + outside)
    rows = np.flatnonzero((flux >= least) & (x > -0.5) & (y > -0.5) & (x < shape[1] - 0.5) & (y < shape[0] - 0.5))
    rows = rows[np.argsort(-flux[rows], kind="stable")]
    return Stars(x[rows], y[rows], flux[rows])


def mend(
    new: np.ndarray,
    ref: np.ndarray,
    bad_new: np.ndarray,
    bad_ref: np.ndarray,
    both: np.ndarray,
    stars: Stars,
    tiles: list[Tile],
    config: DifferenceConfig,
) -> None:
    """Give the bad pixels of bright stars what their PSFs say, so that the difference of the two stars vanishes around them.

    Where one image has a measurement, the other has taken it over as it is; at a star it differs by flux x (Pn - Pr).
    Where neither has one (saturated cores), both get the model of one flux: the difference does not see how good that is.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        On one flux scale, patched from each other, 0 where both are bad; changed in place.
    bad_new, bad_ref : (ny, nx) bool
        Pixels without a measurement.
    both : (ny, nx) bool
        Pixels bad in both; those that got a model are cleared in place.
    stars : Stars
    tiles : list of Tile
        Give the PSFs that the subtraction uses: with any others the two models would not cancel.
    config : DifferenceConfig
    """
    columns, rows = np.rint(stars.x).astype(np.int64), np.rint(stars.y).astype(np.int64)
    spoiled = np.flatnonzero(kernels.near_bad(bad_new, bad_ref, rows, columns, config.mend_reach_px))
    if not spoiled.size:
        return
    tile = which_tile(tiles, stars.y, stars.x)
    for number in np.unique(tile[spoiled]):
        mine = spoiled[tile[spoiled] == number]
        shifts = stars.y[mine] - rows[mine], stars.x[mine] - columns[mine]
        stamps = [shifted(psf, *shifts) for psf in (tiles[number].psf_new, tiles[number].psf_ref)]
        flux = stars.flux[mine].astype(np.float32)
        kernels.mend(new, ref, bad_new, bad_ref, rows[mine], columns[mine], flux, *map(np.ascontiguousarray, stamps))
    neither = np.flatnonzero(both)
    filled = new.ravel()[neither] + ref.ravel()[neither] > 2 * config.mend_least_dn
    both.ravel()[neither[filled]] = False


def shifted(psf: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """A PSF moved by fractions of a pixel, by phases in Fourier space.

    What is shifted so cancels in the difference exactly: Pr * shifted(Pn) = Pn * shifted(Pr).

    Parameters
    ----------
    psf : (m, m) float32
        m odd, at most 29.
    dy, dx : (n,) float64, px

    Returns
    -------
    (n, m, m) float32
    """
    m, n = psf.shape[0], STAMP_GRID
    turn_y = np.exp(-2j * np.pi * np.multiply.outer(dy, np.fft.fftfreq(n)))
    turn_x = np.exp(-2j * np.pi * np.multiply.outer(dx, np.fft.rfftfreq(n)))
    turn = (turn_y[:, :, None] * turn_x[:, None, :]).astype(np.complex64)
    return np.asarray(fft.irfft2(fft.rfft2(psf, (n, n)) * turn, (n, n))[:, :m, :m])


def remove_halos(
    new: np.ndarray, ref: np.ndarray, bad: np.ndarray, stars: Stars, sigma: float, config: DifferenceConfig
) -> float:
    """Take from `new` what its bright stars have beyond the stamps of the PSFs more than those of `ref`.

    The light beyond the stamp is in no PSF and does not cancel where the two seeings differ. Its excess per flux is measured in
    rings around the brightest stars, median by median, and subtracted around every star that it matters for. A star bright enough
    to tell its own excess better than the others tell it (their scatter, and the unsure flux of a saturated star) gets its own.

    Parameters
    ----------
    new, ref : (ny, nx) float32, DN
        On one flux scale and sky; `new` is changed in place.
    bad : (ny, nx) bool
        Pixels to leave out.
    stars : Stars
        Brightest first.
    sigma : float, DN
        Noise of a pixel of new - ref.
    config : DifferenceConfig

    Returns
    -------
    float
        Excess at the edge of the stamp, fraction of the flux in a pixel.
    """
    most = Stars(stars.x[: config.halo_stars], stars.y[: config.halo_stars], stars.flux[: config.halo_stars])
    levels = np.empty((most.x.size, RINGS_PX.size - 1, 2))
    kernels.ring_levels(new, ref, bad, most.y, most.x, RINGS_PX, levels)
    excess, scatter = _excess(levels[:, :, 0], levels[:, :, 1], most.flux, sigma)
    if not excess.any():
        return 0.0
    profile = _profile(excess)
    faint = np.abs(profile[int(RINGS_PX[0] / STEP_PX) + 1 :]).max() * stars.flux < 0.1 * sigma
    n = int(np.argmax(faint)) if faint.any() else stars.x.size
    reach = np.full(n, RINGS_PX[1:][excess != 0].max())
    own = _own(levels[:n, :, 0], levels[:n, :, 1], most.flux[:n], excess, scatter, sigma)
    k = len(own)
    for star, rings in enumerate(own):
        one = slice(star, star + 1)
        add_wings(new, stars.x[one].copy(), stars.y[one].copy(), np.full(1, -1.0), reach[one], _profile(rings), STEP_PX)
    add_wings(new, stars.x[k:n].copy(), stars.y[k:n].copy(), -stars.flux[k:n], reach[k:], profile, STEP_PX)
    return float(excess[0])


def _profile(rings: np.ndarray) -> np.ndarray:
    """Levels in the rings as a table in steps of `STEP_PX` from the star's centre; float32."""
    middle = np.sqrt(RINGS_PX[1:] * RINGS_PX[:-1])
    r = np.maximum(np.arange(0.0, RINGS_PX[-1] + 2.0, STEP_PX), 1.0)
    scaled = np.interp(r, middle, rings * (middle / RINGS_PX[0]) ** SLOPE)
    return np.asarray(scaled * (r / RINGS_PX[0]) ** -SLOPE, np.float32)


def _own(
    level: np.ndarray, count: np.ndarray, flux: np.ndarray, excess: np.ndarray, scatter: np.ndarray, sigma: float
) -> np.ndarray:
    """Excess in each ring, DN, of each star: the mean of what all stars let expect and of what is measured around it.

    Weights: the scatter of the excess per flux from star to star (at least a fifth), and the noise of the median.
    """
    expected = np.multiply.outer(flux, excess)
    spread = np.multiply.outer(flux, np.maximum(scatter, 0.2 * np.abs(excess))) ** 2
    weight = spread / (spread + 1.57 * sigma**2 / np.maximum(count, 1.0))
    told = (count > 30) & (excess != 0)
    return np.asarray(expected + np.where(told, weight * (level - expected), 0.0))


def _excess(level: np.ndarray, count: np.ndarray, flux: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean excess per flux in each ring, 0 from the first ring on where it is not significant (3 sigma), and its scatter.

    Weights: noise of a median, and a fifth of the light itself, so that no single star decides.
    """
    out, scatter = np.zeros((2, level.shape[1]))
    for ring in range(out.size):
        good = count[:, ring] > 30
        if np.count_nonzero(good) < 5:
            break
        f, values = flux[good], level[good, ring]
        guess = np.median(values / f)
        variance = 1.57 * sigma**2 / count[good, ring] + (0.2 * guess * f) ** 2
        variance += (1.4826 * np.median(np.abs(values - guess * f))) ** 2 / 4
        weight = np.sum(f * f / variance)
        mean = np.sum(f * values / variance) / weight
        if abs(mean) * np.sqrt(weight) < 3:
            break
        out[ring], scatter[ring] = mean, 1.4826 * np.median(np.abs(values / f - guess))
    return out, scatter
