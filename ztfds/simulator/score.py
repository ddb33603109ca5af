"""Scoring of a processed night against the truth of the simulation: astrometry, photometry, transients, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.simulator.truth import read_truth, truth_filename

F64 = NDArray[np.float64]
MATCH_PX = 1.5
"""Largest distance between a truth position and a measured one, px."""
ALERT_RADIUS_ARCSEC = 1.5
MIN_SNR = 10.0
PULL_SNR = (10.0, 100.0)
"""Range of S/N in which photometric pulls are judged: above the detection bias, below the PSF-model error."""
BRIGHT_SNR = 100.0
CROWDED_PX = 10.0
CROWDED_FRACTION = 0.02
"""A star is isolated when no other truth source within CROWDED_PX has more than this fraction of its flux."""
ASTROMETRY_LIMIT_MAS, ZEROPOINT_LIMIT_MAG, RECOVERY_LIMIT = 60.0, 0.03, 0.95
PULL_LIMITS, SCORR_LIMITS = (0.8, 1.2), (0.95, 1.05)

_SCIENCE = """
    select p.exposure, p.rcid, p.path, c.filename from products p
      join ccdfiles c on c.exposure = p.exposure and c.ccdid = p.ccdid
     where p.kind = 'psfcat' and p.vbest > 0 and p.status = 1 and p.nid = any(%s) order by p.exposure, p.rcid"""
_ON_SKY = """
    select c.filename, c.exposure from ccdfiles c join exposures e using (exposure)
     where e.imgtype = 'o' and e.nid = any(%s) order by 1"""
_ALERTED = "select exposure, rcid, ra, dec, ssnamenr from candidates where alerted and nid = any(%s)"
_SCORR = "select value from qa_metrics where name = 'scorr_width_raw' and value is not null and nid = any(%s)"


@dataclass
class Score:
    """What the night's products are worth.

    Attributes
    ----------
    astrometry_mas_ra, astrometry_mas_dec : float or None
        RMS of measured minus true position of isolated stars at S/N >= 10, mas, 5-sigma outliers removed.
    zeropoint_rms_mag : float or None
        RMS over quadrant images of the median calibrated minus true magnitude of bright stars, mag.
    psf_pull_width : float or None
        Robust width of (measured - true flux) / uncertainty of isolated stars.
    scorr_width : float or None
        Median width of Scorr on blank sky as computed, before the difference step scales it to one.
    transients_injected_snr10, transients_alerted_snr10 : int
        Injected transients at S/N >= 10 away from saturated stars, whatever became of their images, and those with an alert
        within 1.5 arcsec in the same quadrant image.
    asteroids_known, asteroids_tagged : int
        Alerts of asteroids at S/N >= 10 that are in the list of known ones, and those of them that carry their name.
    asteroids_unknown, asteroids_mistagged : int
        Alerts of asteroids that are in no list, and those of them that carry a name.
    missed : list of str
        One line for each transient without an alert.
    stars : int
        Stars that the astrometric figures rest on.
    """

    astrometry_mas_ra: float | None = None
    astrometry_mas_dec: float | None = None
    zeropoint_rms_mag: float | None = None
    psf_pull_width: float | None = None
    scorr_width: float | None = None
    transients_injected_snr10: int = 0
    transients_alerted_snr10: int = 0
    asteroids_known: int = 0
    asteroids_tagged: int = 0
    asteroids_unknown: int = 0
    asteroids_mistagged: int = 0
    missed: list[str] = field(default_factory=list)
    stars: int = 0

    def out_of_bounds(self) -> list[str]:
        """One line for each figure that misses its limit, or that could not be measured."""
        lines = []
        for name in ("astrometry_mas_ra", "astrometry_mas_dec"):
            lines += _above(name, getattr(self, name), ASTROMETRY_LIMIT_MAS)
        lines += _above("zeropoint_rms_mag", self.zeropoint_rms_mag, ZEROPOINT_LIMIT_MAG)
        lines += _outside("psf_pull_width", self.psf_pull_width, PULL_LIMITS)
        lines += _outside("scorr_width", self.scorr_width, SCORR_LIMITS)
        injected, found = self.transients_injected_snr10, self.transients_alerted_snr10
        if not injected:
            lines.append("no transient at S/N >= 10 was injected")
        elif found < RECOVERY_LIMIT * injected:
            lines.append(f"{found} of {injected} injected transients alerted, at least {RECOVERY_LIMIT:.0%} are wanted")
        if self.asteroids_tagged < self.asteroids_known:
            lines.append(
                f"{self.asteroids_tagged} of {self.asteroids_known} alerts of known asteroids carry their name"
            )
        return lines


def _above(name: str, value: float | None, limit: float) -> list[str]:
    if value is None:
        return [f"{name} could not be measured"]
    return [] if value <= limit else [f"{name} = {value:.3f} is above {limit}"]


def _outside(name: str, value: float | None, limits: tuple[float, float]) -> list[str]:
    if value is None:
        return [f"{name} could not be measured"]
    return [] if limits[0] <= value <= limits[1] else [f"{name} = {value:.3f} is outside {limits[0]} to {limits[1]}"]


@dataclass
class _Stars:
    """Residuals of one quadrant."""

    dra_mas: F64
    ddec_mas: F64
    pulls: F64
    offset_mag: float


def score(context: Context, truth: Path, nids: Sequence[int], known: Mapping[int, str] | None = None) -> Score:
    """Compare the products and alerts of some nights with the truth tables.

    Parameters
    ----------
    context : Context
        Where the registry and the archive are.
    truth : Path
        Folder of truth tables.
    nids : sequence of int
        Night numbers.
    known : mapping, optional
        Names of the asteroids that are in the list of known ones, by identifier.
    """
    nights = list(nids)
    with database.transaction(context.dsn) as cursor:
        science = database.rows(cursor, _SCIENCE, (nights,))
        on_sky = database.rows(cursor, _ON_SKY, (nights,))
        alerted = database.rows(cursor, _ALERTED, (nights,))
        widths = [float(row["value"]) for row in database.rows(cursor, _SCORR, (nights,))]
    result = Score(scorr_width=float(np.median(widths)) if widths else None)
    _score_stars(result, [s for row in science if (s := _stars(context, truth, row)) is not None])
    _score_transients(result, truth, on_sky, alerted)
    _score_asteroids(result, truth, on_sky, alerted, known or {})
    return result


def _stars(context: Context, truth: Path, row: dict[str, Any]) -> _Stars | None:
    """Residuals of the stars of one quadrant; None where nothing matches."""
    rows, _ = read_truth(Path(truth) / truth_filename(row["filename"]))
    rows = rows[(rows["rcid"] == row["rcid"]) & np.isin(rows["kind"], ("star", "variable", "galaxy", "transient"))]
    with fits.open(Path(context.archive) / row["path"]) as hdus:
        table = next(hdu for hdu in hdus if hdu.name == "PSF_CATALOG")
        header, measured = hdus[0].header, np.array(table.data)
    if not rows.size or not measured.size or "MAGZP" not in header:
        return None
    usable = _isolated(rows) & (rows["kind"] == "star") & ~rows["near_saturated"]
    places = np.column_stack([measured["xpos"] - 1.0, measured["ypos"] - 1.0])
    distance, index = cKDTree(places).query(np.column_stack([rows["x"], rows["y"]]), distance_upper_bound=MATCH_PX)
    good = usable & np.isfinite(distance)
    true, seen = rows[good], measured[index[good]]
    keep = (seen["flags"] == 0) | (seen["flags"] & ~2050 == 0) & (seen["flags"] >= 0)
    keep &= (seen["snr"] >= MIN_SNR) & (true["snr"] >= MIN_SNR)
    true, seen = true[keep], seen[keep]
    if true.size < 5:
        return None
    cos = np.cos(np.radians(true["dec"]))
    dra = ((seen["ra"] - true["ra"] + 180) % 360 - 180) * cos * 3.6e6
    offset, pulls = _photometry(true, seen, header)
    return _Stars(dra, (seen["dec"] - true["dec"]) * 3.6e6, pulls, offset)


def _isolated(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Sources without a neighbour of more than a small fraction of their flux."""
    places = np.column_stack([rows["x"], rows["y"]])
    alone = np.ones(rows.size, bool)
    pairs = cKDTree(places).query_pairs(CROWDED_PX, output_type="ndarray")
    a, b = pairs[:, 0], pairs[:, 1]
    flux = rows["flux"].astype(float)
    alone[a[flux[b] > CROWDED_FRACTION * flux[a]]] = False
    alone[b[flux[a] > CROWDED_FRACTION * flux[b]]] = False
    return alone


def _photometry(true: NDArray[np.void], seen: NDArray[np.void], header: fits.Header) -> tuple[float, F64]:
    """Median offset of bright stars (mag) and the pulls of all in range, after the offset."""
    zeropoint, colour = float(header["MAGZP"]), float(header.get("CLRCOEFF", 0.0))
    expected_mag = true["mag"].astype(float) - zeropoint - colour * np.nan_to_num(true["colour"])
    difference = -2.5 * np.log10(np.maximum(seen["flux"].astype(float), 1e-6)) - expected_mag
    bright = seen["snr"] >= BRIGHT_SNR
    offset = float(np.median(difference[bright if bright.sum() >= 5 else slice(None)]))
    expected = 10 ** (-0.4 * (expected_mag + offset))
    chosen = (true["snr"] >= PULL_SNR[0]) & (true["snr"] <= PULL_SNR[1])
    return offset, ((seen["flux"] - expected) / seen["sigflux"])[chosen]


def _score_stars(result: Score, quadrants: Sequence[_Stars]) -> None:
    """Put the residuals of all quadrants together."""
    if not quadrants:
        return
    dra, ddec = (np.concatenate([getattr(q, name) for q in quadrants]) for name in ("dra_mas", "ddec_mas"))
    pulls = np.concatenate([q.pulls for q in quadrants])
    result.stars = dra.size
    result.astrometry_mas_ra, result.astrometry_mas_dec = _clipped_rms(dra), _clipped_rms(ddec)
    result.zeropoint_rms_mag = float(np.sqrt(np.mean([q.offset_mag**2 for q in quadrants])))
    if pulls.size:
        low, high = np.percentile(pulls, [15.87, 84.13])
        result.psf_pull_width = float(high - low) / 2


def _clipped_rms(values: F64) -> float:
    """RMS about zero without the values beyond five robust standard deviations."""
    limit = 5 * 1.4826 * np.median(np.abs(values))
    return float(np.sqrt(np.mean(values[np.abs(values) <= limit] ** 2)))


def _score_transients(
    result: Score, truth: Path, on_sky: Sequence[dict[str, Any]], alerted: Sequence[dict[str, Any]]
) -> None:
    """Count the injected transients that have an alert in the same quadrant image."""
    alerts: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in alerted:
        alerts.setdefault((row["exposure"], row["rcid"]), []).append((row["ra"], row["dec"]))
    for row in on_sky:
        rows, _ = read_truth(Path(truth) / truth_filename(row["filename"]))
        chosen = (rows["kind"] == "transient") & (rows["snr"] >= MIN_SNR) & ~rows["near_saturated"]
        for event in rows[chosen]:
            rcid = int(event["rcid"])
            result.transients_injected_snr10 += 1
            if _is_among(event, alerts.get((row["exposure"], rcid), [])):
                result.transients_alerted_snr10 += 1
            else:
                result.missed.append(f"{row['exposure']} rcid {rcid}: {_describe(event)}")


def _score_asteroids(
    result: Score,
    truth: Path,
    on_sky: Sequence[dict[str, Any]],
    alerted: Sequence[dict[str, Any]],
    known: Mapping[int, str],
) -> None:
    """Count the alerts of asteroids, and whether known ones, and only these, carry their names."""
    alerts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in alerted:
        alerts.setdefault((row["exposure"], row["rcid"]), []).append(row)
    for row in on_sky:
        rows, _ = read_truth(Path(truth) / truth_filename(row["filename"]))
        for event in rows[(rows["kind"] == "asteroid") & (rows["snr"] >= MIN_SNR)]:
            near = [
                a
                for a in alerts.get((row["exposure"], int(event["rcid"])), [])
                if _is_among(event, [(a["ra"], a["dec"])])
            ]
            name = known.get(int(event["id"]))
            for alert in near[:1]:
                result.asteroids_known += name is not None
                result.asteroids_tagged += name is not None and alert["ssnamenr"] == name
                result.asteroids_unknown += name is None
                result.asteroids_mistagged += name is None and alert["ssnamenr"] != "null"


def _is_among(event: np.void, alerts: list[tuple[float, float]]) -> bool:
    """Whether an alert lies within the radius of an event."""
    found = np.array(alerts).reshape(-1, 2)
    dra = (found[:, 0] - event["ra"]) * np.cos(np.radians(event["dec"]))
    return bool((np.hypot(dra, found[:, 1] - event["dec"]) * 3600 <= ALERT_RADIUS_ARCSEC).any())


def _describe(event: np.void) -> str:
    """Where a missed event is, and what lies on it."""
    place = f"x = {event['x']:.1f}, y = {event['y']:.1f}, S/N {event['snr']:.1f}"
    if event["defects"] + event["hits"]:
        place += f", {event['defects']} bad pixels, {event['hits']} radiation hits"
    return place
