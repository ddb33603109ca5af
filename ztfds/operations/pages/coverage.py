"""The page *Coverage*: what of the sky was seen in a night and since the beginning, per filter and program, with maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey import fields, ids
from ztfds.survey.camera import Camera
from ztfds.survey.errors import FilesMissing
from ztfds.survey.filters import FILTERS
from ztfds.survey.programs import PROGRAMS

MAPS = {"night": "coverage_night_png", "total": "coverage_total_png"}
SIDE_POINTS = 6
"""Points on each side of the outline of a field: parallels of declination bend it."""

_NIGHTS = "select nid, nightdate from nights order by nid desc limit 400"
_DOCUMENT = "vbest > 0 and exposure is null and field is null and rcid is null"
_MAP = f"select meta from products where nid = %s and kind = %s and {_DOCUMENT}"
_PICTURE = f"select path from products where nid = %s and kind = %s and {_DOCUMENT}"
_FILES = (
    f"select kind, path, bytes from products where nid = %s and kind like 'coverage%%' and {_DOCUMENT} order by kind"
)
_NEWEST = f"select nid from products where kind = 'coverage_night' and {_DOCUMENT} order by nid desc limit 1"
_VISITS = {
    "night": "select field, fid, programid, visits, usable, depth, jd, ra, dec from field_nights where nid = %s order by 1, 2, 3",
    "total": "select field, fid, programid, visits, usable, depth, jd, ra, dec from field_totals order by 1, 2, 3",
}


def coverage_page(dsn: str, nid: int | None = None) -> str:
    """Maps and tables of a night; by default the newest that has maps, or the newest of all."""
    with database.session(dsn):
        nights = database.fetch_all(dsn, _NIGHTS)
        if not nights:
            return page("empty", title="Coverage", text="No night has been opened yet: nothing has been seen.")
        mapped = database.fetch_one(dsn, _NEWEST)
        nid = nid if nid is not None else (mapped or nights[0])["nid"]
        made = {which: database.fetch_one(dsn, _MAP, (nid, f"coverage_{which}")) for which in MAPS}
        files = database.fetch_all(dsn, _FILES, (nid,))
    titles = {"night": "This night", "total": "Since the beginning"}
    tables = [(titles[which], row["meta"] if row else None) for which, row in made.items()]
    return page("coverage", nid=nid, nights=nights, tables=tables, files=files, filters=FILTERS, programs=PROGRAMS)


def coverage_picture(dsn: str, archive: Path, which: str, nid: int) -> bytes:
    """The map of a night (``night``) or of all nights until it (``total``), PNG.

    Raises
    ------
    FilesMissing
        There is none.
    """
    row = database.fetch_one(dsn, _PICTURE, (nid, MAPS.get(which, "")))
    path = Path(archive) / row["path"] if row else None
    if path is None or not path.is_file():
        raise FilesMissing(f"no map {which!r} of night {nid}")
    return path.read_bytes()


def coverage_fields(dsn: str, camera: Camera, nid: int | None = None) -> dict[str, Any]:
    """Every field that was seen, for the map that a browser draws.

    Parameters
    ----------
    dsn : str
    camera : Camera
        Gives the outline of a field.
    nid : int, optional
        Night number; all nights without it.

    Returns
    -------
    dict
        ``night`` (YYYYMMDD or None), ``filters`` (number to code), ``outline`` (see `outline`), and ``fields``: a list of dict with
        ``field``, ``ra``, ``dec`` (deg; of the grid, else where the telescope pointed) and ``visits``, a list of (filter number,
        program, visits, usable quadrant images, median depth of one visit [mag] or None, Julian date of the last).
    """
    found = (
        database.fetch_all(dsn, _VISITS["total"]) if nid is None else database.fetch_all(dsn, _VISITS["night"], (nid,))
    )
    by_field: dict[int, dict[str, Any]] = {}
    for row in found:
        if row["field"] not in by_field:
            known = fields.all_fields().get(row["field"])
            place = (known.ra, known.dec) if known else (row["ra"], row["dec"])
            if None in place:
                continue
            by_field[row["field"]] = {"field": row["field"], "ra": place[0], "dec": place[1], "visits": []}
        depth = None if row["depth"] is None else round(row["depth"], 3)
        values = [row["fid"], row["programid"], row["visits"], row["usable"], depth, round(row["jd"], 5)]
        by_field[row["field"]]["visits"].append(values)
    return {
        "night": None if nid is None else ids.night_date(nid),
        "filters": {item.fid: item.code for item in FILTERS},
        "outline": outline(camera),
        "fields": list(by_field.values()),
    }


def outline(camera: Camera) -> list[tuple[float, float]]:
    """The rectangle around all quadrants of a camera: points (xi east, eta north) in the tangent plane of the boresight, deg."""
    centres = np.array([camera.quadrant_centre_deg(c, q) for c in camera.ccdids for q in (1, 2, 3, 4)])
    half = 0.5 * np.array(camera.quadrant_shape)[::-1] * camera.pixel_scale_arcsec / 3600.0
    (west, south), (east, north) = centres.min(axis=0) - half, centres.max(axis=0) + half
    corners = [(west, south), (east, south), (east, north), (west, north)]
    return [point for one, two in zip(corners, corners[1:] + corners[:1], strict=True) for point in _side(one, two)]


def _side(one: Sequence[float], two: Sequence[float]) -> list[tuple[float, float]]:
    """Points from one corner towards the next, without the latter."""
    steps = np.arange(SIDE_POINTS) / SIDE_POINTS
    return [(round(a, 5), round(b, 5)) for a, b in np.add(one, np.outer(steps, np.subtract(two, one))).tolist()]


@cache
def script() -> str:
    """The script that draws the map."""
    return resources.files("ztfds.operations").joinpath("templates/pages/sky.js").read_text(encoding="utf-8")
