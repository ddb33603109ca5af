"""Forced photometry of a quadrant's alerts on its earlier difference images: each image is opened once for all of them.

Nothing here can lose an alert: an image that is missing or damaged gives rows with a status code, and a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ztfds.alerts import forced
from ztfds.alerts.history import visible
from ztfds.astrometry.tpv import Distortion
from ztfds.config.alerts import ForcedConfig
from ztfds.difference.neighbours import add_reference
from ztfds.difference.products import DifferenceProducts
from ztfds.formats.images import read_image
from ztfds.formats.sections import open_sections
from ztfds.formats.tables import read_psfcat
from ztfds.reference.grid import number, wcs_of
from ztfds.registry import candidates
from ztfds.survey import ids
from ztfds.survey.errors import BadData, FilesMissing, StoreDown

log = logging.getLogger(__name__)

Row = dict[str, Any]
_FROM_HEADER = {
    "sciinpseeing": ("SEEING", 1.0),
    "scibckgnd": ("MEDSKY", 1.0),
    "scisigpix": ("SKYSIG", 1.0),
    "adpctdif1": ("ASTRRMS1", 3600.0),
    "adpctdif2": ("ASTRRMS2", 3600.0),
}
"""Fields that the header of a difference image knows: keyword, and factor to the packet's unit."""
_FROM_TABLE = (
    "field", "rcid", "fid", "pid", "magzpsci", "magzpsciunc", "magzpscirms", "clrcoeff", "clrcounc", "exptime",
    "diffmaglim", "programid", "jd", "released",
)  # fmt: skip
_NEIGHBOUR = ("distnr", "ranr", "decnr", "magnr", "sigmagnr", "chinr", "sharpnr")


def forced_photometry(
    dsn: str,
    archive: Path,
    made: DifferenceProducts,
    wanted: Sequence[int],
    earlier: Sequence[Sequence[Mapping[str, Any]]],
    config: ForcedConfig,
) -> dict[int, list[Row]]:
    """Measure candidates on the difference images that covered them before.

    Parameters
    ----------
    dsn : str
    archive : Path
        Root of the archive.
    made : DifferenceProducts
        The present difference image.
    wanted : sequence of int
        Rows of its candidates that become alerts.
    earlier : sequence of sequences of mappings
        For every candidate the rows of `diffimages` that covered it (`registry.candidates.covering`).
    config : ForcedConfig

    Returns
    -------
    dict of int to list of dict
        By row: what goes into ``fp_hists``, oldest first; only images that the audience of the present program may see are
        opened at all. Empty when it is switched off.
    """
    if not config.enabled or not len(wanted):
        return {}
    epochs = _epochs(made, wanted, earlier, config)
    files = candidates.difference_files(dsn, [int(image["pid"]) for image, _ in epochs])
    catalogs = candidates.reference_catalogs(dsn, sorted({int(i["reference_id"] or 0) for i, _ in epochs}))
    found: dict[int, list[Row]] = {row: [] for row in wanted}
    nearest: dict[int, list[Row]] = {}
    for image, rows in epochs:
        reference = int(image["reference_id"] or 0)
        if reference not in nearest:
            nearest[reference] = _nearest(archive, catalogs.get(reference), made.candidates, config)
        for row, values in zip(rows, _epoch(archive, files, image, made.candidates[rows], config), strict=True):
            found[row].append({**values, **nearest[reference][row]})
    return found


def _epochs(
    made: DifferenceProducts,
    wanted: Sequence[int],
    earlier: Sequence[Sequence[Mapping[str, Any]]],
    config: ForcedConfig,
) -> list[tuple[Mapping[str, Any], list[int]]]:
    """The earlier images that may be used, oldest first, each with the candidates that it covered."""
    table = made.candidates
    jd, program = float(table["jd"][0]), int(table["programid"][0])
    images: dict[int, tuple[Mapping[str, Any], list[int]]] = {}
    for row in wanted:
        for image in visible(earlier[row], program):
            if jd - config.history_days <= image["jd"] < jd:
                images.setdefault(int(image["pid"]), (image, []))[1].append(row)
    ordered = sorted(images.values(), key=lambda epoch: (epoch[0]["jd"], epoch[0]["pid"]))
    if len(ordered) > config.max_epochs:
        log.info("forced photometry on the latest %d of %d images", config.max_epochs, len(ordered))
    return ordered[-config.max_epochs :]


def _epoch(
    archive: Path,
    files: Mapping[int, Mapping[str, Mapping[str, Any]]],
    image: Mapping[str, Any],
    table: np.ndarray,
    config: ForcedConfig,
) -> list[Row]:
    """Rows of one image for some candidates."""
    base = {name: image.get(name) for name in _FROM_TABLE}
    base["rfid"] = ids.rfid(int(image["field"]), int(image["fid"]), int(image["rcid"]))
    try:
        known, measured = _measured(archive, files[int(image["pid"])], table, config)
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # damaged headers make the readers raise anything; an alert must not wait for them
        log.warning("no forced photometry on difference image %s: %s", image["pid"], error)
        return [{**base, "procstatus": forced.FATAL} for _ in table]
    return [{**base, **known, **one} for one in measured]


def _measured(
    archive: Path, files: Mapping[str, Mapping[str, Any]], table: np.ndarray, config: ForcedConfig
) -> tuple[Row, list[Row]]:
    """What the header of one image says, and flux, error and status at each position."""
    stored = files["scimrefdiffimg"]
    keywords = ("GAIN", *(keyword for keyword, _ in _FROM_HEADER.values()))
    image = open_sections(archive / stored["path"], keywords, int(stored["bytes"]))
    psf = read_image(archive / files["diffimgpsf"]["path"])[0]
    x, y = sky_to_pixel(image.header, table["ra"], table["dec"])
    row, column = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    stamps = image.stamps(row, column, config.stamp_half_px)
    flux = forced.measure(stamps, psf, y - row, x - column, number(image.header, "GAIN", np.nan), config)
    margin = config.box_half_px
    inside = (row >= margin) & (column >= margin)
    inside &= (row < image.shape[0] - margin) & (column < image.shape[1] - margin)
    known = {name: number(image.header, keyword, np.nan) * factor for name, (keyword, factor) in _FROM_HEADER.items()}
    return known, [
        {"forcediffimflux": flux.flux[k], "forcediffimfluxunc": flux.error[k], "procstatus": flux.status[k]}
        if inside[k]
        else {"procstatus": forced.OFF_IMAGE}
        for k in range(len(table))
    ]


def sky_to_pixel(header: Mapping[str, Any], ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0-based pixels (x, y) of sky positions in deg: quickly through the survey's own kind of header, else by astropy."""
    if (own := Distortion.of_header(header)) is not None:
        x, y = own.pixels(ra, dec)
        if np.isfinite(x).all():
            return x, y
    x, y = wcs_of(fits.Header(header)).all_world2pix(ra, dec, 0)
    return np.asarray(x), np.asarray(y)


def _nearest(archive: Path, path: str | None, table: np.ndarray, config: ForcedConfig) -> list[Row]:
    """The nearest source of one reference catalog to every candidate; nothing where none is near or it cannot be read."""
    empty: list[Row] = [{} for _ in table]
    try:
        catalog, magzp = _catalog(str(archive / path)) if path else (None, np.nan)
    except (FilesMissing, StoreDown, BadData, OSError, ValueError, KeyError) as error:
        log.warning("no reference sources for forced photometry: %s", error)
        return empty
    if catalog is None:
        return empty
    reach = config.reference_reach_arcsec / 3600.0
    close = np.zeros(len(catalog), bool)
    for dec in np.asarray(table["dec"], float):
        close |= np.abs(catalog["dec"] - dec) <= 2 * reach  # more than the reach: the nearest may lie beyond it
    found = np.zeros(len(table), [(name, "f8") for name in ("ra", "dec", *_NEIGHBOUR)])
    found["ra"], found["dec"] = table["ra"], table["dec"]
    add_reference(found, catalog[close], magzp, 1.0)  # one arcsec a pixel: fp_hists wants arcsec
    turn = (found["ranr"] - found["ra"] + 180.0) % 360.0 - 180.0
    near = (found["distnr"] >= 0) & (np.abs(found["decnr"] - found["dec"]) <= reach)
    near &= np.abs(turn) * np.cos(np.radians(found["dec"])) <= reach
    return [{name: float(found[name][k]) for name in _NEIGHBOUR} if near[k] else {} for k in range(len(table))]


@lru_cache(maxsize=8)
def _catalog(path: str) -> tuple[np.ndarray, float]:
    """PSF catalog of a reference, and its zero point; files in the archive never change."""
    catalog, header = read_psfcat(path)
    return catalog, number(header, "MAGZP", np.nan)
