"""Robustness of the astrometric solution: varied quadrants with a truth of their own, solved blind, wrong answers counted.

Run ``python benchmarks/astrometry_robustness.py [FIRST_SEED [QUADRANTS]]``. It prints a table and leaves
var/bench/astrometry.json. Nothing here shares code with the solver: the sky is refracted as vectors, projected by dot
products and inverted through a polynomial camera by iteration; blends, false detections, clouds and catalog gaps are drawn.
Seeds below 1000 are for tuning, those from 1000 on for reporting.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ztfds.astrometry.solve import AstrometricSolution, solve
from ztfds.config.astrometry import AstrometryConfig
from ztfds.survey.errors import AstrometryFailed

F64 = NDArray[np.float64]
REPORT = Path(__file__).resolve().parents[1] / "var" / "bench" / "astrometry.json"
SHAPE = (3080, 3072)
PIXEL_DEG = 1.012 / 3600
MARGIN_DEG = 0.15
"""How far beyond the quadrant's corners the catalog reaches, as in the pipeline."""
REFRACTION_ARCSEC = 47.3
"""Refraction at 45 deg from the zenith, r band, 620 mmHg and 10 deg C."""
CHROMATIC = {"g": -1.2e-3, "r": -3.8e-4, "i": -1.2e-4}
"""Relative change of the refraction per mag of g - r (Planck spectra through the real filter curves)."""
ATMOSPHERE_MAS = 10.0
SATURATED_DEPTH_MAG = 7.8
"""How much brighter than the 5 sigma limit stars saturate."""
WRONG_ARCSEC, WRONG_UNSEEN_ARCSEC = 1.0, 5.0
"""A served solution off by more than this anywhere in the image is wrong; in a dead part of it, by more than the second."""
VISIBLE_ENOUGH = 30


@dataclass(frozen=True)
class Kind:
    """A population of quadrants: ranges that each quadrant draws from.

    n_stars : detectable stars, drawn evenly in the logarithm; deeper_mag : how much deeper the catalog is than the image;
    slope : of the star counts, dex per mag; clouds_mag : largest loss of depth across the image; galaxies : detections
    that no star catalog has, over the stars; cluster : share of the stars in a cluster; dead : share of the image without
    detections; saturated : share of quadrants in which saturated stars are missing rather than badly centred.
    """

    name: str
    n_stars: tuple[float, float]
    deeper_mag: tuple[float, float] = (0.0, 1.0)
    slope: tuple[float, float] = (0.25, 0.35)
    clouds_mag: float = 0.0
    galaxies: float = 0.0
    cluster: float = 0.0
    dead: float = 0.0
    saturated: float = 0.5
    limit_mag: float = 20.5
    spoil: str = ""


KINDS = (
    Kind("quiet field", (1200, 5000), galaxies=0.4),
    Kind("sparse, high latitude", (42, 300), (0.0, 0.5), galaxies=0.6),
    Kind("clouds", (42, 2000), (1.5, 5.0), clouds_mag=2.0, limit_mag=17.0),
    Kind("plane", (15e3, 60e3), saturated=1.0),
    Kind("bulge, many saturated", (40e3, 70e3), (0.0, 0.3), (0.18, 0.24), saturated=1.0),
    Kind("star cluster", (800, 20e3), cluster=0.5),
    Kind("part of the image dead", (300, 5000), dead=0.5, galaxies=0.3),
    Kind("fewer than 30 visible", (9, 36), (0.0, 3.0), galaxies=0.3, limit_mag=16.0),
)
WRONG_KINDS = (
    Kind("another field", (30, 10e3), spoil="other_sky"),
    Kind("scrambled detections", (30, 10e3), spoil="scrambled"),
    Kind("only artefacts", (30, 3000), spoil="artefacts"),
    Kind("torn image", (200, 10e3), spoil="torn"),
)
SHARES = (36, 40, 40, 30, 14, 14, 14, 12)
"""Quadrants of each kind in 200; each wrong kind gets 12 more."""


@dataclass(frozen=True)
class Truth:
    """Where the sky really falls: refraction towards the zenith, gnomonic projection, polynomial camera.

    axes : (3, 3) unit vectors East, North, centre of the apparent field; zenith : unit vector; chromatic : see
    `CHROMATIC`; matrix : (2, 2) deg per pixel; bend : (2, 12) coefficients of u^i v^j, 2 <= i + j <= 4, deg.
    """

    axes: F64
    zenith: F64
    chromatic: float
    matrix: F64
    bend: F64

    def pixels(self, ra: F64, dec: F64, colour: F64 | float = 0.0) -> tuple[F64, F64]:
        """0-based pixels of sky positions, deg; colour: g - r relative to the mean star's, mag."""
        seen = refracted(vectors(ra, dec), self.zenith, 1.0 + self.chromatic * np.asarray(colour))
        east, north, depth = self.axes @ seen
        plane = np.degrees(np.stack([east, north]) / np.where(depth > 0.5, depth, np.nan))
        straight = plane.copy()
        for _ in range(8):
            straight = plane - self.bend @ powers(straight)
        x, y = np.linalg.solve(self.matrix, straight)
        return x + (SHAPE[1] - 1) / 2, y + (SHAPE[0] - 1) / 2


@dataclass(frozen=True)
class Edge:
    """A line across the image: one side of it, nearer than `start` (0 to 1 along the direction `slant`), is dead."""

    slant: float
    start: float

    def across(self, x: F64, y: F64) -> F64:
        """How far along the direction pixels lie, 0 to 1."""
        ny, nx = SHAPE
        along = (x - nx / 2) * np.cos(self.slant) + (y - ny / 2) * np.sin(self.slant)
        return 0.5 + along / np.hypot(nx, ny)

    def holds(self, x: F64, y: F64) -> NDArray[np.bool_]:
        """Whether pixels are on the live side."""
        return self.across(x, y) >= self.start


@dataclass
class Quadrant:
    """One image's detections and catalog, and what is true of them."""

    kind: Kind
    x: F64
    y: F64
    flux: F64
    snr: F64
    fwhm_px: float
    guess: WCS
    gaia: NDArray[np.void]
    truth: Truth
    visible: int
    false_share: float
    field: tuple[float, float]
    live: Edge

    def errors_mas(self, wcs: WCS, *, dead: bool = False, step: int = 14) -> F64:
        """(n, 2) error of a solution, mas East and North, on sky positions that fill the live part of the image, or all."""
        half = 0.6 * max(SHAPE) * PIXEL_DEG
        grid = np.linspace(-half, half, step)
        ra, dec = around(*self.field, *(g.ravel() for g in np.meshgrid(grid, grid)))
        x, y = self.truth.pixels(ra, dec)
        inside = (x > -0.5) & (x < SHAPE[1] - 0.5) & (y > -0.5) & (y < SHAPE[0] - 0.5) & (dead | self.live.holds(x, y))
        found_ra, found_dec = wcs.all_pix2world(x[inside], y[inside], 0)
        east = ((found_ra - ra[inside] + 180) % 360 - 180) * np.cos(np.radians(dec[inside]))
        return np.stack([east, found_dec - dec[inside]], axis=-1) * 3.6e6


def vectors(ra: F64 | float, dec: F64 | float) -> F64:
    """Unit vectors (3, ...) of sky positions, deg."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def frame(centre: F64) -> F64:
    """(3, 3) unit vectors East, North and the centre itself."""
    east = np.cross([0.0, 0.0, 1.0], centre)
    east /= np.linalg.norm(east)
    return np.stack([east, np.cross(centre, east), centre])


def around(ra0: float, dec0: float, xi: F64, eta: F64) -> tuple[F64, F64]:
    """Sky positions, deg, at offsets (East, North; deg in the tangent plane) from a position."""
    axes = frame(vectors(ra0, dec0))
    v = np.radians(xi) * axes[0][:, None] + np.radians(eta) * axes[1][:, None] + axes[2][:, None]
    v /= np.linalg.norm(v, axis=0)
    return np.degrees(np.arctan2(v[1], v[0])) % 360, np.degrees(np.arcsin(v[2]))


def refracted(v: F64, zenith: F64, strength: F64 | float) -> F64:
    """Apparent directions: raised towards the zenith by 47.3 arcsec x strength x tan z (plane-parallel air)."""
    cosine = zenith @ v
    lift = np.radians(REFRACTION_ARCSEC / 3600) * strength / cosine
    up = v + lift * (zenith[:, None] - cosine * v)
    return up / np.linalg.norm(up, axis=0)


def powers(plane: F64) -> F64:
    """u^i v^j for 2 <= i + j <= 4; (12, n)."""
    u, v = plane
    return np.stack([u**i * v ** (n - i) for n in (2, 3, 4) for i in range(n + 1)])


def make_truth(rng: np.random.Generator, ra0: float, dec0: float) -> Truth:
    """A camera with distortion of the real header's size, turned by the instrument; the sky at airmass 1 to 2.5."""
    distance, angle = np.arccos(1 / rng.uniform(1.0, 2.5)), rng.uniform(0, 2 * np.pi)
    axes = frame(vectors(ra0, dec0))
    sideways = np.sin(angle) * axes[0] + np.cos(angle) * axes[1]
    zenith = np.cos(distance) * axes[2] + np.sin(distance) * sideways
    apparent = frame(refracted(axes[2][:, None], zenith, 1.0)[:, 0])
    turn = np.radians(rng.uniform(-0.2, 0.2))
    matrix = -PIXEL_DEG * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    size = np.repeat([4.5e-4, 4e-4, 5e-4], [3, 4, 5])
    band = rng.choice(list(CHROMATIC))
    return Truth(apparent, zenith, CHROMATIC[str(band)], matrix, rng.normal(0, size, (2, 12)))


def make_quadrant(kind: Kind, seed: int, size: float = 1.0) -> Quadrant:
    """Draw one quadrant; `size` scales the numbers of stars (for quick tests)."""
    rng = np.random.default_rng([seed, sum(kind.name.encode())])
    ra0, dec0 = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.5, 0.9999)))
    truth = make_truth(rng, ra0, dec0)
    n_stars = size * np.exp(rng.uniform(*np.log(kind.n_stars)))
    sky = draw_sky(rng, kind, n_stars, ra0, dec0)
    fwhm = rng.uniform(1.6, 4.0)
    live = Edge(rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.2 + kind.dead) if kind.dead else -1.0)
    seen = observe(rng, kind, sky, truth, fwhm, live)
    listed = draw_catalog(rng, kind, sky)
    visible = int(listed[seen.star[seen.clean]].sum())
    seen, share = add_false(rng, kind, seen, live)
    guess, (gra, gdec) = make_guess(rng, ra0, dec0)
    cone = separation_deg(sky.ra, sky.dec, gra, gdec) < np.hypot(*SHAPE) / 2 * PIXEL_DEG + MARGIN_DEG
    gaia = gaia_table(rng, sky, listed & cone)
    quadrant = Quadrant(
        kind, seen.x, seen.y, seen.flux, seen.snr, fwhm, guess, gaia, truth, visible, share, (ra0, dec0), live
    )
    if kind.spoil:
        SPOILERS[kind.spoil](quadrant, rng)
    return quadrant


@dataclass(frozen=True)
class Sky:
    """True stars: position (deg) at the epoch, catalog magnitude, g - r relative to the mean, magnitude in the image."""

    ra: F64
    dec: F64
    gmag: F64
    colour: F64
    mag: F64


@dataclass(frozen=True)
class Seen:
    """Detections: pixels, flux, S/N, row of the brightest star in each (-1 for none), whether unsaturated and real."""

    x: F64
    y: F64
    flux: F64
    snr: F64
    star: NDArray[np.int64]
    clean: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))


def draw_sky(rng: np.random.Generator, kind: Kind, n_stars: float, ra0: float, dec0: float) -> Sky:
    """Stars in a box that holds image and margin, counts rising as 10^(slope mag), some in a cluster."""
    slope, deepest = rng.uniform(*kind.slope), kind.limit_mag + rng.uniform(*kind.deeper_mag)
    half = np.hypot(*SHAPE) / 2 * PIXEL_DEG + MARGIN_DEG + 0.04
    area = (2 * half) ** 2 / (SHAPE[0] * SHAPE[1] * PIXEL_DEG**2)
    spread = rng.poisson((1 - kind.cluster) * n_stars * area * 10 ** (slope * (deepest - kind.limit_mag)))
    bound = rng.poisson(kind.cluster * n_stars * 10 ** (slope * (deepest - kind.limit_mag)))
    middle, radius = rng.uniform(-0.3, 0.3, (2, 1)), 10 ** rng.uniform(-2, -0.8)
    xi, eta = np.hstack([rng.uniform(-half, half, (2, spread)), middle + radius * rng.standard_t(3, (2, bound))])
    ra, dec = around(ra0, dec0, np.clip(xi, -half, half), np.clip(eta, -half, half))
    least = 10 ** (slope * (8.0 - deepest))
    gmag = deepest + np.log10(least + (1 - least) * rng.random(ra.size)) / slope
    colour = rng.normal(0, 0.35, ra.size)
    return Sky(ra, dec, gmag, colour, gmag + 0.4 * colour + rng.normal(0, 0.15, ra.size))


def observe(rng: np.random.Generator, kind: Kind, sky: Sky, truth: Truth, fwhm: float, live: Edge) -> Seen:
    """Detections of the stars: clouds, S/N > 5, saturation, blends, dead parts, centroid noise 0.6 FWHM / (S/N)."""
    x, y = truth.pixels(sky.ra, sky.dec, sky.colour)
    ny, nx = SHAPE
    mag = sky.mag + rng.uniform(0, kind.clouds_mag) * np.clip(live.across(x, y), 0, 1)
    snr = 5 * 10 ** (-0.4 * (mag - kind.limit_mag))
    snr /= np.sqrt(1 + snr / 100)
    with np.errstate(invalid="ignore"):
        inside = (x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1) & (snr > 5) & live.holds(x, y)
    rows = np.flatnonzero(inside & (rng.random(x.size) > 0.03))
    flux = 10 ** (-0.4 * (mag[rows] - 26.2))
    px, py, alone = blended(x[rows], y[rows], flux, fwhm)
    bright = mag[rows] < kind.limit_mag - SATURATED_DEPTH_MAG
    sigma = np.hypot(0.6 * fwhm / snr[rows], ATMOSPHERE_MAS / 1012) + np.where(bright, 1.0, 0.0)
    px, py = px + rng.normal(0, sigma), py + rng.normal(0, sigma)
    measured = flux * rng.normal(1, 1 / snr[rows]).clip(0.2) * np.where(bright, rng.uniform(0.2, 1.0, rows.size), 1.0)
    keep = alone & ~(bright & (rng.random() < kind.saturated))
    return Seen(px[keep], py[keep], measured[keep], snr[rows][keep], rows[keep], ~bright[keep])


def blended(x: F64, y: F64, flux: F64, fwhm: float) -> tuple[F64, F64, NDArray[np.bool_]]:
    """Neighbours nearer than 1.1 FWHM become one detection at the centre of light; those to 3 FWHM pull each other."""
    alone = np.ones(x.size, bool)
    if x.size < 2:
        return x, y, alone
    pairs = cKDTree(np.c_[x, y]).query_pairs(3 * fwhm, output_type="ndarray")
    i, j = pairs[np.argsort(-flux[pairs].max(axis=1), kind="stable")].T
    i, j = np.where(flux[i] >= flux[j], i, j), np.where(flux[i] >= flux[j], j, i)
    dx, dy = x[j] - x[i], y[j] - y[i]
    apart = np.hypot(dx, dy) / fwhm
    merged = apart < 1.1
    pull = np.where(merged, flux[j] / (flux[i] + flux[j]), 0.5 * flux[j] / flux[i] * np.exp(-(apart**2)))
    back = np.where(merged, 0.0, 0.5 * np.minimum(1.0, flux[i] / flux[j] * np.exp(-(apart**2))))
    alone[j[merged]] = False
    shift = np.zeros((2, x.size))
    for axis, d in enumerate((dx, dy)):
        np.add.at(shift[axis], i, pull * d)
        np.add.at(shift[axis], j, -back * d)
    return x + np.clip(shift[0], -fwhm, fwhm), y + np.clip(shift[1], -fwhm, fwhm), alone


def add_false(rng: np.random.Generator, kind: Kind, seen: Seen, live: Edge) -> tuple[Seen, float]:
    """Galaxies, and false detections, 0 to 30 % of the real ones: anywhere, about bright stars, on lines, on columns."""
    n = seen.x.size
    share = rng.uniform(0, 0.3)
    n_false, n_galaxies = int(share * n), int(rng.uniform(0, kind.galaxies) * n)
    x, y = artefacts(rng, n_false, seen)
    gx, gy = rng.uniform(0, SHAPE[1] - 1, n_galaxies), rng.uniform(0, SHAPE[0] - 1, n_galaxies)
    faint = 5 * 10 ** rng.exponential(0.25, n_galaxies)
    snr = np.append(rng.choice(seen.snr, n_false) if n else np.zeros(0), faint)
    unit = np.median(seen.flux / seen.snr) if n else 1.0
    made = np.full(n_false + n_galaxies, -1)
    x, y = np.concatenate([seen.x, x, gx]), np.concatenate([seen.y, y, gy])
    flux, star = np.concatenate([seen.flux, snr * unit]), np.concatenate([seen.star, made])
    ratio, clean = np.concatenate([seen.snr, snr]), np.concatenate([seen.clean, made >= 0])
    order = rng.permutation(np.flatnonzero(live.holds(x, y)))
    return Seen(x[order], y[order], flux[order], ratio[order], star[order], clean[order]), share


def artefacts(rng: np.random.Generator, n: int, seen: Seen) -> tuple[F64, F64]:
    """Places of n false detections."""
    ny, nx = SHAPE
    x, y = rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n)
    sort = rng.choice(4, n, p=rng.dirichlet(np.ones(4)))
    column, trail, near = sort == 1, sort == 2, (sort == 3) & (seen.x.size > 10)
    x[column] = rng.uniform(0, nx - 1, 3)[rng.integers(0, 3, column.sum())]
    y[trail] = np.clip(rng.uniform(-1, 1) * (x[trail] - nx / 2) + ny / 2 + rng.normal(0, 2, trail.sum()), 0, ny - 1)
    if near.any():
        hosts = np.argsort(-seen.flux)[rng.integers(0, 10, near.sum())]
        distance, angle = rng.uniform(4, 40, near.sum()), rng.uniform(0, 2 * np.pi, near.sum())
        x[near] = np.clip(seen.x[hosts] + distance * np.cos(angle), 0, nx - 1)
        y[near] = np.clip(seen.y[hosts] + distance * np.sin(angle), 0, ny - 1)
    return x, y


def draw_catalog(rng: np.random.Generator, kind: Kind, sky: Sky) -> NDArray[np.bool_]:
    """Which stars the catalog lists: up to 30 % are missing; where crowded, up to 60 % at the faint end."""
    missing = np.full(sky.ra.size, rng.uniform(0, 0.3))
    if kind.n_stars[0] > 1e4 or kind.cluster:
        missing = np.maximum(missing, 0.6 * np.clip((sky.gmag - sky.gmag.max() + 1.5) / 1.5, 0, 1))
    return rng.random(sky.ra.size) > missing


def gaia_table(rng: np.random.Generator, sky: Sky, listed: NDArray[np.bool_]) -> NDArray[np.void]:
    """Catalog rows of the listed stars, with errors; 1 % have moved by up to an arcsec in a way the catalog misses."""
    rows = np.flatnonzero(listed)
    columns = ("ra", "f8"), ("dec", "f8"), ("ra_error", "f4"), ("dec_error", "f4"), ("gmag", "f4")
    table = np.zeros(rows.size, [("source_id", "i8"), *columns])
    error = 0.05 * 10 ** (0.2 * np.clip(sky.gmag[rows] - 13, 0, 8))
    stray = np.where(rng.random(rows.size) < 0.01, 400.0, 0.0)
    east, north = rng.normal(0, error + stray, (2, rows.size)) / 3.6e6
    table["source_id"], table["gmag"] = rows, sky.gmag[rows]
    table["dec"] = sky.dec[rows] + north
    table["ra"] = (sky.ra[rows] + east / np.cos(np.radians(sky.dec[rows]))) % 360
    table["ra_error"] = table["dec_error"] = error
    return table


def make_guess(rng: np.random.Generator, ra0: float, dec0: float) -> tuple[WCS, tuple[float, float]]:
    """A raw header: linear, off by up to 2 arcmin, turned by up to 1 deg, scale off by up to 0.3 %."""
    distance, angle = 2.0 / 60 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    ra, dec = around(ra0, dec0, np.array([distance * np.cos(angle)]), np.array([distance * np.sin(angle)]))
    turn, scale = np.radians(rng.uniform(-1, 1)), -PIXEL_DEG * rng.uniform(0.997, 1.003)
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRPIX1": (SHAPE[1] + 1) / 2, "CRPIX2": (SHAPE[0] + 1) / 2, "CRVAL1": float(ra[0]), "CRVAL2": float(dec[0]),
        "CD1_1": scale * np.cos(turn), "CD1_2": -scale * np.sin(turn),
        "CD2_1": scale * np.sin(turn), "CD2_2": scale * np.cos(turn),
    }  # fmt: skip
    return WCS(fits.Header(cards)), (float(ra[0]), float(dec[0]))


def separation_deg(ra: F64, dec: F64, ra0: float, dec0: float) -> F64:
    """Angles from a position, deg."""
    chord = np.linalg.norm(vectors(ra, dec) - vectors(ra0, dec0)[:, None], axis=0)
    return np.degrees(2 * np.arcsin(np.minimum(1.0, chord / 2)))


def other_sky(quadrant: Quadrant, rng: np.random.Generator) -> None:
    """The telescope pointed elsewhere: the catalog is that of the header, the stars are not."""
    kind = replace(quadrant.kind, spoil="", n_stars=(len(quadrant.x), len(quadrant.x) + 1))
    other = draw_sky(rng, kind, len(quadrant.x), *quadrant.field)
    quadrant.gaia = gaia_table(rng, other, draw_catalog(rng, kind, other))


def scrambled(quadrant: Quadrant, rng: np.random.Generator) -> None:
    """Detections that are no stars at all."""
    quadrant.x, quadrant.y = (rng.uniform(0, size - 1, len(quadrant.x)) for size in SHAPE[::-1])


def only_artefacts(quadrant: Quadrant, rng: np.random.Generator) -> None:
    """Columns, trails, bunches: a shutter that stayed shut."""
    n = len(quadrant.x)
    empty = Seen(*(np.zeros(0) for _ in range(4)), np.zeros(0, np.int64))
    quadrant.x, quadrant.y = artefacts(rng, n, empty)
    bunch = rng.random(n) < 0.5
    centres = rng.uniform(0, 3000, (2, 6))[:, rng.integers(0, 6, n)]
    quadrant.x = np.where(bunch, np.clip(centres[0] + rng.normal(0, 8, n), 0, 3071), quadrant.x)
    quadrant.y = np.where(bunch, np.clip(centres[1] + rng.normal(0, 8, n), 0, 3079), quadrant.y)


def torn(quadrant: Quadrant, rng: np.random.Generator) -> None:
    """Half of the image read out with an offset."""
    moved = quadrant.y > rng.uniform(0.4, 0.6) * SHAPE[0]
    quadrant.x = np.where(moved, quadrant.x + rng.choice([-1, 1]) * rng.uniform(8, 60), quadrant.x)


SPOILERS: dict[str, Callable[[Quadrant, np.random.Generator], None]] = {
    "other_sky": other_sky, "scrambled": scrambled, "artefacts": only_artefacts, "torn": torn,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one quadrant; errors in mas, NaN where nothing was served."""

    kind: str
    seed: int
    visible: int
    n_detections: int
    n_catalog: int
    false_share: float
    served: bool
    wrong: bool
    must_fail: bool
    reason: str
    cpu_s: float
    rms_mas: float = float("nan")
    worst_mas: float = float("nan")
    predicted_mas: float = float("nan")
    predicted_worst_mas: float = float("nan")

    @property
    def lost(self) -> bool:
        """Not solved though 30 catalog stars or more are visible."""
        return not self.served and not self.must_fail and self.visible >= VISIBLE_ENOUGH


def attempt(quadrant: Quadrant, config: AstrometryConfig) -> tuple[AstrometricSolution | None, str, float]:
    """Solve: solution or None, reason of the failure, CPU seconds."""
    start = time.process_time()
    try:
        solution = solve(
            quadrant.x, quadrant.y, quadrant.flux, SHAPE, quadrant.guess, quadrant.gaia, config, snr=quadrant.snr,
            fwhm_px=quadrant.fwhm_px,
        )  # fmt: skip
    except AstrometryFailed as error:
        return None, error.message, time.process_time() - start
    return solution, "", time.process_time() - start


def judge(kind: Kind, seed: int, config: AstrometryConfig, size: float = 1.0) -> Outcome:
    """Make one quadrant, solve it and compare with the truth."""
    quadrant = make_quadrant(kind, seed, size)
    solution, reason, cpu = attempt(quadrant, config)
    known = (
        kind.name, seed, quadrant.visible, len(quadrant.x), len(quadrant.gaia), quadrant.false_share,
        solution is not None,
    )  # fmt: skip
    must_fail = bool(kind.spoil)
    if solution is None:
        return Outcome(*known, False, must_fail, reason, cpu)
    errors = quadrant.errors_mas(solution.wcs)
    worst = float(np.hypot(*errors.T).max())
    unseen = float(np.hypot(*quadrant.errors_mas(solution.wcs, dead=True).T).max())
    wrong = must_fail or worst > 1e3 * WRONG_ARCSEC or unseen > 1e3 * WRONG_UNSEEN_ARCSEC
    return Outcome(
        *known, wrong, must_fail, reason, cpu, float(np.sqrt((errors**2).mean())),
        worst, solution.predicted_error_mas, solution.predicted_corner_error_mas,
    )  # fmt: skip


def campaign(first_seed: int, quadrants: int, config: AstrometryConfig, size: float = 1.0) -> list[Outcome]:
    """All kinds in their shares, and wrong ones besides."""
    jobs = [
        (kind, max(1, round(share * quadrants / sum(SHARES))))
        for kind, share in zip(KINDS + WRONG_KINDS, SHARES + (12,) * len(WRONG_KINDS), strict=True)
    ]
    return [judge(kind, first_seed + k, config, size) for kind, number in jobs for k in range(number)]


def table(outcomes: list[Outcome]) -> str:
    """The result by kind, one line each."""
    lines = [
        f"{'kind':26} {'n':>4} {'visible':>15} {'solved':>6} {'named':>6} {'lost':>5} {'wrong':>5} "
        f"{'rms mas: median, largest':>25} {'worst place':>12} {'CPU s: median, largest':>23}"
    ]
    for name in dict.fromkeys(o.kind for o in outcomes):
        lines.append(_line(name, [o for o in outcomes if o.kind == name]))
    for name, must_fail in (("all that can be solved", False), ("all that must fail", True)):
        if some := [o for o in outcomes if o.must_fail == must_fail]:
            lines.append(_line(name, some))
    return "\n".join(lines)


def _line(name: str, some: list[Outcome]) -> str:
    """One line of the table."""
    visible = [o.visible for o in some]
    served = [o for o in some if o.served and not o.must_fail]
    rms, worst = [o.rms_mas for o in served] or [np.nan], [o.worst_mas for o in served] or [np.nan]
    cpu = [o.cpu_s for o in some]
    return (
        f"{name:26} {len(some):4d} {min(visible):7d}-{max(visible):<7d} {sum(o.served for o in some):6d} "
        f"{sum(not o.served for o in some):6d} {sum(o.lost for o in some):5d} {sum(o.wrong for o in some):5d} "
        f"{np.median(rms):14.1f} {max(rms):10.1f} {max(worst):12.0f} {np.median(cpu):14.3f} {max(cpu):8.3f}"
    )


def summary(outcomes: list[Outcome]) -> dict[str, float]:
    """The numbers that the marks are about."""
    enough = [o for o in outcomes if not o.must_fail and o.visible >= VISIBLE_ENOUGH]
    return {
        "quadrants": float(sum(not o.must_fail for o in outcomes)),
        "must_fail": float(sum(o.must_fail for o in outcomes)),
        "wrong_served": float(sum(o.wrong for o in outcomes)),
        "visible_30_or_more": float(len(enough)),
        "solved_percent": 100.0 * sum(o.served for o in enough) / max(1, len(enough)),
    }


def main(first_seed: int = 1000, quadrants: int = 200) -> int:
    """Print the table, write the report; exit status 1 if a wrong solution was served or too many were lost."""
    outcomes = campaign(first_seed, quadrants, AstrometryConfig())
    numbers = summary(outcomes)
    print(table(outcomes))
    for o in outcomes:
        if o.lost or o.wrong:
            verdict = "WRONG" if o.wrong else "lost"
            print(f"{verdict}: {o.kind}, seed {o.seed}, {o.visible} visible: {o.reason} {o.worst_mas:.0f} mas")
    print(", ".join(f"{name} {value:g}" for name, value in numbers.items()))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    rows = [vars(o) for o in outcomes]
    REPORT.write_text(json.dumps({"first_seed": first_seed, **numbers, "outcomes": rows}, indent=1))
    return int(numbers["wrong_served"] > 0 or numbers["solved_percent"] < 99.5)


if __name__ == "__main__":
    sys.exit(main(*(int(a) for a in sys.argv[1:3])))
