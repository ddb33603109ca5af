"""The history of a position: which earlier detections and upper limits belong into a packet, and how many there were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ztfds.alerts.association import RADIUS_ARCSEC, separations_arcsec
from ztfds.survey.fields import unit_vector
from ztfds.survey.programs import may_see

HISTORY_DAYS = 30.0
Row = Mapping[str, Any]


@dataclass(frozen=True)
class DetectionCounts:
    """What packets say about all earlier detections of a position.

    Attributes
    ----------
    ndethist : int
        Detections within the radius on the same field and channel, the present one included.
    jdstarthist, jdendhist : float
        Julian dates of the first and the last of them.
    """

    ndethist: int
    jdstarthist: float
    jdendhist: float


def near(rows: Sequence[Row], ra: float, dec: float, radius_arcsec: float = RADIUS_ARCSEC) -> list[Row]:
    """Rows (with ``ra``, ``dec`` in deg) within a radius of a position, in the given order."""
    if not rows:
        return []
    ras, decs = (np.array([row[key] for row in rows], dtype=float) for key in ("ra", "dec"))
    close = separations_arcsec(ra, dec, ras, decs) <= radius_arcsec
    return [row for row, keep in zip(rows, close, strict=True) if keep]


def covers(corners: Sequence[tuple[float, float]], ra: float, dec: float) -> bool:
    """Whether a quadrant covers a position.

    Parameters
    ----------
    corners : sequence of (ra, dec)
        Corners in order around it, deg; the quadrant is smaller than a hemisphere.
    ra, dec : float
        Position, deg.
    """
    vectors = unit_vector(*np.asarray(corners, dtype=float).T)
    point = unit_vector(ra, dec)
    if point @ vectors.sum(axis=0) <= 0:
        return False
    sides = np.cross(vectors, np.roll(vectors, -1, axis=0)) @ point
    return bool(np.all(sides >= 0) or np.all(sides <= 0))


def visible(rows: Iterable[Row], programid: int) -> list[Row]:
    """Rows that the audience of a program may see; a row's key ``released`` says that its proprietary time is over."""
    return [row for row in rows if _allowed(programid, int(row["programid"]), bool(row.get("released", False)))]


_allowed = cache(may_see)


def select_history(
    detections: Sequence[Row],
    limits: Sequence[Row],
    *,
    ra: float,
    dec: float,
    jd: float,
    programid: int,
    days: float = HISTORY_DAYS,
    radius_arcsec: float = RADIUS_ARCSEC,
) -> list[Row]:
    """Choose what goes into ``prv_candidates``.

    Parameters
    ----------
    detections : sequence of mapping
        Earlier candidates around the position, with the packet's column names; those outside the radius are dropped.
    limits : sequence of mapping
        Difference images that covered the position (`covers`), with ``jd fid pid diffmaglim programid ...``; where one of
        them has a detection it gives no upper limit.
    ra, dec : float
        Position of the triggering candidate, deg.
    jd : float
        Start of its exposure: only strictly earlier rows count.
    programid : int
        Its program: rows that its audience may not see are dropped.
    days, radius_arcsec : float
        Look-back and radius.

    Returns
    -------
    list of mapping
        Sorted by date; upper limits have no candidate number.
    """
    wanted = [row for row in detections if jd - days <= row["jd"] < jd]
    close = near(wanted, ra, dec, radius_arcsec)
    found, detected = visible(close, programid), {row["pid"] for row in close}
    empty = [row for row in limits if jd - days <= row["jd"] < jd and row["pid"] not in detected]
    chosen: list[Row] = [*found, *(_without_number(row) for row in visible(empty, programid))]
    return sorted(chosen, key=lambda row: (row["jd"], row["pid"], row.get("candid") or 0))


def _without_number(row: Row) -> Row:
    """An upper limit as packets hold it: with the candidate number null."""
    return row if row.get("candid", 0) is None else {**row, "candid": None}


def detection_counts(
    detections: Sequence[Row],
    *,
    ra: float,
    dec: float,
    jd: float,
    field: int,
    rcid: int,
    radius_arcsec: float = RADIUS_ARCSEC,
) -> DetectionCounts:
    """Count the earlier detections of a position on the same field and channel, the present one (at `jd`) included."""
    same = [row for row in detections if row["field"] == field and row["rcid"] == rcid and row["jd"] < jd]
    dates = [float(row["jd"]) for row in near(same, ra, dec, radius_arcsec)]
    return DetectionCounts(len(dates) + 1, min([*dates, jd]), jd)
