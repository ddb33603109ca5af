"""Positions on the sky as HEALPix cells (nested, order 29), so that a plain btree index answers cone searches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy_healpix import core
from psycopg2 import sql

ORDER = 29
"""Order of the cells kept in columns `hpx`: 0.4 milliarcsec wide, 60 bits."""

_CELL_ARCSEC = 58.6323 * 3600.0
"""Mean width of a cell of order 0; every order halves it."""

_LOCK_ORDER = 8
"""Order (14 arcmin) of the cells that are locked while objects are named: few locks per quadrant."""


def cell(ra: np.ndarray | float, dec: np.ndarray | float, order: int = ORDER) -> np.ndarray:
    """HEALPix cells of positions.

    Parameters
    ----------
    ra, dec : float or array of shape (n,)
        ICRS, deg.
    order : int
        Order of the nested cells.

    Returns
    -------
    int64 array of shape (n,)
    """
    lon, lat = np.atleast_1d(ra) * units.deg, np.atleast_1d(dec) * units.deg
    return np.asarray(core.lonlat_to_healpix(lon, lat, 2**order, order="nested"), np.int64)


def _cover_order(radius_arcsec: float) -> int:
    """Finest order whose cells are at least four radii wide: then a cell and its eight neighbours cover the circle.

    Cells are rhombs of varying shape; the smallest height of one is about 0.6 of the mean width, which four radii leave
    ample room for.
    """
    return int(np.clip(np.floor(np.log2(_CELL_ARCSEC / (4.0 * max(radius_arcsec, 1e-3)))), 0, ORDER))


def _neighbourhood(ra: np.ndarray | float, dec: np.ndarray | float, order: int) -> np.ndarray:
    """Cells of positions with their neighbours, sorted, each once."""
    centre = cell(ra, dec, order)
    with np.errstate(invalid="ignore"):  # at eight points of the sphere a neighbour is missing
        around = np.asarray(core.neighbours(centre, 2**order, order="nested"), np.int64)
    every = np.unique(np.concatenate([centre, around.ravel()]))
    return every[every >= 0]


def _touched(ra: np.ndarray | float, dec: np.ndarray | float, radius_arcsec: float, order: int) -> np.ndarray:
    """Cells, sixteen radii wide or more, that touch circles about positions: sorted, each once.

    Those of the centres and of 24 points at twice the radius: a corner of a cell, of 30 degrees or more, that reaches into
    the circle is wider there than the points are apart.
    """
    lon, lat = np.radians(np.atleast_1d(ra))[:, None], np.radians(np.atleast_1d(dec))[:, None]
    turn, far = np.arange(24) * (np.pi / 12), np.radians(2.0 * radius_arcsec / 3600.0)
    up = np.arcsin(np.clip(np.sin(lat) * np.cos(far) + np.cos(lat) * np.sin(far) * np.cos(turn), -1, 1))
    across = np.sin(turn) * np.sin(far) * np.cos(lat)
    along = np.arctan2(across, np.cos(far) - np.sin(lat) * np.sin(up)) + lon
    around = cell(np.degrees(along).ravel() % 360.0, np.degrees(up).ravel(), order)
    return np.unique(np.concatenate([cell(ra, dec, order), around]))


def _cone(ra: np.ndarray | float, dec: np.ndarray | float, radius_arcsec: float) -> tuple[int, np.ndarray]:
    """Order and sorted cells, a sixth of the radius wide or so, that overlap one wide circle."""
    order = int(np.clip(np.floor(np.log2(_CELL_ARCSEC / radius_arcsec)) + 2, 0, ORDER))
    lon, lat = np.ravel(ra)[0] * units.deg, np.ravel(dec)[0] * units.deg
    found = core.healpix_cone_search(lon, lat, radius_arcsec * units.arcsec, 2**order, order="nested")
    return order, np.unique(np.asarray(found, np.int64))


def ranges(ra: np.ndarray | float, dec: np.ndarray | float, radius_arcsec: float) -> list[tuple[int, int]]:
    """Ranges of order-29 cells that contain every point within a radius of any of the positions (and some more).

    Parameters
    ----------
    ra, dec : float or array of shape (n,)
        ICRS, deg.
    radius_arcsec : float
        Radius of the circles, arcsec.

    Returns
    -------
    list of (first, last)
        Inclusive, sorted, not overlapping.
    """
    if radius_arcsec > 60.0 and np.size(ra) == 1:
        order, cells = _cone(ra, dec, radius_arcsec)
    else:
        order = _cover_order(4.0 * radius_arcsec)
        cells = _touched(ra, dec, radius_arcsec, order)
    if not len(cells):
        return []
    breaks = np.flatnonzero(np.diff(cells) > 1)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(cells) - 1)
    shift = 2 * (ORDER - order)
    return [(int(cells[a]) << shift, ((int(cells[b]) + 1) << shift) - 1) for a, b in zip(first, last, strict=True)]


def within(column: str, spans: Sequence[tuple[int, int]]) -> sql.Composable:
    """SQL condition "column lies in one of the ranges", as an OR of BETWEEN literals; for few ranges or one table."""
    if not spans:
        return sql.SQL("false")
    name = sql.Identifier(*column.split("."))
    terms = [sql.SQL("{} between {} and {}").format(name, sql.Literal(a), sql.Literal(b)) for a, b in spans]
    return sql.SQL("({})").format(sql.SQL(" or ").join(terms))


def probe(spans: Sequence[tuple[int, int]], inner: sql.Composable | str) -> sql.Composable:
    """SQL that looks up every range by itself: ``from`` items ``r`` (columns lo, hi) and ``c``, the rows of `inner`.

    On a table of thirty partitions a list of ranges joined laterally is planned and run several times as fast as the OR of
    its terms: the planner sees one condition, and every range is one descent of the index. ``offset 0`` keeps it from
    merging the two queries, after which it would take the ranges for a third of the sky and read every table to its end.

    Parameters
    ----------
    spans : sequence of (first, last)
        As of `ranges`: they do not overlap, so no row comes twice.
    inner : SQL
        A query of one table that ends with the condition ``hpx between r.lo and r.hi``.
    """
    lists = [sql.Literal([span[k] for span in spans]) for k in (0, 1)]
    return sql.SQL("unnest({}::bigint[], {}::bigint[]) as r (lo, hi) cross join lateral ({} offset 0) c").format(
        *lists, sql.SQL(inner) if isinstance(inner, str) else inner
    )


def lock_keys(ra: np.ndarray | float, dec: np.ndarray | float, radius_arcsec: float) -> list[int]:
    """Coarse cells to lock, in sorted order, so that two positions closer than the radius always share a lock."""
    order = _cover_order(radius_arcsec)
    if order <= _LOCK_ORDER:
        return [int(c) for c in _neighbourhood(ra, dec, order)]
    return [int(c) for c in np.unique(_neighbourhood(ra, dec, order) >> (2 * (order - _LOCK_ORDER)))]


def separation_arcsec(
    ra1: np.ndarray | float, dec1: np.ndarray | float, ra2: np.ndarray | float, dec2: np.ndarray | float
) -> np.ndarray:
    """Angular distance, arcsec, of positions in deg (haversine formula; shapes broadcast)."""
    lon1, lat1, lon2, lat2 = (np.radians(np.asarray(v, float)) for v in (ra1, dec1, ra2, dec2))
    h = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))) * 3600.0)


def inside_polygon(
    ra: np.ndarray | float, dec: np.ndarray | float, corners: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Whether positions lie inside a small convex polygon on the sphere.

    Parameters
    ----------
    ra, dec : float or array of shape (n,)
        Positions, deg.
    corners : sequence of 2 m floats
        ra1, dec1, ra2, dec2 ... in order around the polygon (either sense), deg.

    Returns
    -------
    bool array of shape (n,)
        A point is inside when it is on the same side of all great circles through consecutive corners.
    """
    return inside_polygons(ra, dec, np.asarray(corners, float).reshape(1, -1))[0]


def inside_polygons(ra: np.ndarray | float, dec: np.ndarray | float, corners: np.ndarray) -> np.ndarray:
    """The same for several polygons, (k, 2 m) corners: bool array of shape (k, n)."""
    polygons = np.asarray(corners, float).reshape(len(corners), -1, 2)
    points, vertices = _unit(np.atleast_1d(ra), np.atleast_1d(dec)), _unit(polygons[..., 0], polygons[..., 1])
    normals = np.cross(vertices, np.roll(vertices, -1, axis=1))
    side = normals @ points.T
    near = vertices.mean(axis=1) @ points.T > 0
    return np.asarray(near & (np.all(side >= 0, axis=1) | np.all(side <= 0, axis=1)))


def _unit(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors, shape (..., 3), of positions in deg."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
