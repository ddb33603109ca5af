"""Smooth calibration products of a CCD: low-frequency flats from the stars of many nights, and lamp corrections from these."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ztfds.calibration.products import CalibrationImage, with_low_frequency
from ztfds.calibration.smooth import (
    CatalogMagnitudes,
    StarObservations,
    judge_map,
    lamp_correction,
    low_frequency_flat,
)
from ztfds.formats.tables import read_psfcat
from ztfds.operations.afternoon import UNUSABLE, Channel, Made, Stacked, judged, readable, register_map
from ztfds.operations.context import Context
from ztfds.operations.storage import reading
from ztfds.registry import calibrations
from ztfds.registry.calibrations import FLAT, LAMP, LOW_FLAT
from ztfds.registry.database import fetch_all
from ztfds.registry.products import Parent, Step
from ztfds.registry.runner import Runner
from ztfds.survey import filters, ids
from ztfds.survey.errors import CalibrationMissing, MissingCatalog
from ztfds.survey.fields import unit_vector

log = logging.getLogger(__name__)

LOW_FLAT_STEP, LAMP_STEP = Step(LOW_FLAT, "1"), Step(LAMP, "1")
MATCH_ARCSEC = 1.0
"""Positions of one star in two epochs, or in the catalog, agree this well."""
MOST_EPOCHS = 60
"""Epochs of a channel and filter, the latest ones: their stars fix the map far better than it stays the same."""
_POINT_SOURCE = 0.5
_CATALOG_ERROR_MAG = 0.02
_MARGIN_DEG = 0.1

_CATALOGS = """
    select p.product_id, p.provenance_id, p.path, p.field, p.exposure, p.meta from products p join exposures e using (exposure)
    where p.kind = 'psfcat' and p.vbest > 0 and p.status = 1 and p.rcid = %(rcid)s and p.fid = %(fid)s
        and p.nid between %(first)s and %(last)s and coalesce((p.meta->>'lampid')::bigint, 0) = %(lampid)s
        and coalesce((p.meta->>'lowflat')::bigint, 0) = %(lowflat)s
    order by e.obsjd desc limit %(most)s"""


@dataclass(frozen=True)
class _Stars:
    """Observations of one channel, with positions (deg) of the stars and what the catalog says of them."""

    observations: StarObservations
    catalog: CatalogMagnitudes | None


def map_response(
    context: Context, night: str, ccdid: int, fid: int, since: str, run_id: str | None = None, attempt: int = 1
) -> list[Made]:
    """Make the low-frequency flats of the four quadrants of a CCD from the PSF catalogs of its good images.

    The images must have been flattened in one way (same lamp correction, same former low-frequency flat): those are taken that
    went with the flat that is valid at the night. A former low-frequency flat is multiplied by what is left.

    Parameters
    ----------
    context : Context
    night : str
        UT date, ``YYYYMMDD``, from which the result is valid, and the last whose images are used.
    ccdid, fid : int
        CCD 1..16, filter.
    since : str
        UT date of the first night whose images are used.
    run_id, attempt : str, int
        Of the orchestrator, for the record.

    Returns
    -------
    list of Made
        One per quadrant; too few stars or epochs, or a map that is refused, is no error.
    """
    runner = context.runner(run_id, attempt)
    channels = [Channel(LOW_FLAT, ids.nid_of_date(night), ccdid, qid, fid) for qid in (1, 2, 3, 4)]
    return [_attempt(channel, lambda c: _map_one(context, runner, c, ids.nid_of_date(since))) for channel in channels]


def correct_lamp(
    context: Context, night: str, ccdid: int, fid: int, run_id: str | None = None, attempt: int = 1
) -> list[Made]:
    """Make the lamp corrections of a CCD from the valid flats and the low-frequency flats that go with them.

    From then on flats are divided by it; the low-frequency flats that belonged to uncorrected ones are no longer applied.

    Returns
    -------
    list of Made
        One per quadrant; where there is no uncorrected flat with a low-frequency flat, the reason.
    """
    runner = context.runner(run_id, attempt)
    channels = [Channel(LAMP, ids.nid_of_date(night), ccdid, qid, fid) for qid in (1, 2, 3, 4)]
    return [_attempt(channel, lambda c: _lamp_one(context, runner, c)) for channel in channels]


def _attempt(channel: Channel, make: Any) -> Made:
    """Make one product; what keeps this quadrant from it is a reason."""
    try:
        made: Made = make(channel)
    except UNUSABLE as error:
        made = channel.not_made(error)
    log.info("rcid %d %s filter %d: %s", made.rcid, made.caltype, made.fid, made.reason)
    return made


def _map_one(context: Context, runner: Runner, channel: Channel, first_nid: int) -> Made:
    """The low-frequency flat of one quadrant."""
    flat_row = calibrations.valid(context.dsn, FLAT, channel.rcid, channel.fid, channel.jd + 1.0)
    former_row = calibrations.low_flat_for(context.dsn, flat_row, channel.jd - 1e-6)
    lampid = calibrations.lamp_of(flat_row)
    about = {
        "rcid": channel.rcid, "fid": channel.fid, "first": first_nid, "last": channel.nid, "most": MOST_EPOCHS,
        "lampid": lampid, "lowflat": former_row["calid"] if former_row else 0,
    }  # fmt: skip
    rows = fetch_all(context.dsn, _CATALOGS, about)
    if not rows and former_row:
        former_row = None
        rows = fetch_all(context.dsn, _CATALOGS, {**about, "lowflat": 0})
    settings = context.config.lowfrequency
    if len(rows) < settings.min_frames:
        raise CalibrationMissing(f"{len(rows)} images with stars, at least {settings.min_frames} are needed")

    def compute() -> Stacked:
        with reading("a PSF catalog", channel.rcid):
            stars = _stars(context, channel.fid, rows)
        low = low_frequency_flat(stars.observations, context.camera.quadrant_shape, settings, stars.catalog)
        if former_row:
            low = _compounded(low, readable(context, former_row))
        low.header["LAMPID"] = (lampid, "lamp correction of the flats it goes with, 0 without")
        return _with_limits(judged(context, channel, low, settings), judge_map(low, settings))

    parents = [Parent.of(row) for row in (*rows, *([former_row["data"]] if former_row else []))]
    return register_map(context, runner, LOW_FLAT_STEP, channel, parents, settings, compute, {"lampid": lampid})


def _compounded(left: CalibrationImage, former: CalibrationImage) -> CalibrationImage:
    """What is left on images that a former low-frequency flat has flattened, times that flat, with mean 1."""
    whole = with_low_frequency(left, former)
    scale = whole.data.mean(dtype=np.float64)
    return replace(whole, data=(whole.data / scale).astype(np.float32), uncertainty=left.uncertainty)


def _lamp_one(context: Context, runner: Runner, channel: Channel) -> Made:
    """The lamp correction of one quadrant."""
    flat_row = calibrations.valid(context.dsn, FLAT, channel.rcid, channel.fid, channel.jd + 1.0)
    low_row = calibrations.low_flat_for(context.dsn, flat_row, channel.jd + 1.0)
    if calibrations.lamp_of(flat_row) or low_row is None:
        raise CalibrationMissing("no uncorrected flat with a low-frequency flat that goes with it")
    settings = context.config.lowfrequency

    def compute() -> Stacked:
        dome, low = readable(context, flat_row), readable(context, low_row)
        lamp = lamp_correction(dome, replace(with_low_frequency(dome, low), qa=low.qa), settings)
        return _with_limits(judged(context, channel, lamp, settings), judge_map(lamp, settings))

    parents = [Parent.of(flat_row["data"]), Parent.of(low_row["data"])]
    return register_map(context, runner, LAMP_STEP, channel, parents, settings, compute, {"lampid": channel.calid})


def _with_limits(stacked: Stacked, reason: str) -> Stacked:
    """Refuse a map that is not known well enough."""
    return replace(stacked, accepted=False, reason=reason) if stacked.accepted and reason else stacked


# -- stars -------------------------------------------------------------------------------------------------------------


def _stars(context: Context, fid: int, rows: Sequence[Mapping[str, Any]]) -> _Stars:
    """Isolated stars of all catalogs, the same star with the same number, and their PS1 magnitudes."""
    parts, positions = [], []
    for epoch, row in enumerate(rows):
        catalog, _ = read_psfcat(context.archive / row["path"])
        good = catalog[(catalog["flags"] == 0) & np.isfinite(catalog["ra"]) & (catalog["snr"] > 0)]
        parts.append((np.full(len(good), epoch), good["xpos"], good["ypos"], good["mag"], good["sigmag"]))
        positions.append(unit_vector(good["ra"], good["dec"]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    star, first = same_stars(positions)
    x, y, mag, sigma = (column.astype(np.float64) for column in columns[1:])
    observations = StarObservations(star, columns[0].astype(np.int64), x, y, mag, sigma)
    return _Stars(observations, _catalog_magnitudes(context, fid, rows, positions, first))


def same_stars(positions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number stars that several lists share.

    Parameters
    ----------
    positions : sequence of (n_k, 3) float64
        Unit vectors, one array per epoch.

    Returns
    -------
    star : (sum of n_k,) int64
        Number of each entry's star; no epoch has one twice (the further is left as a star of its own).
    first : (m, 3) float64
        Where each star was seen first.
    """
    known, numbers = np.empty((0, 3)), [np.empty(0, np.int64)]
    radius = np.deg2rad(MATCH_ARCSEC / 3600.0)
    for found in positions:
        star = np.full(len(found), -1, np.int64)
        if len(known) and len(found):
            tree = cKDTree(known)
            distance, nearest = (np.asarray(part) for part in tree.query(found, distance_upper_bound=radius))
            order = np.argsort(distance, kind="stable")
            order = order[np.isfinite(distance[order])]
            _, unique = np.unique(nearest[order], return_index=True)
            star[order[unique]] = nearest[order[unique]]
        fresh = np.flatnonzero(star < 0)
        star[fresh] = len(known) + np.arange(fresh.size)
        known = np.concatenate([known, found[fresh]])
        numbers.append(star)
    return np.concatenate(numbers), known


def _catalog_magnitudes(
    context: Context,
    fid: int,
    rows: Sequence[Mapping[str, Any]],
    positions: Sequence[np.ndarray],
    stars: np.ndarray,
) -> CatalogMagnitudes | None:
    """PS1 magnitudes of the stars (m, 3) without the colour term, NaN where unknown; None without catalog or colour terms."""
    band = filters.by_fid(fid)
    slopes = [float(row["meta"]["CLRCOEFF"]) for row in rows if row["meta"].get("CLRCOEFF") is not None]
    if not slopes:
        return None
    mag, sigma = np.full(len(stars), np.nan), np.full(len(stars), _CATALOG_ERROR_MAG)
    for field in sorted({row["field"] for row in rows}):
        seen = [found for row, found in zip(rows, positions, strict=True) if row["field"] == field and len(found)]
        try:
            ps1 = _around(context, np.concatenate(seen)) if seen else None
        except MissingCatalog:
            return None
        if ps1 is None:
            continue
        colour = ps1[band.color_bands[0]].astype(float) - ps1[band.color_bands[1]]
        good = (ps1["sgscore"] > _POINT_SOURCE) & np.isfinite(colour + ps1[band.band])
        hit, which = _matched(stars, ps1[good])
        mag[hit] = ps1[band.band][good][which] - float(np.median(slopes)) * colour[good][which]
        sigma[hit] = np.hypot(ps1[f"{band.band}_err"][good][which], _CATALOG_ERROR_MAG)
    return CatalogMagnitudes(mag, sigma)


def _around(context: Context, positions: np.ndarray) -> np.ndarray:
    """PS1 around the quadrant in which stars (n, 3) were seen."""
    x, y, z = np.median(positions, axis=0)
    ra, dec = np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))
    return context.catalog.ps1(float(ra), float(dec), context.camera.radius_deg() + _MARGIN_DEG)


def _matched(stars: np.ndarray, ps1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which stars (m, 3) have a catalog entry, (m,) bool, and the rows of these entries."""
    if not len(ps1):
        return np.zeros(len(stars), bool), np.empty(0, np.int64)
    tree = cKDTree(unit_vector(ps1["ra"], ps1["dec"]))
    distance, nearest = tree.query(stars, distance_upper_bound=np.deg2rad(MATCH_ARCSEC / 3600.0))
    return np.isfinite(distance), nearest[np.isfinite(distance)]
