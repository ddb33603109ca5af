"""Synthetic quadrants with known truth: catalog stars, a TPV camera, detections with errors, a wrong header."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

PIXEL_DEG = 1.012 / 3600
FULL, TINY = (3080, 3072), (264, 256)


@dataclass
class Scene:
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    shape: tuple[int, int]
    truth: WCS
    guess: WCS
    gaia: np.ndarray
    star: np.ndarray  # catalog row of each detection, -1 for false ones and stars not in the catalog

    def errors_mas(self, wcs: WCS, margin: int = 0, step: int = 12) -> np.ndarray:
        """(n, 2) difference of a solution from the truth on a grid over the image, mas East and North."""
        ny, nx = self.shape
        gx, gy = np.meshgrid(np.linspace(margin, nx - 1 - margin, step), np.linspace(margin, ny - 1 - margin, step))
        ra, dec = wcs.all_pix2world(gx.ravel(), gy.ravel(), 0)
        ra0, dec0 = self.truth.all_pix2world(gx.ravel(), gy.ravel(), 0)
        east = ((ra - ra0 + 180) % 360 - 180) * np.cos(np.radians(dec0))
        return np.stack([east, dec - dec0], axis=-1) * 3.6e6


def matrix(rotation_deg: float = 0.0, scale: float = 1.0, parity: int = 1) -> np.ndarray:
    """CD matrix of the camera: +x West, +y South, turned by a rotation."""
    a = np.radians(rotation_deg)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return -PIXEL_DEG * scale * turn @ np.diag([parity, 1.0])


def make_wcs(shape, ra, dec, cd, pv=None) -> WCS:
    ny, nx = shape
    header = fits.Header(
        {
            "CTYPE1": "RA---TPV" if pv else "RA---TAN", "CTYPE2": "DEC--TPV" if pv else "DEC--TAN",
            "CRPIX1": (nx + 1) / 2, "CRPIX2": (ny + 1) / 2, "CRVAL1": ra % 360, "CRVAL2": dec,
            "CD1_1": cd[0, 0], "CD1_2": cd[0, 1], "CD2_1": cd[1, 0], "CD2_2": cd[1, 1], "CUNIT1": "deg", "CUNIT2": "deg",
        }
    )  # fmt: skip
    header.update(pv or {})
    return WCS(header)


def random_distortion(rng: np.random.Generator, strength: float = 1.0) -> dict[str, float]:
    """PV terms of the size of the real camera's: 4e-4 per deg, 4e-4 per deg^2, 4e-4 per deg^3."""
    pv = {f"PV{axis}_{k}": 1.0 if k == 1 else 0.0 for axis in (1, 2) for k in (0, 1, 2)}
    for axis in (1, 2):
        for k in (4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16):
            pv[f"PV{axis}_{k}"] = strength * rng.normal(0.0, 4e-4)
    return pv


def gaia_table(ra, dec, mag) -> np.ndarray:
    table = np.zeros(
        len(ra),
        [("source_id", "i8"), ("ra", "f8"), ("dec", "f8"), ("pmra", "f4"), ("pmdec", "f4"), ("ra_error", "f4"),
         ("dec_error", "f4"), ("gmag", "f4")],
    )  # fmt: skip
    table["source_id"] = np.arange(len(ra))
    table["ra"], table["dec"], table["gmag"] = ra, dec, mag
    table["ra_error"] = table["dec_error"] = 0.5
    return table


def make_scene(
    rng: np.random.Generator,
    shape=TINY,
    n_stars: int = 60,
    *,
    center=None,
    offset_arcsec: float = 120.0,
    rotation_deg: float = 1.0,
    scale: float = 1.0,
    guess_cd: np.ndarray | None = None,
    guess_pv: bool = False,
    distortion: float = 1.0,
    false_fraction: float = 0.1,
    missing_fraction: float = 0.1,
    catalog_extra_mag: float = 0.3,
    floor_mas: float = 10.0,
    fwhm_px: float = 2.2,
    margin_deg: float = 0.15,
    limit_mag: float = 20.6,
) -> Scene:
    """A quadrant with about n_stars detections of stars brighter than `limit_mag` (5 sigma)."""
    ny, nx = shape
    ra0, dec0 = center if center is not None else (rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.5, 0.999))))
    angle = rng.uniform(-rotation_deg, rotation_deg)
    pv = random_distortion(rng, distortion) if distortion else None
    truth = make_wcs(shape, ra0, dec0, matrix(angle), pv)
    # Stars uniform on the sky in a box that holds the image and the margin, with counts rising 10^(0.3 m).
    half = np.hypot(nx, ny) / 2 * PIXEL_DEG + margin_deg
    wide = (2 * half) ** 2 / (nx * ny * PIXEL_DEG**2)
    deepest = limit_mag + catalog_extra_mag
    n_all = rng.poisson(n_stars * wide * 10 ** (0.3 * catalog_extra_mag))
    mag = deepest + np.log10(1 - rng.random(n_all) * (1 - 10 ** (0.3 * (12.0 - deepest)))) / 0.3
    plane = make_wcs((1, 1), ra0, dec0, np.eye(2))
    ra, dec = plane.all_pix2world(rng.uniform(-half, half, n_all), rng.uniform(-half, half, n_all), 0)
    fx, fy = truth.all_world2pix(ra, dec, 0, quiet=True)
    filter_mag = mag + rng.normal(0, 0.3, n_all)
    snr = 5 * 10 ** (-0.4 * (filter_mag - limit_mag))
    snr = snr / np.sqrt(1 + snr / 100)
    seen = (fx > 0) & (fx < nx - 1) & (fy > 0) & (fy < ny - 1) & (snr > 5) & (rng.random(n_all) > missing_fraction)
    rows = np.flatnonzero(seen)
    sigma = np.hypot(0.6 * fwhm_px / snr[rows], floor_mas / 1012)
    x, y = fx[rows] + rng.normal(0, sigma), fy[rows] + rng.normal(0, sigma)
    flux = 10 ** (-0.4 * (filter_mag[rows] - 26.2)) * rng.normal(1, 1 / snr[rows]).clip(0.2)
    flux = np.where(filter_mag[rows] < 13.0, flux * rng.uniform(0.2, 1.0, len(rows)), flux)
    n_false = int(false_fraction * len(rows))
    x = np.append(x, rng.uniform(0, nx - 1, n_false))
    y = np.append(y, rng.uniform(0, ny - 1, n_false))
    flux = np.append(flux, rng.choice(flux, n_false) if len(flux) else [])
    star = np.append(rows, np.full(n_false, -1))
    ratio = np.append(snr[rows], rng.choice(snr[rows], n_false) if len(rows) else [])
    # Some real stars are missing from the catalog too.
    known = rng.random(n_all) > 0.03
    new_row = np.where(known, np.cumsum(known) - 1, -1)
    star = np.where(star >= 0, new_row[star], -1)
    shift = rng.uniform(-offset_arcsec, offset_arcsec, 2) / 3600
    guess_ra, guess_dec = plane.all_pix2world([shift[0]], [shift[1]], 0)
    cd = matrix(0.0, scale) if guess_cd is None else guess_cd
    guess = make_wcs(shape, guess_ra[0], guess_dec[0], cd, pv if guess_pv else None)
    order = rng.permutation(len(x))
    return Scene(
        x[order], y[order], flux[order], ratio[order], shape, truth, guess,
        gaia_table(ra[known], dec[known], mag[known]), star[order],
    )  # fmt: skip
