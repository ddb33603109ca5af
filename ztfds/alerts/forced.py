"""Forced photometry on stamps of earlier difference images: the flux of a point source at a given position, with its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ztfds.config.alerts import ForcedConfig

OK, FEW_SKY, MANY_BAD, SOME_BAD, OFF_IMAGE, FATAL = "0", "54", "55", "56", "61", "64"
"""Status codes of the survey's forced photometry: clean; too few background pixels; too many bad pixels in the PSF; some
bad pixels in the PSF; position too close to an edge; the image could not be read."""


@dataclass(frozen=True)
class ForcedFlux:
    """Forced photometry at n positions of one image.

    Attributes
    ----------
    flux, error : (n,) float64, DN of the image
        PSF-fit flux and its 1 sigma; NaN where it could not be measured.
    status : list of str
        Comma-separated codes; `OK` alone is clean.
    """

    flux: np.ndarray
    error: np.ndarray
    status: list[str]


def shifted_psf(psf: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """A PSF as pixels see it when the star is off the centre of a pixel.

    The shift is a phase in Fourier space: exact for a PSF that the pixels sample well enough.

    Parameters
    ----------
    psf : (m, m) float
        m odd; the star is on its central pixel.
    dy, dx : (n,) float
        Position of the star from the centre of the central pixel, px, within half a pixel.

    Returns
    -------
    (n, m, m) float64
    """
    m = psf.shape[0]
    size = m + 7  # room for what a shift moves over the edge
    fy, fx = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    turn_y = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(dy, float), fy))
    turn_x = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(dx, float), fx))
    transform = np.fft.rfft2(psf, (size, size)) * turn_y[:, :, None] * turn_x[:, None, :]
    return np.fft.irfft2(transform, (size, size))[:, :m, :m]


def measure(
    stamps: np.ndarray, psf: np.ndarray, dy: np.ndarray, dx: np.ndarray, gain: float, config: ForcedConfig
) -> ForcedFlux:
    """Fit the PSF at the position, with the local sky level and noise.

    With p the PSF and d the pixels of the fitting box that have data, b and s median and robust noise (half the 16-84
    percentile range) of the pixels outside the sky radius, g the gain, c the correlation of the noise (`correlation`):

        flux  = sum p (d - b) / sum p^2
        error^2 = sum p^2 (c s^2 + max(flux, 0) p / g) / (sum p^2)^2 + (pi/2 s^2 / n_sky) (sum p / sum p^2)^2

    the least-squares fit for the uniform, white noise of a proper difference image (Zackay, Ofek & Gal-Yam 2016), plus
    photon noise of the source itself. All pixels weigh the same, so the flux of a variable source has no bias from it.
    That the noise is not quite white (PSFs are models, the reference was resampled) is measured and put into the error.

    Parameters
    ----------
    stamps : (n, 2 h + 1, 2 h + 1) float32, DN
        Difference images around the pixels next to the positions; NaN is bad or off the image.
    psf : (m, m) float, fraction of the flux in a pixel
    dy, dx : (n,) float
        Positions from the centres of the stamps, px.
    gain : float, electrons per DN
        Not finite or not positive: no photon noise of the source.
    config : ForcedConfig
    """
    model = _fitted_to(shifted_psf(psf, dy, dx), config.box_half_px)
    half, box = stamps.shape[1] // 2, config.box_half_px
    inside = stamps[:, half - box : half + box + 1, half - box : half + box + 1].astype(np.float64)
    level, noise, n_sky = _sky(stamps, dy, dx, config.sky_inner_px)
    factor = correlation(stamps, level, noise, psf, config.sky_inner_px)
    good = np.isfinite(inside)
    p = np.where(good, model, 0.0)
    d = np.where(good, inside - level[:, None, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm, total = np.sum(p * p, axis=(1, 2)), np.sum(p, axis=(1, 2))
        flux = np.sum(p * d, axis=(1, 2)) / norm
        own = np.maximum(flux, 0) / gain if gain > 0 else np.zeros_like(flux)
        variance = (factor * noise**2 * norm + own * np.sum(p**3, axis=(1, 2))) / norm**2
        variance += 0.5 * np.pi * noise**2 / n_sky * (total / norm) ** 2
        lost = 1 - norm / np.sum(model * model, axis=(1, 2))
    few, many, some = n_sky < config.min_sky_px, lost > config.max_bad_fraction, ~good.all(axis=(1, 2))
    failed = few | many
    flux, error = np.where(failed, np.nan, flux), np.where(failed, np.nan, np.sqrt(variance))
    return ForcedFlux(flux, error, [_codes(*flags) for flags in zip(few, many, some & ~many, strict=True)])


def correlation(stamps: np.ndarray, level: np.ndarray, noise: np.ndarray, psf: np.ndarray, inner: float) -> float:
    """How much more variance a PSF-fit flux has than it would have in white noise of the same pixels.

    c = sum over lags of r(lag) a(lag), r the autocorrelation of the noise in all stamps together, outside the sky radius and
    within four sigmas, a that of the PSF; lags to two pixels. Between 0.5 and 3, and 1 where nothing can be measured.

    Parameters
    ----------
    stamps : (n, side, side) float32, DN
    level, noise : (n,) float64, DN
        Sky and noise of each.
    psf : (m, m)
    inner : float
        Sky radius, px.
    """
    offset = np.arange(stamps.shape[1]) - stamps.shape[1] // 2
    far = offset[:, None] ** 2 + offset[None, :] ** 2 > inner * inner
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (stamps - level[:, None, None]) / noise[:, None, None]
        used = far & (np.abs(z) < 4)
    z = np.where(used, z, 0.0)
    p, total = np.asarray(psf, float), 1.0
    power = np.sum(z * z) / max(np.count_nonzero(used), 1)
    for dy, dx in _LAGS:
        here, there = _lagged(z, dy, dx)
        pairs = np.count_nonzero(np.logical_and(*_lagged(used, dy, dx)))
        shape = np.sum(np.multiply(*_lagged(p[None], dy, dx))) / np.sum(p * p)
        if pairs and power > 0:
            total += 2 * shape * np.sum(here * there) / pairs / power
    return float(np.clip(total, 0.5, 3.0))


_LAGS = [(dy, dx) for dy in range(3) for dx in range(-2, 3) if dy > 0 or dx > 0]


def _lagged(stamps: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of stamps (n, ny, nx) that overlap with themselves moved by (dy, dx), dy not negative."""
    ny, nx = stamps.shape[1:]
    left, right = max(dx, 0), nx + min(dx, 0)
    return stamps[:, dy:, left:right], stamps[:, : ny - dy, left - dx : right - dx]


def _codes(few: bool, many: bool, some: bool) -> str:
    """Status codes of one measurement."""
    found = [code for code, applies in ((FEW_SKY, few), (MANY_BAD, many), (SOME_BAD, some)) if applies]
    return ",".join(found) or OK


def _fitted_to(psf: np.ndarray, half: int) -> np.ndarray:
    """The centre of stamps (n, m, m) as (n, 2 half + 1, 2 half + 1); zero beyond them."""
    centre = psf.shape[1] // 2
    if half <= centre:
        return psf[:, centre - half : centre + half + 1, centre - half : centre + half + 1]
    return np.pad(psf, ((0, 0), *[(half - centre, half - centre)] * 2))


def _sky(stamps: np.ndarray, dy: np.ndarray, dx: np.ndarray, inner: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, robust noise (DN) and number of the pixels with data farther than `inner` px from the positions."""
    offset = np.arange(stamps.shape[1]) - stamps.shape[1] // 2
    y2 = np.square(offset[None, :] - np.asarray(dy)[:, None])
    x2 = np.square(offset[None, :] - np.asarray(dx)[:, None])
    far = (y2[:, :, None] + x2[:, None, :]) > inner * inner
    values = np.where(far, stamps, np.nan).reshape(len(stamps), -1)
    values.sort(axis=1)  # NaN comes last
    count = np.count_nonzero(np.isfinite(values), axis=1)
    rows, last = np.arange(len(values)), np.maximum(count - 1, 0)

    def at(part: float) -> np.ndarray:
        place = part * last
        low = np.floor(place).astype(int)
        high, rest = np.minimum(low + 1, last), place - low
        return (1 - rest) * values[rows, low] + rest * values[rows, high]

    return at(0.5), 0.5 * (at(0.84134) - at(0.15866)), count
