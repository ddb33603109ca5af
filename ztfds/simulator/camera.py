"""The detector: response, defects, charge, amplifier and converter of one quadrant, from light to raw counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ztfds.simulator import kernels
from ztfds.simulator.config import DetectorConfig
from ztfds.survey.camera import ccd_qid
from ztfds.survey.detector import GAIN_E_PER_DN, READ_NOISE_E, linearity

F32 = NDArray[np.float32]
READOUT_S = 8.2
_BLEED_UP = 0.55  # share of the overflow that goes to higher rows


@dataclass(frozen=True)
class Defects:
    """Pixels that are not like the others; rows y and columns x, 0-based.

    Attributes
    ----------
    dead : (n, 2) int64 and dead_response (n,) float32
    hot : (n, 2) int64 and hot_rate (n,) float32, DN per second
    noisy : (n, 2) int64, ten times the read noise
    columns : tuple of (x, y from, y to, response)
    dust : tuple of (x, y, inner, outer, transmission)
    """

    dead: NDArray[np.int64]
    dead_response: F32
    hot: NDArray[np.int64]
    hot_rate: F32
    noisy: NDArray[np.int64]
    columns: tuple[tuple[int, int, int, float], ...]
    dust: tuple[tuple[float, float, float, float, float], ...]

    def near(self, x: float, y: float, half: int = 2) -> int:
        """Number of dead, hot, noisy pixels and bad columns in the square of 2 half + 1 pixels about a position."""
        jx, jy = round(x), round(y)
        count = sum(
            int(np.sum((np.abs(p[:, 0] - jy) <= half) & (np.abs(p[:, 1] - jx) <= half)))
            for p in (self.dead, self.hot, self.noisy)
        )
        return count + sum(abs(c - jx) <= half and a <= jy < b for c, a, b, _ in self.columns)


class Quadrant:
    """One readout channel; everything fixed about it follows from the seed.

    Parameters
    ----------
    seed, rcid : int
    shape : (ny, nx)
    overscan_columns : int
    config : DetectorConfig
    """

    def __init__(
        self, seed: int, rcid: int, shape: tuple[int, int], overscan_columns: int, config: DetectorConfig
    ) -> None:
        rng = np.random.default_rng([seed, 51, rcid])
        self.seed, self.rcid, self.shape, self.config = seed, rcid, shape, config
        self.overscan_columns = overscan_columns
        self.ccdid, self.qid = ccd_qid(rcid)
        self.flip_x, self.flip_y = self.qid in (2, 3), self.qid in (3, 4)
        self.gain = GAIN_E_PER_DN * (1 + config.gain_scatter * float(np.clip(rng.normal(), -2, 2)))
        self.well = config.full_well_dn * (1 + 0.01 * float(np.clip(rng.normal(), -2, 2)))
        self.base_dn = config.bias_level_dn + float(rng.normal(0, 60.0))
        # The two outer rows of CCDs have another anti-reflection coating than the inner ones.
        self.efficiency = (0.97 if self.ccdid <= 4 or self.ccdid > 12 else 1.0) * (1 + 0.02 * float(rng.normal()))
        self.keys = rng.integers(0, 2**63, 2, dtype=np.uint64)
        self.defects = _make_defects(rng, shape, config)

    def smooth(self, fid: int) -> F32:
        """Coefficients of the smooth response in one filter (see `kernels.apply_response`)."""
        rng = np.random.default_rng([self.seed, 52, self.rcid, fid])
        terms = rng.normal(0, self.config.lowfreq_response * 0.4, 5)
        vignetting = self.config.lowfreq_response * np.array([0, 0, -0.3, 0, -0.3])
        return (terms + vignetting).astype(np.float32)

    def lamp(self, fid: int) -> F32:
        """Coefficients of the flat screen's illumination across the quadrant."""
        rng = np.random.default_rng([self.seed, 53, self.rcid, fid])
        return rng.normal(0, self.config.lamp_nonuniformity * 0.5, 5).astype(np.float32)

    def respond(self, image: F32, fid: int, exptime: float) -> None:
        """Turn light (DN of a perfect detector) into mean signal, in place: response, dust, dead and hot pixels."""
        kernels.apply_response(image, self.keys[0], np.float32(self.config.pixel_response_rms), self.smooth(fid))
        d = self.defects
        for ring in d.dust:
            kernels.shade_ring(image, *ring)
        for x, y0, y1, response in d.columns:
            image[y0:y1, x] *= response
        image[d.dead[:, 0], d.dead[:, 1]] *= d.dead_response
        self.heat(image, exptime)

    def heat(self, image: F32, exptime: float) -> None:
        """Add the charge of hot pixels, which also gather some while waiting to be read."""
        image[self.defects.hot[:, 0], self.defects.hot[:, 1]] += self.defects.hot_rate * (exptime + 0.5 * READOUT_S)

    def read(self, image: F32, rng: np.random.Generator, mjd: float) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Noise, bleeding, non-linearity, bias and conversion.

        Parameters
        ----------
        image : (ny, nx) float32
            Mean signal in true DN; destroyed.
        rng : numpy Generator
        mjd : float
            Date, for the linearity coefficients.

        Returns
        -------
        pixels : (ny, nx) uint16
        overscan : (ny, n) uint16
            Strip in the order of reading: its first columns carry the serial trail of the last pixels read.
        """
        noise_dn = READ_NOISE_E / self.gain
        normal_noise(image, rng, self.gain, noise_dn)
        noisy = self.defects.noisy
        image[noisy[:, 0], noisy[:, 1]] += rng.normal(0, 10.0 * noise_dn, len(noisy)).astype(np.float32)
        kernels.bleed(image, np.float32(self.well), _BLEED_UP)
        level = self._level(rng)
        a, b = linearity(self.ccdid, self.qid, mjd)
        out = np.empty(self.shape, np.uint16)
        kernels.digitise(image, out, level, self.keys[1], np.float32(a), np.float32(b), self.flip_x, self.flip_y)
        return out, self._overscan(image, level, rng, noise_dn)

    def _level(self, rng: np.random.Generator) -> F32:
        """Electronic offset of each row: base, change between exposures, smooth drift from the first row read on."""
        ny, c = self.shape[0], self.config
        t = np.linspace(0.0, 1.0, ny)
        a = rng.normal(0, c.row_drift_dn * 0.5, 4)
        drift = a[0] * (t - 0.5) + a[1] * np.sin(2 * np.pi * t + a[2]) + a[3] * np.exp(-8 * t)
        walk = np.cumsum(rng.normal(0, 0.15 / np.sqrt(ny), ny))
        level = self.base_dn + rng.normal(0, c.bias_drift_dn) + drift + walk
        return (level[::-1] if self.flip_y else level).astype(np.float32)

    def _overscan(self, image: F32, level: F32, rng: np.random.Generator, noise_dn: float) -> NDArray[np.uint16]:
        last = image[:, 0] if self.flip_x else image[:, -1]
        tail = self.config.serial_tail * np.exp(-np.arange(self.overscan_columns) / 1.5)
        strip = (
            level[:, None]
            + np.maximum(last, 0)[:, None] * tail
            + rng.normal(0, noise_dn, (self.shape[0], self.overscan_columns))
        )
        return np.clip(np.floor(strip + 0.5), 0, 65535).astype(np.uint16)


@lru_cache(maxsize=64)
def quadrant(seed: int, rcid: int, shape: tuple[int, int], overscan_columns: int, config: DetectorConfig) -> Quadrant:
    """The (cached) readout channel of a camera."""
    return Quadrant(seed, rcid, shape, overscan_columns, config)


def _make_defects(rng: np.random.Generator, shape: tuple[int, int], config: DetectorConfig) -> Defects:
    ny, nx = shape
    mpx = ny * nx / 1e6

    def places(per_mpx: float) -> NDArray[np.int64]:
        n = rng.poisson(per_mpx * mpx)
        return np.stack([rng.integers(0, ny, n), rng.integers(0, nx, n)], axis=1)

    dead, hot, noisy = places(config.dead_per_mpx), places(config.hot_per_mpx), places(config.noisy_per_mpx)
    columns = []
    for _ in range(rng.poisson(config.bad_columns_per_mpx * mpx)):
        y0 = int(rng.integers(0, ny))
        columns.append(
            (
                int(rng.integers(0, nx)),
                y0,
                min(ny, y0 + int(rng.exponential(0.4) * ny) + 5),
                float(rng.uniform(0.1, 0.7)),
            )
        )
    dust = []
    for _ in range(rng.poisson(config.dust_per_mpx * mpx)):
        outer = float(rng.uniform(8, 30))
        dust.append(
            (
                float(rng.uniform(0, nx)),
                float(rng.uniform(0, ny)),
                0.4 * outer,
                outer,
                float(1 - rng.uniform(0.005, 0.04)),
            )
        )
    return Defects(
        dead,
        rng.uniform(0, 0.3, len(dead)).astype(np.float32),
        hot,
        np.exp(rng.uniform(np.log(1.0), np.log(200.0), len(hot))).astype(np.float32),
        noisy,
        tuple(columns),
        tuple(dust),
    )


def normal_noise(image: F32, rng: np.random.Generator, gain: float, noise_dn: float, rows: int = 256) -> None:
    """Add Poisson noise (its normal limit, good above some 50 electrons) and read noise, in blocks of rows."""
    buffer = np.empty((min(rows, image.shape[0]), image.shape[1]), np.float32)
    for start in range(0, image.shape[0], rows):
        block = image[start : start + rows]
        part = buffer[: block.shape[0]]
        rng.standard_normal(dtype=np.float32, out=part)
        kernels.add_noise(block, part, np.float32(gain), np.float32(noise_dn))


def radiation(
    image: F32, rng: np.random.Generator, config: DetectorConfig, seconds: float, gain: float
) -> list[tuple[float, float, float, float, float, int]]:
    """Add particle tracks to the signal, in place.

    Most are muons: straight tracks that end sharply, about 80 electrons per micron of 15 micron pixels; the others are
    wandering electrons. The hits are not blurred by the optics.

    Returns
    -------
    list of (x, y, x_end, y_end, DN in all, pixels touched)
    """
    ny, nx = image.shape
    hits = []
    for _ in range(rng.poisson(config.radiation_per_mpx * ny * nx / 1e6 * seconds / 30.0)):
        x, y = rng.uniform(0, nx - 1), rng.uniform(0, ny - 1)
        n = int(rng.exponential(7.0)) + 2
        angle = np.full(n, rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.3:
            angle += np.cumsum(rng.normal(0, 0.6, n))
        xs, ys = x + np.cumsum(0.7 * np.cos(angle)), y + np.cumsum(0.7 * np.sin(angle))
        charge = rng.lognormal(np.log(1000.0), 0.5) * rng.lognormal(0.0, 0.25, n) / gain
        jx, jy = np.rint(xs).astype(int), np.rint(ys).astype(int)
        inside = (jx >= 0) & (jx < nx) & (jy >= 0) & (jy < ny)
        if not inside.any():
            continue
        np.add.at(image, (jy[inside], jx[inside]), charge[inside].astype(np.float32))
        hits.append(
            (
                float(xs[inside][0]),
                float(ys[inside][0]),
                float(xs[inside][-1]),
                float(ys[inside][-1]),
                float(charge[inside].sum()),
                int(inside.sum()),
            )
        )
    return hits
