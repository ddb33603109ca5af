"""Coverage maps: how often and how deep every cell of the sky was seen, in a night and since the beginning."""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy_healpix import core

from ztfds.formats.atomic import Written, write_atomic
from ztfds.formats.moc import write_moc
from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database, products, sky
from ztfds.survey import ids
from ztfds.survey.camera import Camera, ccd_qid
from ztfds.survey.errors import ChecksumMismatch, FilesMissing, NoWork
from ztfds.survey.filters import FILTERS

log = logging.getLogger(__name__)

ORDER = 10
"""Order of the cells: 3.4 arcmin, of which 228 fit into a quadrant."""
CELL_DEG2 = 41252.961249419 / (12 * 4**ORDER)
ZERO_MAG = 20.0
"""Magnitude at which a visit has weight 1."""
ALL_PROGRAMS = "all"
MAP_SHAPE = (360, 720)
"""Rows and columns of the picture of a map."""
MAPS_AT_ONCE = 8
"""So many nights are added up at a time: some hundred MB at most."""
FEW_CELLS = 20000
"""Maps of fewer cells are drawn as dots, which are larger than the cells."""
DTYPE = np.dtype(
    [("fid", "i1"), ("programid", "i1"), ("cell", "i4"), ("visits", "i4"), ("weight", "f8"), ("best", "f4")]
)
"""One row for each filter, program and cell: visits, sum of 10^(0.8 (m5 − 20)) of their 5-sigma limits, deepest of these."""

_QUADRANTS = """
    select p.exposure, p.rcid, p.field, p.fid, p.programid, e.ra, e.dec, (p.meta ->> 'MAGLIM')::float8 as maglim,
           array[p.meta ->> 'CRVAL1', p.meta ->> 'CRVAL2', p.meta ->> 'CRPIX1', p.meta ->> 'CRPIX2', p.meta ->> 'CD1_1',
                 p.meta ->> 'CD1_2', p.meta ->> 'CD2_1', p.meta ->> 'CD2_2']::float8[] as wcs
      from products p join exposures e using (exposure)
     where p.nid = %s and p.kind = 'sciimg' and p.vbest > 0 and p.status = 1 and p.fid between 1 and 3
     order by p.exposure, p.rcid"""
_NIGHT_MAPS = """
    select nid, path, sha256 from products where kind = 'coverage_night' and vbest > 0 and nid <= %s order by nid"""
_TOTAL_BEFORE = """
    select nid, path, sha256 from products where kind = 'coverage_total' and vbest > 0 and nid <= %s order by nid desc limit 1"""


def make_coverage(context: Context, nid: int) -> Outcome:
    """Make or renew the maps of a night and those of all nights until it; repeating it changes nothing.

    Parameters
    ----------
    context : Context
    nid : int
        Night number.

    Raises
    ------
    NoWork
        The night has no usable image.
    ChecksumMismatch, FilesMissing
        The map of an earlier night is damaged or absent: make it anew first.
    """
    quadrants = database.fetch_all(context.dsn, _QUADRANTS, (nid,))
    if not quadrants:
        raise NoWork(f"night {ids.night_date(nid)} has no usable image")
    night = depth_map(quadrants, context.camera)
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for row in quadrants:
        counts[row["fid"], row["programid"]] += 1
    _keep(context, nid, "night", night, {"quadrants": len(quadrants)}, counts)
    total, inputs = _total(context, nid)
    _keep(context, nid, "total", total, {"inputs": inputs}, None)
    area, sum_area = (CELL_DEG2 * len(np.unique(rows["cell"])) for rows in (night, total))
    line = f"{len(quadrants)} quadrants cover {area:.1f} square degrees; {sum_area:.1f} since the beginning ({len(inputs)} nights)"
    return Outcome.of(line, quadrants=len(quadrants), area_deg2=area, total_deg2=sum_area, nights=len(inputs))


# -- the map -----------------------------------------------------------------------------------------------------------


def corners_of(row: Mapping[str, Any], camera: Camera) -> np.ndarray:
    """Corners of a quadrant on the sky from the linear part of its solution, else from where the telescope pointed.

    Parameters
    ----------
    row : mapping
        ``wcs``: CRVAL1, CRVAL2 (deg), CRPIX1, CRPIX2 (1-based pixels), CD1_1, CD1_2, CD2_1, CD2_2 (deg/pixel), or None in
        place of what is not known; ``ra dec`` of the boresight, deg; ``rcid``.
    camera : Camera

    Returns
    -------
    ndarray of shape (4, 2)
        (ra, dec), deg. Distortion is left out: it moves a corner by some arcsec, a sixtieth of a cell.
    """
    if any(value is None for value in row["wcs"] or [None]):
        return camera.corners(row["ra"], row["dec"], *ccd_qid(row["rcid"]))
    ra0, dec0, x0, y0, cd11, cd12, cd21, cd22 = row["wcs"]
    ny, nx = camera.quadrant_shape
    x, y = np.array([0, nx, nx, 0]) + 0.5 - x0, np.array([0, 0, ny, ny]) + 0.5 - y0
    xi, eta = np.radians(cd11 * x + cd12 * y), np.radians(cd21 * x + cd22 * y)
    d0 = np.radians(dec0)
    down = np.cos(d0) - eta * np.sin(d0)
    ra = ra0 + np.degrees(np.arctan2(xi, down))
    dec = np.degrees(np.arctan2(np.sin(d0) + eta * np.cos(d0), np.hypot(xi, down)))
    return np.column_stack([ra % 360.0, dec])


def cells_inside(corners: np.ndarray, order: int = ORDER) -> np.ndarray:
    """Nested cells whose centres lie inside a quadrant, (4, 2) corners in deg; int64 array.

    Candidates are the cells under a grid of points so narrow that no cell slips through: a third of the mean width of a
    cell, whose inner circle is at least 0.6 of that wide.
    """
    points = np.radians(corners)
    a, b, c, d = np.column_stack(
        [np.cos(points[:, 1]) * np.cos(points[:, 0]), np.cos(points[:, 1]) * np.sin(points[:, 0]), np.sin(points[:, 1])]
    )
    width = np.radians(58.6323) / 2**order
    ny, nx = (
        int(np.ceil(3 * max(np.linalg.norm(p), np.linalg.norm(q)) / width)) + 2
        for p, q in ((a - d, b - c), (a - b, d - c))
    )
    u, v = np.meshgrid(np.linspace(0, 1, nx), np.linspace(0, 1, ny))
    u, v = u.reshape(-1, 1), v.reshape(-1, 1)
    grid = (1 - u) * (1 - v) * a + u * (1 - v) * b + u * v * c + (1 - u) * v * d
    lon, lat = np.arctan2(grid[:, 1], grid[:, 0]), np.arctan2(grid[:, 2], np.hypot(grid[:, 0], grid[:, 1]))
    near = np.unique(sky.cell(np.degrees(lon) % 360.0, np.degrees(lat), order))
    ra, dec = core.healpix_to_lonlat(near, 2**order, order="nested")
    return near[sky.inside_polygon(ra.to_value("deg"), dec.to_value("deg"), corners.ravel())]


def depth_map(quadrants: Sequence[Mapping[str, Any]], camera: Camera) -> np.ndarray:
    """Visits and depth of every cell from the quadrants that were seen.

    The depth of several visits is that of their weighted sum, each with the inverse of its variance: with 5-sigma limits
    m_i it is m = 1.25 log10 sum 10^(0.8 m_i), so that n equal visits gain 1.25 log10 n.

    Parameters
    ----------
    quadrants : sequence of mappings
        ``fid programid rcid ra dec maglim wcs``; a visit without a limit counts, but adds no depth.
    camera : Camera

    Returns
    -------
    ndarray of DTYPE
        Sorted by filter, program and cell.
    """
    parts = []
    for row in quadrants:
        cells = cells_inside(corners_of(row, camera))
        part = np.zeros(len(cells), DTYPE)
        part["fid"], part["programid"], part["cell"], part["visits"] = row["fid"], row["programid"], cells, 1
        part["best"] = np.nan if row["maglim"] is None else row["maglim"]
        part["weight"] = 0.0 if row["maglim"] is None else 10 ** (0.8 * (row["maglim"] - ZERO_MAG))
        parts.append(part)
    return add_up(parts)


def add_up(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of maps; arrays of DTYPE in, one out."""
    rows = np.concatenate(parts) if parts else np.zeros(0, DTYPE)
    key = (rows["fid"].astype(np.int64) << 40) | (rows["programid"].astype(np.int64) << 32) | rows["cell"]
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    made = rows[first].copy()
    if len(first):
        made["visits"] = np.add.reduceat(rows["visits"], first)
        made["weight"] = np.add.reduceat(rows["weight"], first)
        made["best"] = np.fmax.reduceat(rows["best"], first)
    return made


def depth_mag(weight: np.ndarray) -> np.ndarray:
    """5-sigma depth of all visits together, mag; NaN where no visit had a limit."""
    with np.errstate(divide="ignore"):
        return np.where(weight > 0, ZERO_MAG + 1.25 * np.log10(weight), np.nan)


def _total(context: Context, nid: int) -> tuple[np.ndarray, list[list[Any]]]:
    """The map of all nights until this one, and the nights with the checksums of their maps.

    The newest map of all nights is gone on from, if all that went into it is still what it was.
    """
    with database.session(context.dsn):
        nights = database.fetch_all(context.dsn, _NIGHT_MAPS, (nid,))
        before = database.fetch_one(context.dsn, _TOTAL_BEFORE, (nid,))
    wanted = {row["nid"]: row["sha256"] for row in nights}
    parts, done = [], {}
    if before and (context.archive / before["path"]).is_file():
        rows, header = read_map(context.archive / before["path"])
        said = {int(night): sha for night, sha in header.get("inputs", [])}
        if all(wanted.get(night) == sha for night, sha in said.items()):
            parts, done = [rows], said
    for row in nights:
        if row["nid"] not in done:
            path = context.archive / row["path"]
            if not path.is_file():
                raise FilesMissing(f"{row['path']} is not in the archive: make the map of that night anew")
            parts.append(read_map(path, row["sha256"])[0])
            parts = [add_up(parts)] if len(parts) == MAPS_AT_ONCE else parts
    return add_up(parts), [[night, sha] for night, sha in sorted(wanted.items())]


# -- files -------------------------------------------------------------------------------------------------------------


def map_path(nid: int, suffix: str) -> str:
    """Place of a map: ``coverage/YYYYMMDD/ztf_YYYYMMDD_coverage_<suffix>``."""
    date = ids.night_date(nid)
    return f"coverage/{date}/ztf_{date}_coverage_{suffix}"


def write_map(path: Path, rows: np.ndarray, header: Mapping[str, Any]) -> Written:
    """Write a map as parquet, with what it was made from."""
    table = pa.table({name: rows[name] for name in DTYPE.names or ()})
    content = {"order": ORDER, "ordering": "nested", "frame": "icrs", "zero_mag": ZERO_MAG, **header}
    table = table.replace_schema_metadata({"ztfds": json.dumps(content, sort_keys=True)})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return write_atomic(path, stream.getvalue())


def read_map(path: Path, sha256: str | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """A map (array of DTYPE) and what it was made from.

    Raises
    ------
    ChecksumMismatch
        It is not the file that was registered.
    """
    from ztfds.formats.atomic import sha256_of

    if sha256 is not None and sha256_of(path) != sha256:
        raise ChecksumMismatch(f"{path.name} is damaged: make the map of that night anew")
    table = pq.read_table(path)
    rows = np.zeros(table.num_rows, DTYPE)
    for name in DTYPE.names or ():
        rows[name] = table[name].to_numpy()
    header: dict[str, Any] = json.loads((table.schema.metadata or {})[b"ztfds"])
    return rows, header


def _keep(
    context: Context,
    nid: int,
    which: str,
    rows: np.ndarray,
    header: Mapping[str, Any],
    counts: Mapping[tuple[int, int], int] | None,
) -> None:
    """Write and register a map, its outlines (MOC) and its picture; the map itself last."""
    for name, cells in outlines(rows).items():
        kind = f"coverage_{which}_moc_{name}"
        written = write_moc(context.archive / map_path(nid, f"{which}_{name}.moc.fits"), cells, ORDER)
        _register(context, nid, kind, written, None)
    title = f"Visits {'in the night' if which == 'night' else 'until'} {ids.night_date(nid)}"
    drawn = write_atomic(context.archive / map_path(nid, f"{which}.png"), picture(rows, title))
    _register(context, nid, f"coverage_{which}_png", drawn, None)
    written = write_map(context.archive / map_path(nid, f"{which}.parquet"), rows, header)
    _register(context, nid, f"coverage_{which}", written, {"rows": figures(rows, counts)})


def _register(context: Context, nid: int, kind: str, written: Written, meta: Mapping[str, Any] | None) -> None:
    """Register one file of a night's maps."""
    products.register_document(
        context.dsn, kind=kind, dataset=f"coverage/{nid}", nid=nid, written=written, archive=context.archive, meta=meta
    )


def outlines(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Cells seen by filter (all programs) and by filter and program, by a short name: ``zg``, ``zg_p1``."""
    found = {}
    for item in FILTERS:
        here = rows[rows["fid"] == item.fid]
        if len(here):
            found[item.code] = np.unique(here["cell"])
        for program in np.unique(here["programid"]):
            found[f"{item.code}_p{program}"] = here["cell"][here["programid"] == program]
    return found


def figures(rows: np.ndarray, counts: Mapping[tuple[int, int], int] | None = None) -> list[dict[str, Any]]:
    """The table of the page: area, visits and depth by filter and program, and by filter alone."""
    made = []
    for item in FILTERS:
        here = rows[rows["fid"] == item.fid]
        programs = [int(p) for p in np.unique(here["programid"])]
        for program in [*programs, *([None] if len(programs) > 1 else [])]:
            part = here[here["programid"] == program].copy() if program is not None else here.copy()
            if program is None:
                part["programid"] = 0
                part = add_up([part])
            known = part["best"][np.isfinite(part["best"])]
            total = depth_mag(part["weight"])[part["weight"] > 0]
            n = sum(v for (f, p), v in (counts or {}).items() if f == item.fid and program in (None, p))
            made.append(
                {
                    "filter": item.code,
                    "program": ALL_PROGRAMS if program is None else program,
                    "quadrants": n if counts is not None else "",
                    "area_deg2": CELL_DEG2 * len(part),
                    "median_visits": float(np.median(part["visits"])),
                    "most_visits": int(part["visits"].max()),
                    "median_depth_mag": float(np.median(known)) if len(known) else None,
                    "median_total_mag": float(np.median(total)) if len(total) else None,
                }
            )
    return made


@lru_cache(maxsize=1)
def _mollweide() -> tuple[np.ndarray, np.ndarray]:
    """Cells behind the pixels of a map of the whole sky, and which pixels are on it; shape (ny, nx), first row in the south.

    Mollweide: x = 2 sqrt(2)/pi lon cos t, y = sqrt(2) sin t, 2 t + sin 2 t = pi sin lat; here inverted, with x, y over sqrt(2).
    """
    ny, nx = MAP_SHAPE
    x, y = np.meshgrid((np.arange(nx) + 0.5) / nx * 4 - 2, (np.arange(ny) + 0.5) / ny * 2 - 1)
    turn = np.arcsin(y)
    lat = np.degrees(np.arcsin((2 * turn + np.sin(2 * turn)) / np.pi))
    lon = 90.0 * x / np.cos(turn)
    inside = np.abs(lon) <= 180.0
    cells = np.zeros(MAP_SHAPE, np.int64)
    cells[inside] = sky.cell((180.0 - lon[inside]) % 360.0, lat[inside], order=ORDER)
    return cells, inside


def _project(ra: np.ndarray | float, dec: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Where positions (deg) are on that map, x in -2 to 2 (east left, RA 180 deg in the middle), y in -1 to 1."""
    lat = np.radians(np.asarray(dec, float))
    turn = np.arcsin(2 * lat / np.pi)
    for _ in range(50):
        turn -= (2 * turn + np.sin(2 * turn) - np.pi * np.sin(lat)) / np.maximum(4 * np.cos(turn) ** 2, 1e-6)
    lon = (180.0 - np.asarray(ra, float)) / 90.0
    return lon * np.cos(turn), np.sin(turn) + 0.0 * lon


def picture(rows: np.ndarray, title: str) -> bytes:
    """Visits by filter on the whole sky (Mollweide, north up, east left, RA 180 deg in the middle), PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    shown = [item for item in FILTERS if (rows["fid"] == item.fid).any()]
    figure = Figure(figsize=(8.4, 4.4 * len(shown)), dpi=100)
    FigureCanvasAgg(figure)
    cells, inside = _mollweide()
    norm = LogNorm(1, max(2, int(rows["visits"].max(initial=1))))
    for k, item in enumerate(shown):
        here = rows[rows["fid"] == item.fid]
        visits = np.bincount(here["cell"], here["visits"], 12 * 4**ORDER)
        axes = figure.add_axes((0.03, (len(shown) - 1 - k + 0.03) / len(shown), 0.82, 0.88 / len(shown)))
        seen = np.ma.masked_array(visits[cells], ~inside | (visits[cells] == 0))
        drawn = axes.imshow(
            seen, origin="lower", extent=(-2, 2, -1, 1), norm=norm, cmap="viridis", interpolation="nearest"
        )
        if np.count_nonzero(visits) < FEW_CELLS:
            ra, dec = core.healpix_to_lonlat(np.flatnonzero(visits), 2**ORDER, order="nested")
            x, y = _project(ra.to_value("deg"), dec.to_value("deg"))
            axes.scatter(x, y, 2, visits[visits > 0], norm=norm, cmap="viridis")
        _graticule(axes)
        axes.set_title(f"{title}: {item.code}", fontsize=10)
        bar = figure.add_axes((0.87, (len(shown) - 1 - k + 0.2) / len(shown), 0.015, 0.55 / len(shown)))
        figure.colorbar(drawn, cax=bar, label="visits")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _graticule(axes: Any) -> None:
    """Lines every 60 deg of right ascension and 30 deg of declination, with their names."""
    dec = np.linspace(-90, 90, 91)
    for ra in range(0, 361, 60):
        axes.plot(*_project(np.full(91, float(ra)), dec), color="0.6", lw=0.5)
        if 0 < ra < 360:
            axes.text(*(float(v) for v in _project(float(ra), 2.0)), f"{ra // 15}h", fontsize=7, color="0.4")
    for lat in range(-60, 61, 30):
        axes.plot(*_project(np.linspace(0, 360, 91), np.full(91, float(lat))), color="0.6", lw=0.5)
        axes.text(*(float(v) for v in _project(359.0, float(lat))), f"{lat:+d}°", fontsize=7, color="0.4", ha="right")
    axes.set_axis_off()
