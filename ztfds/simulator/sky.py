"""The static sky: stars and galaxies anywhere, made tile by tile from a seed, and how many there are of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ztfds.simulator.config import SkyConfig

STAR = np.dtype(
    [
        ("id", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("pmra", "f4"),
        ("pmdec", "f4"),
        ("g", "f4"),
        ("r", "f4"),
        ("i", "f4"),
        ("z", "f4"),
        ("gaia", "f4"),
        ("var_kind", "u1"),
        ("var_amp", "f4"),
        ("var_period", "f4"),
        ("var_phase", "f4"),
    ]
)
GALAXY = np.dtype(
    [
        ("id", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("g", "f4"),
        ("r", "f4"),
        ("i", "f4"),
        ("z", "f4"),
        ("re", "f4"),
        ("axis", "f4"),
        ("pa", "f4"),
        ("sersic", "u1"),
    ]
)
TILE_DEG = 0.25
CATALOG_EPOCH_JD = 2457206.375  # 2015.5, the epoch of the Gaia-like positions
_BRIGHTEST = 5.0
# Rotation from ICRS to Galactic axes (Hipparcos catalogue, ESA SP-1200, vol. 1, eq. 1.5.11).
_GALACTIC = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [0.4941094279, -0.4448296300, 0.7469822445],
        [-0.8676661490, -0.1980763734, 0.4559837762],
    ]
)


def unit_vectors(ra: NDArray[np.float64] | float, dec: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Unit vectors (..., 3) of positions in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def separation_deg(
    ra1: NDArray[np.float64] | float,
    dec1: NDArray[np.float64] | float,
    ra2: NDArray[np.float64] | float,
    dec2: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Great-circle distance in degrees (chord formula, exact at small angles)."""
    chord = np.linalg.norm(unit_vectors(ra1, dec1) - unit_vectors(ra2, dec2), axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def galactic(ra: float, dec: float) -> tuple[float, float]:
    """Galactic longitude and latitude in degrees."""
    v = _GALACTIC @ unit_vectors(ra, dec)
    return float(np.degrees(np.arctan2(v[1], v[0])) % 360.0), float(np.degrees(np.arcsin(v[2])))


def star_density(gal_l: float, gal_b: float) -> float:
    """Stars per deg2 brighter than r = 20.5 at a Galactic position.

    A cosecant law steepened to match the contrast of real counts (2,300 at the pole, about 40,000 at b = 10 deg),
    rounded off in the plane, with the inner Galaxy above and the anticentre below the mean.
    """
    csc = 1.0 / np.hypot(np.sin(np.radians(gal_b)), 0.09)
    centre = 1.0 + 0.7 * np.cos(np.radians(gal_l)) * np.exp(-abs(gal_b) / 20.0)
    return float(2300.0 * csc**1.6 * centre)


def reddening(gal_b: float) -> float:
    """E(B-V) in mag of a plane-parallel dust layer, capped at 1."""
    return float(min(1.0, 0.03 / max(abs(np.sin(np.radians(gal_b))), 0.03)))


def _slope(mag: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    """d log10 N / dm of star counts; steeper at the faint end where the Galaxy is deep."""
    faint = 0.20 + 0.12 * np.clip(np.log10(density / 2300.0) / 1.6, 0.0, 1.0)
    return np.interp(mag, [9.0, 13.0, 16.0, 19.0], [0.40, 0.34, 0.25, faint])


def _draw_mags(
    rng: np.random.Generator, density: float, area: float, bright: float, faint: float, shift: float
) -> NDArray[np.float64]:
    """Draw star magnitudes whose cumulative density at 20.5 is `density` per deg2, over `area` deg2."""
    grid = np.arange(_BRIGHTEST, faint + shift + 0.05, 0.05)
    log_n = np.concatenate([[0.0], np.cumsum(_slope(grid[:-1] + 0.025, density) * 0.05)])
    log_n += np.log10(density) - np.interp(20.5 + shift, grid, log_n)
    grid = grid - shift
    counts = 10.0**log_n
    low = float(np.interp(bright, grid, counts))
    n = rng.poisson((counts[-1] - low) * area)
    return np.interp(rng.uniform(low, counts[-1], n), counts, grid)


def _star_colours(rng: np.random.Generator, r: NDArray[np.float64], red: float) -> tuple[NDArray[np.float64], ...]:
    """g-r, r-i, i-z along the stellar locus: a turn-off peak, and M dwarfs that take over at the faint end."""
    n = r.size
    m_dwarf = rng.random(n) < np.interp(r, [13.0, 17.0, 21.0], [0.05, 0.25, 0.55])
    gr = np.where(m_dwarf, rng.normal(1.38, 0.12, n), 0.35 + rng.gamma(2.2, 0.14, n)) + 0.9 * red
    extra = np.where(m_dwarf, rng.gamma(2.0, 0.30, n), 0.0)
    ri = 0.36 * gr - 0.03 + extra + rng.normal(0, 0.02, n)
    return gr, ri, 0.55 * ri + 0.02 + rng.normal(0, 0.02, n)


def _tile_positions(rng: np.random.Generator, band: int, cell: int, n: int) -> tuple[NDArray[np.float64], ...]:
    """Uniform positions on the sphere inside one tile."""
    low, high = np.sin(np.radians([band * TILE_DEG - 90.0, (band + 1) * TILE_DEG - 90.0]))
    width = 360.0 / _cells(band)
    return (cell + rng.random(n)) * width, np.degrees(np.arcsin(rng.uniform(low, high, n)))


def _cells(band: int) -> int:
    middle = (band + 0.5) * TILE_DEG - 90.0
    return max(1, int(360.0 * np.cos(np.radians(middle)) / TILE_DEG))


def _tile_area(band: int) -> float:
    low, high = np.sin(np.radians([band * TILE_DEG - 90.0, (band + 1) * TILE_DEG - 90.0]))
    return float((high - low) * np.degrees(1.0) * 360.0 / _cells(band))


def _tile_id(band: int, cell: int) -> int:
    return band * 1500 + cell


def _stars_of_tile(seed: int, band: int, cell: int, config: SkyConfig) -> NDArray[np.void]:
    rng = np.random.default_rng([seed, 1, band, cell])
    gal_l, gal_b = galactic((cell + 0.5) * 360.0 / _cells(band), (band + 0.5) * TILE_DEG - 90.0)
    density = config.star_density_per_deg2 or star_density(gal_l, gal_b)
    r = _draw_mags(
        rng,
        density,
        _tile_area(band),
        config.star_bright_limit_mag,
        config.faint_limit_mag,
        config.star_bright_shift_mag,
    )
    out = np.zeros(r.size, STAR)
    out["id"] = _tile_id(band, cell) * 1_000_000 + np.arange(r.size)
    out["ra"], out["dec"] = _tile_positions(rng, band, cell, r.size)
    gr, ri, iz = _star_colours(rng, r, reddening(gal_b))
    out["r"], out["g"], out["i"], out["z"] = r, r + gr, r - ri, r - ri - iz
    out["gaia"] = out["g"] - 0.06 - 0.42 * gr - 0.12 * gr**2
    speed = rng.lognormal(np.log(6.0), 0.9, r.size) * np.interp(r, [12.0, 20.0], [2.0, 0.8])
    angle = rng.uniform(0, 2 * np.pi, r.size)
    out["pmra"], out["pmdec"] = speed * np.cos(angle), speed * np.sin(angle)
    _add_variability(rng, out, config.variable_fraction)
    return out


def _add_variability(rng: np.random.Generator, stars: NDArray[np.void], fraction: float) -> None:
    """Give a fraction of the stars a period (d), an amplitude (mag) and a kind: 1 sine, 2 sawtooth, 3 eclipses."""
    n = stars.size
    chosen = rng.random(n) < fraction
    stars["var_kind"] = np.where(chosen, rng.integers(1, 4, n), 0)
    stars["var_amp"] = np.where(chosen, np.clip(rng.lognormal(np.log(0.3), 0.6, n), 0.05, 1.2), 0.0)
    stars["var_period"] = 10.0 ** rng.uniform(-1.0, 1.5, n)
    stars["var_phase"] = rng.random(n)


def variability(stars: NDArray[np.void], jd: float) -> NDArray[np.float64]:
    """Magnitude offset (mag, positive = fainter) of each star at a Julian date."""
    phase = (stars["var_phase"] + (jd - 2459000.5) / stars["var_period"]) % 1.0
    sine = 0.5 * np.sin(2 * np.pi * phase)
    saw = np.where(phase < 0.2, 0.5 - 5.0 * phase, -0.5 + 1.25 * (phase - 0.2))
    eclipse = np.where(np.abs(phase - 0.5) < 0.06, 1.0, 0.0)
    shape = np.choose(stars["var_kind"], [np.zeros(stars.size), sine, saw, eclipse])
    return stars["var_amp"] * shape


def _galaxies_of_tile(seed: int, band: int, cell: int, config: SkyConfig) -> NDArray[np.void]:
    rng = np.random.default_rng([seed, 2, band, cell])
    _, gal_b = galactic((cell + 0.5) * 360.0 / _cells(band), (band + 0.5) * TILE_DEG - 90.0)
    red = 0.0 if config.star_density_per_deg2 else reddening(gal_b)
    bright, faint = 13.0, config.faint_limit_mag
    # Galaxy counts rise as 10**(0.42 m) here; dust of 2.3 E(B-V) in r moves the sample.
    n = rng.poisson(config.galaxy_density_per_deg2 * 10 ** (0.42 * (faint - 20.5 - 2.3 * red)) * _tile_area(band))
    u = rng.uniform(10 ** (0.42 * (bright - faint)), 1.0, n)
    r = faint + np.log10(u) / 0.42
    out = np.zeros(n, GALAXY)
    out["id"] = (_tile_id(band, cell) + 2_000_000) * 1_000_000 + np.arange(n)
    out["ra"], out["dec"] = _tile_positions(rng, band, cell, n)
    early = rng.random(n) < 0.35
    gr = np.where(early, rng.normal(0.85, 0.10, n), rng.normal(0.50, 0.15, n)) + red
    ri = np.where(early, 0.40, 0.25) + rng.normal(0, 0.05, n)
    out["r"], out["g"], out["i"], out["z"] = r, r + gr, r - ri, r - 1.6 * ri
    out["re"] = np.clip(1.3 * 10 ** (-0.13 * (r - 19.5)) * rng.lognormal(0.0, 0.35, n), 0.3, 20.0)
    out["axis"] = np.where(early, rng.uniform(0.6, 1.0, n), rng.uniform(0.25, 1.0, n))
    out["pa"] = rng.uniform(0, np.pi, n)
    out["sersic"] = np.where(early, 4, 1)
    return out


@lru_cache(maxsize=512)
def _tile(seed: int, band: int, cell: int, config: SkyConfig) -> tuple[NDArray[np.void], NDArray[np.void]]:
    return _stars_of_tile(seed, band, cell, config), _galaxies_of_tile(seed, band, cell, config)


def _tiles_in_cone(ra: float, dec: float, radius: float) -> list[tuple[int, int]]:
    """Tiles that a cone (degrees) may touch."""
    n_bands = int(180 / TILE_DEG)
    first = max(0, int((dec - radius + 90.0) / TILE_DEG))
    last = min(n_bands - 1, int((dec + radius + 90.0) / TILE_DEG))
    out: list[tuple[int, int]] = []
    for band in range(first, last + 1):
        n = _cells(band)
        edge = max(abs(band * TILE_DEG - 90.0), abs((band + 1) * TILE_DEG - 90.0))
        cos = np.cos(np.radians(min(edge, 90.0)))
        reach = 180.0 if cos * 180.0 <= radius * 1.5 else min(180.0, 1.05 * radius / cos)
        if 2 * reach >= 360.0 - 360.0 / n:
            cells = range(n)
        else:
            cells = range(int(np.floor((ra - reach) * n / 360.0)), int(np.floor((ra + reach) * n / 360.0)) + 1)
        out.extend((band, c % n) for c in cells)
    return out


def sky_patch(
    seed: int, ra: float, dec: float, radius_deg: float, config: SkyConfig
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Stars and galaxies within a cone.

    Parameters
    ----------
    seed : int
        The sky: one seed, one sky, whichever cones are asked for.
    ra, dec, radius_deg : float
        Cone, degrees, ICRS.

    Returns
    -------
    stars, galaxies : structured arrays of dtype STAR (epoch 2015.5, mas/yr) and GALAXY (arcsec, radians N over E).
    """
    tiles = [_tile(seed, band, cell, config) for band, cell in _tiles_in_cone(ra, dec, radius_deg)]
    stars = np.concatenate([t[0] for t in tiles])
    galaxies = np.concatenate([t[1] for t in tiles])
    return (
        stars[separation_deg(stars["ra"], stars["dec"], ra, dec) <= radius_deg],
        galaxies[separation_deg(galaxies["ra"], galaxies["dec"], ra, dec) <= radius_deg],
    )


def propagate(stars: NDArray[np.void], jd: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination (degrees) of the stars at a Julian date, moved by their proper motions."""
    years = (jd - CATALOG_EPOCH_JD) / 365.25
    dec = stars["dec"] + stars["pmdec"] * (years / 3.6e6)
    return stars["ra"] + stars["pmra"] * (years / 3.6e6) / np.cos(np.radians(stars["dec"])), dec
