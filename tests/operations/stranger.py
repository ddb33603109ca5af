"""A small data set as somebody else would make it from the documentation: plain numpy and astropy, nothing of this project."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS

FIELD, FIELD_RA, FIELD_DEC = 712, 157.78274, 40.55
CCD = 5
NY, NX, NOVERSCAN = 320, 300, 24
GAIN, NOISE_E = 6.2, 10.0
ZERO_POINT = 26.2
SCALE_DEG = 1.012 / 3600
NIGHT = dt.datetime(2018, 4, 10, tzinfo=dt.UTC)
N_BIAS, N_FLAT, N_EPOCHS, N_NEW = 6, 6, 8, 2
SEEING_PX = (2.0, 2.2, 2.1, 2.3, 2.0, 2.15, 2.2, 2.1)
TRANSIENT_MAG, TRANSIENT_QUADRANT, TRANSIENT_XY = 17.0, 2, (141.3, 170.8)


@dataclass(frozen=True)
class Sky:
    """Stars of one quadrant: true pixel positions of the first epoch, magnitudes and its world coordinates."""

    wcs: WCS
    x: np.ndarray
    y: np.ndarray
    r: np.ndarray
    colour: np.ndarray


def wcs_of(qid: int, dra: float = 0.0, ddec: float = 0.0) -> WCS:
    """World coordinates of a quadrant: the CCD sits north-east of the field's centre, which no layout of the survey says."""
    east, north = {1: (1, 1), 2: (-1, 1), 3: (-1, -1), 4: (1, -1)}[qid]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [(NX + 1) / 2, (NY + 1) / 2]
    dec = FIELD_DEC + 0.6 + north * 0.05 + ddec
    wcs.wcs.crval = [FIELD_RA + (0.9 + east * 0.045 + dra) / np.cos(np.radians(dec)), dec]
    wcs.wcs.cd = [[-SCALE_DEG, 0.0], [0.0, -SCALE_DEG]]
    return wcs


def make_sky(rng: np.random.Generator) -> dict[int, Sky]:
    """Some 120 stars in and around each quadrant."""
    skies = {}
    for qid in (1, 2, 3, 4):
        n = 150
        x, y = rng.uniform(-20, NX + 20, n), rng.uniform(-20, NY + 20, n)
        near = np.hypot(x - TRANSIENT_XY[0], y - TRANSIENT_XY[1]) < 12
        x, y = x[~near], y[~near]
        skies[qid] = Sky(wcs_of(qid), x, y, rng.uniform(14.5, 19.5, x.size), rng.uniform(0.2, 1.2, x.size))
    return skies


def moffat(image: np.ndarray, x: float, y: float, flux: float, fwhm: float) -> None:
    """Add a star."""
    beta = 3.0
    core = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    x0, x1 = max(0, int(x) - 24), min(image.shape[1], int(x) + 26)
    y0, y1 = max(0, int(y) - 24), min(image.shape[0], int(y) + 26)
    if x0 >= x1 or y0 >= y1:
        return
    fine = (np.arange(3) - 1) / 3.0
    total = np.zeros((y1 - y0, x1 - x0))
    for dx in fine:
        for dy in fine:
            r2 = (np.arange(x0, x1)[None, :] + dx - x) ** 2 + (np.arange(y0, y1)[:, None] + dy - y) ** 2
            total += (1 + r2 / core**2) ** -beta
    image[y0:y1, x0:x1] += flux * total / 9 * (beta - 1) / (np.pi * core**2)


def exposed(rng: np.random.Generator, light_dn: np.ndarray, bias: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Digital numbers of an exposure."""
    electrons = rng.poisson(np.clip(light_dn * response, 0, None) * GAIN) + rng.normal(0, NOISE_E, light_dn.shape)
    return np.clip(np.rint(electrons / GAIN + bias), 0, 65535).astype(np.uint16)


class Maker:
    """Writes the files of one folder."""

    def __init__(self, folder: Path, seed: int = 5) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.sky = make_sky(self.rng)
        self.bias = {q: 1000 + self.rng.normal(0, 1.0, (NY, NX)) for q in (1, 2, 3, 4)}
        self.response = {q: 1 + self.rng.normal(0, 0.01, (NY, NX)) for q in (1, 2, 3, 4)}

    def write(
        self, when: dt.datetime, kind: str, filt: str, images: dict[int, np.ndarray], cards: dict, how: str
    ) -> Path:
        """One file: `how` is ``plain`` (uncompressed) or ``rice``."""
        fraction = (when - when.replace(hour=0, minute=0, second=0)) / dt.timedelta(days=1)
        field = FIELD if kind == "o" else 0
        name = f"ztf_{when:%Y%m%d}{int(fraction * 1e6):06d}_{field:06d}_{filt}_c{CCD:02d}_{kind}.fits"
        hdus = fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards))])
        for qid in (1, 2, 3, 4):
            header = self.sky[qid].wcs.to_header() if kind == "o" else fits.Header()
            hdus.append(_image(images[qid], header, how))
        for _ in range(4):
            strip = self.rng.normal(1000, NOISE_E / GAIN, (NY, NOVERSCAN))
            hdus.append(_image(np.rint(strip).astype(np.uint16), fits.Header(), how))
        path = self.folder / (name if how == "plain" else f"{name}.fz")
        hdus.writeto(path)
        return path

    def calibrations(self) -> None:
        """Biases and flats of the afternoon."""
        for k in range(N_BIAS):
            when = NIGHT + dt.timedelta(minutes=10 + 2 * k)
            images = {q: exposed(self.rng, np.zeros((NY, NX)), self.bias[q], self.response[q]) for q in (1, 2, 3, 4)}
            cards = {"OBSMJD": mjd(when), "IMAGETYP": "zero"}
            self.write(when, "b", "bi", images, cards, "rice" if k % 2 else "plain")
        for k in range(N_FLAT):
            when = NIGHT + dt.timedelta(minutes=40 + 2 * k)
            light = np.full((NY, NX), 15000.0)
            images = {q: exposed(self.rng, light, self.bias[q], self.response[q]) for q in (1, 2, 3, 4)}
            cards = {"OBSMJD": mjd(when), "IMGTYPE": "Dome", "EXPTIME": 5.0, "FILTERID": 2}
            self.write(when, "f", "zr", images, cards, "rice")

    def epoch(self, k: int) -> Path:
        """On-sky exposure number `k` of the field; the last ones show a transient."""
        when = NIGHT + dt.timedelta(hours=4, minutes=20 * k)
        shift = self.rng.uniform(-2, 2, 2)
        images = {}
        for qid, sky in self.sky.items():
            light = np.full((NY, NX), 120.0 + 5 * k)
            for x, y, mag in zip(sky.x, sky.y, sky.r, strict=True):
                moffat(light, x + shift[0], y + shift[1], 10 ** (-0.4 * (mag - ZERO_POINT)), SEEING_PX[k])
            if qid == TRANSIENT_QUADRANT and k >= N_EPOCHS - N_NEW:
                x, y = TRANSIENT_XY
                moffat(light, x + shift[0], y + shift[1], 10 ** (-0.4 * (TRANSIENT_MAG - ZERO_POINT)), SEEING_PX[k])
            images[qid] = exposed(self.rng, light, self.bias[qid], self.response[qid])
        pointing = {"OBJRAD": FIELD_RA, "OBJDECD": FIELD_DEC} if k % 2 else {"RA": "10:31:07.86", "DEC": "+40:33:00.0"}
        cards = {"OBSMJD": mjd(when), "EXPTIME": 30.0, "FILTERID": 2, "LINEAR": True, **pointing}
        return self.write(when, "o", "zr", images, cards, "plain" if k in (1, 6) else "rice")


def _image(pixels: np.ndarray, header: fits.Header, how: str) -> fits.ImageHDU | fits.CompImageHDU:
    """An extension of unsigned 16-bit integers, which FITS stores signed with BZERO."""
    return fits.ImageHDU(pixels, header) if how == "plain" else fits.CompImageHDU(pixels, header)


def mjd(when: dt.datetime) -> float:
    """Modified Julian date."""
    return 40587.0 + (when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(days=1)


def write_catalogs(folder: Path, sky: dict[int, Sky], rng: np.random.Generator) -> None:
    """Gaia-like and PS1-like tables with the gaps that such tables have."""
    folder.mkdir(parents=True)
    places = [np.column_stack(one.wcs.all_pix2world(one.x, one.y, 0)) for one in sky.values()]
    ra, dec = np.concatenate(places).T
    r, colour = (np.concatenate([getattr(one, what) for one in sky.values()]) for what in ("r", "colour"))
    gaps = rng.uniform(size=ra.size) < 0.2
    gaia = {
        "source_id": np.arange(ra.size) + 10**15,
        "ra": ra,
        "dec": dec,
        "phot_g_mean_mag": r + 0.1,
        "pmra": np.where(gaps, np.nan, 0.0),
        "pmdec": np.where(gaps, np.nan, 0.0),
        "ra_error": np.where(gaps, np.nan, 0.3),
        "dec_error": np.where(gaps, np.nan, 0.3),
    }
    pq.write_table(pa.table(gaia), folder / "gaia.parquet")
    # Instrumental r is PS1 r plus the colour term that the survey's filter has.
    bands = {"g": r + colour, "r": r, "i": r - 0.3 * colour, "z": r - 0.4 * colour}
    ps1 = {"objid": np.arange(ra.size) + 7, "ra": ra, "dec": dec, **bands, "sgscore": np.where(gaps, np.nan, 1.0)}
    pq.write_table(pa.table(ps1), folder / "ps1.parquet")
