"""Nearest catalog sources of each candidate: reference image, Gaia, PS1, known Solar-System objects."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ztfds.config.difference import CandidateConfig
from ztfds.difference.candidates import NEIGHBOURS

NONE = -999.0
"""Value of a distance or magnitude that does not exist."""
NO_NAME = "null"
"""Name of a Solar-System object that does not exist: a text, as in real packets."""


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(n, 3) unit vectors of sky positions in deg."""
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]).reshape(-1, 3)


def chord(arcsec: float) -> float:
    """Length of the chord of an angle on the unit sphere."""
    return float(2 * np.sin(np.radians(arcsec / 3600) / 2))


def angle(chords: np.ndarray) -> np.ndarray:
    """Angle, arcsec, of chords on the unit sphere (infinite stays infinite)."""
    size = np.where(np.isfinite(chords), chords, 0.0)
    return np.where(np.isfinite(chords), 3600 * np.degrees(2 * np.arcsin(np.clip(size / 2, 0, 1))), np.inf)


def _tree(catalog: np.ndarray) -> cKDTree:
    """Tree of a catalog; for a few hundred look-ups one that is quickly made beats one that is quickly searched."""
    return cKDTree(unit_vectors(catalog["ra"], catalog["dec"]), balanced_tree=False, compact_nodes=False)


def _nearest(at: np.ndarray, catalog: np.ndarray, k: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances (arcsec, inf if none) and rows of the k nearest catalog entries, each (n, k)."""
    if not len(catalog):
        return np.full((len(at), k), np.inf), np.zeros((len(at), k), int)
    tree = _tree(catalog)
    chords, rows = tree.query(at, k=list(range(1, k + 1)), distance_upper_bound=chord(radius))
    return angle(chords), np.where(np.isfinite(chords), rows, 0)


def add_reference(table: np.ndarray, psfcat: np.ndarray, magzp: float, pixel_scale: float) -> None:
    """Fill distnr (px), magnr, sigmagnr, chinr, sharpnr, ranr, decnr from the reference's PSF catalog.

    Parameters
    ----------
    table : candidate table, changed in place
    psfcat : structured array
        ra, dec (deg), mag (instrumental), sigmag, chi, sharp.
    magzp : float
        Zero point of the reference, mag.
    pixel_scale : float
        arcsec per pixel.
    """
    names = {"magnr": "mag", "sigmagnr": "sigmag", "chinr": "chi", "sharpnr": "sharp", "ranr": "ra", "decnr": "dec"}
    for name in ("distnr", *names):
        table[name] = NONE
    if not len(psfcat) or not len(table):
        return
    distance, row = _nearest(unit_vectors(table["ra"], table["dec"]), psfcat, 1, 3600.0)
    found, row = np.isfinite(distance[:, 0]), row[:, 0]
    table["distnr"][found] = distance[found, 0] / pixel_scale
    for name, column in names.items():
        table[name][found] = psfcat[column][row[found]]
    table["magnr"][found] += np.float32(magzp)


def add_gaia(table: np.ndarray, gaia: np.ndarray, config: CandidateConfig) -> None:
    """Fill neargaia, maggaia and the same for bright sources."""
    at = unit_vectors(table["ra"], table["dec"])
    with np.errstate(invalid="ignore"):
        bright = gaia[gaia["gmag"] < config.gaia_bright_mag] if len(gaia) else gaia
    for suffix, catalog in (("", gaia), ("bright", bright)):
        distance, row = _nearest(at, catalog, 1, config.gaia_radius_arcsec)
        found = np.isfinite(distance[:, 0])
        table[f"neargaia{suffix}"] = np.where(found, distance[:, 0], NONE)
        table[f"maggaia{suffix}"] = NONE
        table[f"maggaia{suffix}"][found] = catalog["gmag"][row[found, 0]] if found.any() else NONE


def add_ps1(table: np.ndarray, ps1: np.ndarray, config: CandidateConfig) -> None:
    """Fill the three nearest PS1 sources and the number of all within the radius."""
    at = unit_vectors(table["ra"], table["dec"])
    distance, row = _nearest(at, ps1, len(NEIGHBOURS), config.ps1_radius_arcsec)
    for k in NEIGHBOURS:
        found = np.isfinite(distance[:, k - 1])
        source = row[found, k - 1]
        table[f"distpsnr{k}"] = np.where(found, distance[:, k - 1], NONE)
        table[f"objectidps{k}"] = int(NONE)
        table[f"objectidps{k}"][found] = ps1["objid"][source] if found.any() else int(NONE)
        columns = {"sgmag": "g", "srmag": "r", "simag": "i", "szmag": "z", "sgscore": "sgscore"}
        for name, column in columns.items():
            table[f"{name}{k}"] = NONE
            if found.any():
                values = np.asarray(ps1[column][source], float)
                table[f"{name}{k}"][found] = np.where(np.isfinite(values), values, NONE)
    if len(ps1) and len(table):
        tree = _tree(ps1)
        radius = chord(config.ps1_radius_arcsec)
        table["nmtchps"] = tree.query_ball_point(at, radius, return_length=True)


def add_known(table: np.ndarray, known: np.ndarray | None, config: CandidateConfig) -> None:
    """Fill ssdistnr (arcsec), ssmagnr, ssnamenr from the known Solar-System objects on the image.

    Parameters
    ----------
    table : candidate table, changed in place
    known : structured array or None
        ra, dec (deg, at the middle of the exposure), mag (predicted V), name; None is the same as none there.
    config : CandidateConfig
    """
    table["ssdistnr"], table["ssmagnr"], table["ssnamenr"] = NONE, NONE, NO_NAME
    if known is None or not len(known) or not len(table):
        return
    distance, row = _nearest(unit_vectors(table["ra"], table["dec"]), known, 1, config.known_radius_arcsec)
    found, row = np.isfinite(distance[:, 0]), row[:, 0]
    table["ssdistnr"][found] = distance[found, 0]
    table["ssmagnr"][found] = known["mag"][row[found]]
    table["ssnamenr"][found] = known["name"][row[found]]
