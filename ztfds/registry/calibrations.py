"""Calibration images: which bias or flat is valid for an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, transaction
from ztfds.survey.errors import CalibrationMissing

BIAS, FLAT = "bias", "hifreqflat"


def record(cursor: Cursor, values: Mapping[str, Any]) -> None:
    """Insert a calibration; the same provenance again changes nothing.

    Parameters
    ----------
    cursor : psycopg2 cursor
    values : mapping
        calid, caltype, nid, ccdid, rcid, fid (0 for a bias), valid_from_jd, provenance_id, data_id, unc_id, cmask_id,
        accepted, reason, nframes.
    """
    insert(cursor, "calibrations", values, "on conflict (provenance_id) do nothing")


def valid(dsn: str, caltype: str, rcid: int, fid: int, jd: float) -> dict[str, Any]:
    """The last accepted calibration made for this time or before, however old, with the rows of its products.

    Parameters
    ----------
    dsn : str
    caltype : {'bias', 'hifreqflat'}
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


def previous(dsn: str, caltype: str, rcid: int, fid: int, before_jd: float) -> dict[str, Any] | None:
    """The last accepted calibration that became valid before a time: what a new one is compared with."""
    try:
        return valid(dsn, caltype, rcid, fid, before_jd)
    except CalibrationMissing:
        return None


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
