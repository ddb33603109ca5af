"""Calibration images: which bias, flat or smooth map is valid for an exposure; and the figures of readout channels over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, transaction
from ztfds.survey.errors import CalibrationMissing

BIAS, FLAT, LAMP, LOW_FLAT = "bias", "hifreqflat", "lampcorr", "lownuflat"


def record(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Insert a calibration; the same provenance again changes nothing.

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        calid, caltype, nid, ccdid, rcid, fid (0 for a bias), valid_from_jd, provenance_id, data_id, unc_id, cmask_id,
        accepted, reason, nframes, version; valid_to_jd where the validity ends at a known time.
    """
    insert(cursor, "calibrations", values, "on conflict (provenance_id) do nothing")


def valid(dsn: str, caltype: str, rcid: int, fid: int, jd: float) -> dict[str, Any]:
    """The last accepted calibration made for this time or before, however old, with the rows of its products.

    Parameters
    ----------
    dsn : str
    caltype : {'bias', 'hifreqflat', 'lampcorr', 'lownuflat'}
    rcid : int
        Readout channel.
    fid : int
        Filter; ignored for a bias.
    jd : float
        Start of the exposure.

    Returns
    -------
    dict
        The row of `calibrations` and, under ``data``, ``unc`` and ``cmask``, the rows of its products (None if absent);
        ``qa`` has its quality metrics, ``age_d`` is the time since it became valid, d.

    Raises
    ------
    CalibrationMissing
        There is none.
    """
    query = """
        select c.*, %(jd)s - c.valid_from_jd as age_d, to_jsonb(d) as data, to_jsonb(u) as unc, to_jsonb(m) as cmask,
            (select jsonb_object_agg(q.name, q.value) from qa_metrics q where q.provenance_id = c.provenance_id) as qa
        from calibrations c join products d on d.product_id = c.data_id
        left join products u on u.product_id = c.unc_id left join products m on m.product_id = c.cmask_id
        where c.caltype = %(caltype)s and c.rcid = %(rcid)s and c.fid = %(fid)s and c.accepted
            and c.valid_from_jd <= %(jd)s and (c.valid_to_jd is null or c.valid_to_jd > %(jd)s)
        order by c.valid_from_jd desc, c.calibration_id desc limit 1"""
    fid = 0 if caltype == BIAS else fid
    row = fetch_one(dsn, query, {"caltype": caltype, "rcid": rcid, "fid": fid, "jd": jd})
    if row is None:
        raise CalibrationMissing(f"no accepted {caltype} for filter {fid} at JD {jd:.5f}", rcid=rcid)
    return row


def find(dsn: str, caltype: str, rcid: int, fid: int, jd: float) -> dict[str, Any] | None:
    """The same as `valid`, None where there is none: what is applied where it exists, and what a new one is compared with."""
    try:
        return valid(dsn, caltype, rcid, fid, jd)
    except CalibrationMissing:
        return None


def lamp_of(row: Mapping[str, Any] | None) -> int:
    """Number of the lamp correction that a calibration stands on; 0 for none."""
    return int((row["data"].get("meta") or {}).get("lampid") or 0) if row else 0


def low_flat_for(dsn: str, flat_row: Mapping[str, Any], jd: float) -> dict[str, Any] | None:
    """The low-frequency flat that goes with a flat, None if there is none.

    It was measured with stars on images that flats of one lamp correction had flattened: with flats of another it would
    correct the lamp twice or not at all, and is not used.
    """
    low = find(dsn, LOW_FLAT, int(flat_row["rcid"]), int(flat_row["fid"]), jd)
    return low if low and lamp_of(low) == lamp_of(flat_row) else None


def of_night(dsn: str, nid: int) -> list[dict[str, Any]]:
    """Calibrations made for one night."""
    return fetch_all(
        dsn, "select * from calibrations where nid = %s order by caltype, rcid, fid, calibration_id", (nid,)
    )


def decide(dsn: str, calibration_id: int, accepted: bool, reason: str) -> None:
    """An operator accepts or refuses a calibration; the pipeline uses the decision from then on."""
    with transaction(dsn) as cursor:
        statement = "update calibrations set accepted = %s, reason = %s where calibration_id = %s"
        cursor.execute(statement, (accepted, reason, calibration_id))


def expire(dsn: str, calibration_id: int, valid_to_jd: float | None) -> None:
    """Declare the end of the validity of a calibration (None: open again)."""
    with transaction(dsn) as cursor:
        statement = "update calibrations set valid_to_jd = %s where calibration_id = %s"
        cursor.execute(statement, (valid_to_jd, calibration_id))


def frames(dsn: str, nid: int, ccdid: int, imgtype: str, fid: int | None = None) -> list[dict[str, Any]]:
    """The ingested raw calibration frames of a night, CCD and image type (and filter), in order of time.

    Rows of `ccdfiles` with the exposure's obsjd and fid, and the provenance id of the raw product.
    """
    query = """
        select f.*, e.obsjd, e.fid, e.nid, p.provenance_id from ccdfiles f
        join exposures e using (exposure) join products p on p.product_id = f.product_id
        where e.nid = %(nid)s and f.ccdid = %(ccdid)s and e.imgtype = %(imgtype)s
            and (%(fid)s::smallint is null or e.fid = %(fid)s) and f.state in ('ingested', 'processed', 'calibrated')
        order by e.obsjd"""
    return fetch_all(dsn, query, {"nid": nid, "ccdid": ccdid, "imgtype": imgtype, "fid": fid})


# -- channels over time ------------------------------------------------------------------------------------------------


def split_history(dsn: str, rcid: int, jd: float, count: int, max_age_d: float) -> list[dict[str, float | None]]:
    """Metrics of the last good split quadrants of a channel before a time, the latest first."""
    query = """
        select metrics from split_quality
        where rcid = %(rcid)s and flags = 0 and jd < %(jd)s and jd > %(jd)s - %(age)s order by jd desc limit %(count)s"""
    found = fetch_all(dsn, query, {"rcid": rcid, "jd": jd, "age": max_age_d, "count": count})
    return [row["metrics"] for row in found]


def record_split(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Keep the figures of a split quadrant; those of an earlier version of the same are replaced.

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        exposure, rcid, jd, fid, provenance_id, metrics (mapping of str to float), flags, reasons.
    """
    tail = """
        on conflict (exposure, rcid) do update set provenance_id = excluded.provenance_id, metrics = excluded.metrics,
            flags = excluded.flags, reasons = excluded.reasons"""
    insert(cursor, "split_quality", values, tail)


def trend(
    dsn: str, caltype: str, rcid: int, fid: int, before_jd: float = math.inf, count: int = 1000, *, good: bool = False
) -> list[dict[str, Any]]:
    """Figures of a channel over time, the latest first: rows of jd, metrics, accepted, flags, reasons.

    Parameters
    ----------
    dsn : str
    caltype : {'bias', 'hifreqflat'}
        Biases tell read noise and level; flats gain, saturation and lamp.
    rcid, fid : int
    before_jd : float
        Only earlier ones.
    count : int
        At most so many.
    good : bool
        Only accepted ones without a flag.
    """
    query = """
        select jd, metrics, accepted, flags, reasons, provenance_id from channel_trends
        where caltype = %(caltype)s and rcid = %(rcid)s and fid = %(fid)s and jd < %(jd)s
            and (not %(good)s or (accepted and flags = 0)) order by jd desc limit %(count)s"""
    about = {"caltype": caltype, "rcid": rcid, "fid": fid, "jd": before_jd, "good": good, "count": count}
    return fetch_all(dsn, query, about)


def record_trend(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Keep the figures of a bias or flat: provenance_id, caltype, rcid, fid, nid, jd, metrics, accepted, flags, reasons."""
    insert(cursor, "channel_trends", values, "on conflict (provenance_id) do nothing")
