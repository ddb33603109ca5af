"""A small analytic sky for differencing tests: Moffat stars on two grids, with known transients; numpy only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ztfds.reference.products import ReferenceProducts

GAIN, READNOISE = 6.2, 10.0
SKY = 150.0
MAGZP = 26.2
SCALE = 1.012 / 3600


@dataclass(frozen=True)
class MoffatPsf:
    """Moffat profile integrated over pixels (5 x 5 samples)."""

    fwhm_px: float
    beta: float = 3.0
    ellipticity: float = 0.0
    growth: float = 0.0  # relative FWHM change from the left to the right edge of a 1000 px image

    @property
    def outside(self) -> float:
        return float(1 / self.draw(500.0, 0.0, 25).sum() - 1)

    def draw(self, x: float, y: float, size: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        """(size, size) float64: fraction of the flux per pixel for a star offset by (dx, dy) from the centre."""
        fwhm = self.fwhm_px * (1 + self.growth * (x / 1000 - 0.5))
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        sub = (np.arange(5 * size) - (5 * size - 1) / 2) / 5
        u, v = (sub - dx) * (1 + self.ellipticity), (sub - dy) / (1 + self.ellipticity)
        r2 = (u[None, :] ** 2 + v[:, None] ** 2) / alpha**2
        fine = (self.beta - 1) / (np.pi * alpha**2) * (1 + r2) ** -self.beta
        return fine.reshape(size, 5, size, 5).mean(axis=(1, 3))

    def stamp(self, x: float, y: float, size: int = 25, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        stamp = self.draw(x, y, size, dx, dy)
        return (stamp / stamp.sum()).astype(np.float32)


@dataclass(frozen=True)
class FlatSky:
    level: np.ndarray
    rms_dn: float


@dataclass(frozen=True)
class Science:
    pixels: np.ndarray
    mask: np.ndarray
    header: fits.Header
    psfcat: np.ndarray
    psf: MoffatPsf
    background: FlatSky


PSFCAT = np.dtype(
    [("sourceid", "i4"), ("xpos", "f4"), ("ypos", "f4"), ("ra", "f8"), ("dec", "f8"), ("flux", "f4"), ("sigflux", "f4")]
    + [("mag", "f4"), ("sigmag", "f4"), ("snr", "f4"), ("chi", "f4"), ("sharp", "f4"), ("flags", "i4")]
)


def tan_wcs(shape: tuple[int, int], dx: float = 0.0, dy: float = 0.0, angle_deg: float = 0.0) -> WCS:
    """+x west, +y south, about (150, 30) deg, shifted by (dx, dy) pixels and turned."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 30.0]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5 + dx, shape[0] / 2 + 0.5 + dy]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    wcs.wcs.cd = -SCALE * np.array([[c, -s], [s, c]])
    wcs.wcs.set()
    return wcs


def header_of(wcs: WCS, **cards: object) -> fits.Header:
    header = wcs.to_header()
    header.update(
        {"GAIN": GAIN, "READNOI": READNOISE, "SATURATE": 48000.0, "MAGZP": MAGZP, "MAGZPUNC": 1e-5, "MAGZPRMS": 0.03}
    )
    header.update({"OBSJD": 2458559.8, "FILTERID": 2, "FIELDID": 712, "RCID": 30, "EXPTIME": 30.0, "PROGRMID": 1})
    header.update({"NMATCHES": 300, "CLRCOEFF": 0.1, "PROGRMPI": "Kulkarni"})
    header.update(cards)
    return header


@dataclass
class Truth:
    """Stars and transients: positions on the science grid, fluxes in science DN."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    tx: np.ndarray = field(default_factory=lambda: np.zeros(0))
    ty: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tflux: np.ndarray = field(default_factory=lambda: np.zeros(0))


def add_stars(image: np.ndarray, psf: MoffatPsf, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> None:
    """Add stars to an image in place; stamps of 61 px for bright stars, 31 px for faint ones."""
    ny, nx = image.shape
    for u, v, f in zip(x, y, flux, strict=True):
        size = 61 if abs(f) > 2e4 else 31
        i, j = round(float(u)), round(float(v))
        stamp = f * psf.draw(u, v, size, u - i, v - j)
        h = size // 2
        y0, y1, x0, x1 = max(j - h, 0), min(j + h + 1, ny), max(i - h, 0), min(i + h + 1, nx)
        if y0 < y1 and x0 < x1:
            image[y0:y1, x0:x1] += stamp[y0 - j + h : y1 - j + h, x0 - i + h : x1 - i + h]


def catalog(wcs: WCS, x: np.ndarray, y: np.ndarray, flux: np.ndarray, noise: float) -> np.ndarray:
    """PSF catalog of the stars above 5 sigma."""
    sigma = np.sqrt(noise**2 + flux / GAIN)
    keep = flux > 5 * sigma
    table = np.zeros(keep.sum(), PSFCAT)
    table["sourceid"] = np.arange(table.size)
    table["xpos"], table["ypos"], table["flux"], table["sigflux"] = x[keep], y[keep], flux[keep], sigma[keep]
    table["ra"], table["dec"] = wcs.all_pix2world(x[keep], y[keep], 0)
    table["mag"], table["sigmag"] = -2.5 * np.log10(table["flux"]), 1.0857 * table["sigflux"] / table["flux"]
    table["snr"], table["chi"] = table["flux"] / table["sigflux"], 1.0
    return table


def make_truth(
    rng: np.random.Generator, shape: tuple[int, int], n_stars: int, n_transients: int = 0, snr: float = 10.0
) -> Truth:
    """Random stars (power-law fluxes) and transients of both signs, away from each other and from the edges."""
    x, y = rng.uniform(0, shape[1] - 1, n_stars), rng.uniform(0, shape[0] - 1, n_stars)
    flux = 150.0 * rng.pareto(0.9, n_stars) + 150.0
    flux = np.minimum(flux, 2e5)
    side = int(np.ceil(np.sqrt(max(n_transients, 1))))
    gx, gy = np.meshgrid(np.linspace(30, shape[1] - 31, side), np.linspace(30, shape[0] - 31, side))
    tx = (gx.ravel() + rng.uniform(-3, 3, gx.size))[:n_transients]
    ty = (gy.ravel() + rng.uniform(-3, 3, gx.size))[:n_transients]
    sigma = np.sqrt(SKY / GAIN + (READNOISE / GAIN) ** 2) * 4.7  # noise of a PSF flux at 2.4 px FWHM, DN
    tflux = snr * sigma * np.where(np.arange(tx.size) % 2 == 0, 1.0, -1.0)
    return Truth(x, y, flux, tx, ty, tflux)


@dataclass
class Scene:
    science: Science
    reference: ReferenceProducts
    truth: Truth


def make_scene(
    rng: np.random.Generator,
    truth: Truth,
    shape: tuple[int, int] = (264, 256),
    psf_new: MoffatPsf = MoffatPsf(2.4),
    psf_ref: MoffatPsf = MoffatPsf(2.1),
    shift: tuple[float, float, float] = (3.3, -2.6, 0.05),
    wrong_shift: tuple[float, float] = (0.0, 0.0),
    gain_ratio: float = 0.9,
    frames: int = 12,
    noise_new: bool = True,
) -> Scene:
    """Science image and reference of one sky.

    `shift` is the reference's WCS offset (px, px, deg); `wrong_shift` an error of the science WCS (px) that the header
    does not know; `gain_ratio` science DN per reference DN; `frames` how many times less variance the reference has.
    Negative transients are in the reference only.
    """
    wcs, ref_wcs = tan_wcs(shape), tan_wcs(shape, *shift)
    positive = truth.tflux > 0
    image = np.full(shape, SKY)
    sx, sy = truth.x + wrong_shift[0], truth.y + wrong_shift[1]
    add_stars(image, psf_new, sx, sy, truth.flux)
    tx, ty = truth.tx + wrong_shift[0], truth.ty + wrong_shift[1]
    add_stars(image, psf_new, tx[positive], ty[positive], truth.tflux[positive])
    variance = image / GAIN + (READNOISE / GAIN) ** 2
    science = (image + rng.normal(0, 1, shape) * np.sqrt(variance)).astype(np.float32)

    ref = np.zeros(shape)
    rx, ry = ref_wcs.all_world2pix(*wcs.all_pix2world(truth.x, truth.y, 0), 0)
    add_stars(ref, psf_ref, rx, ry, truth.flux / gain_ratio)
    nx, ny = ref_wcs.all_world2pix(*wcs.all_pix2world(truth.tx, truth.ty, 0), 0)
    add_stars(ref, psf_ref, nx[~positive], ny[~positive], -truth.tflux[~positive] / gain_ratio)
    sigma = np.sqrt(((ref * gain_ratio + SKY) / GAIN + (READNOISE / GAIN) ** 2) / frames) / gain_ratio
    ref_pixels = (ref + rng.normal(0, 1, shape) * sigma).astype(np.float32)

    noise = 3.4 * np.sqrt(SKY / GAIN + (READNOISE / GAIN) ** 2)
    cat = catalog(wcs, truth.x, truth.y, truth.flux, noise)
    cat["xpos"] += wrong_shift[0]
    cat["ypos"] += wrong_shift[1]
    ref_cat = catalog(ref_wcs, rx, ry, truth.flux / gain_ratio, noise / np.sqrt(frames))
    ref_header = header_of(
        ref_wcs, MAGZP=MAGZP - 2.5 * np.log10(gain_ratio), NFRAMES=frames, JDSTART=2458200.5, JDEND=2458300.5
    )
    level = np.full(shape, SKY, np.float32)
    return Scene(
        Science(
            science,
            np.zeros(shape, np.uint16),
            header_of(wcs),
            cat,
            psf_new,
            FlatSky(level, float(np.sqrt(SKY / GAIN + (READNOISE / GAIN) ** 2))),
        ),
        ReferenceProducts(
            ref_pixels,
            np.full(shape, frames, np.float32),
            sigma.astype(np.float32),
            np.zeros(shape, np.uint16),
            ref_header,
            psf_ref,
            ref_cat,
            np.zeros(0),
        ),
        truth,
    )


def empty_catalogs() -> tuple[np.ndarray, np.ndarray]:
    """Gaia and PS1 tables without rows."""
    gaia = np.zeros(0, [("ra", "f8"), ("dec", "f8"), ("gmag", "f4")])
    ps1 = np.zeros(
        0,
        [
            ("objid", "i8"),
            ("ra", "f8"),
            ("dec", "f8"),
            ("g", "f4"),
            ("r", "f4"),
            ("i", "f4"),
            ("z", "f4"),
            ("sgscore", "f4"),
        ],
    )
    return gaia, ps1
