"""The page *Telemetry*: one night of telescope, dome and weather: trends against their limits, exposures that depart, files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ztfds.operations.pages.render import page
from ztfds.registry import database

WIDTH, HEIGHT = 260, 44
BINS = 120
"""Points of a trend."""

_NIGHTS = "select distinct nid from telemetry_files order by nid desc limit 60"
_TRENDS = """
    with span as (select date_trunc('day', min(first)) as start, min(first) as first, max(last) as last
                    from telemetry_files where nid = %(nid)s),
    readings as (
        select t.quantity_id, t.value, t.time,
               width_bucket(extract(epoch from t.time)::float8, extract(epoch from s.first)::float8,
                            extract(epoch from s.last)::float8 + 1, %(bins)s) as bin
          from span s join telemetry t on t.time >= s.first and t.time <= s.last),
    binned as (select quantity_id, bin, avg(value) as value from readings group by 1, 2),
    figures as (
        select quantity_id, count(*) as n, min(value) as least, max(value) as most,
               percentile_cont(0.5) within group (order by value) as median,
               (array_agg(value order by time desc))[1] as newest
          from readings group by 1)
    select q.name, q.unit, q.words, q.low, q.high, f.n, f.least, f.median, f.most, f.newest,
           (select json_agg(json_build_array(b.bin, b.value) order by b.bin) from binned b where b.quantity_id = q.quantity_id) as trend
      from telemetry_quantities q left join figures f using (quantity_id) order by q.quantity_id"""
_DEPARTS = """
    select exposure, string_agg(format('%%s %%s %%s', name, round(value::numeric, 2), unit), ', ' order by name) as what
      from exposure_telemetry where nid = %s and departs group by exposure order by exposure desc limit 100"""
_WITH = """
    select count(*) as exposures, count(*) filter (where exists (
               select 1 from exposure_telemetry t where t.exposure = e.exposure)) as joined
      from exposures e where nid = %s and imgtype = 'o'"""
_LIMITS = "select version, author, reason, created, differences from telemetry_limits order by version desc limit 50"
_FILES = "select * from telemetry_files where nid = %s order by filename"
_COPIES = """
    select filename, verdict, error_code, reason, arrival from receipts r
     where verdict <> 'accepted' and filename like '%%\\_telemetry.ecsv'
       and (filename in (select filename from telemetry_files where nid = %s)) order by receipt_id desc limit 50"""


def telemetry_page(dsn: str, nid: int | None = None) -> str:
    """One night, the newest with telemetry by default."""
    with database.session(dsn):
        nights = [row["nid"] for row in database.fetch_all(dsn, _NIGHTS)]
        nid = nid if nid is not None else nights[0] if nights else 0
        trends = database.fetch_all(dsn, _TRENDS, {"nid": nid, "bins": BINS})
        counts = database.fetch_one(dsn, _WITH, (nid,)) or {}
        departing = database.fetch_all(dsn, _DEPARTS, (nid,))
        versions = database.fetch_all(dsn, _LIMITS)
        files, copies = database.fetch_all(dsn, _FILES, (nid,)), database.fetch_all(dsn, _COPIES, (nid,))
    for row in trends:
        row["line"] = line(row["trend"] or [])
        row["departs"] = departs(row)
    return page(
        "telemetry",
        nid=nid,
        nights=nights,
        trends=trends,
        versions=versions,
        counts=counts,
        departing=departing,
        files=files,
        copies=copies,
        size=(WIDTH, HEIGHT),
    )


def line(trend: Sequence[Sequence[float]]) -> str:
    """Points of an SVG polyline through (bin, value) pairs, in a box of `WIDTH` by `HEIGHT`; empty without values."""
    if not trend:
        return ""
    values = [value for _, value in trend]
    low, span = min(values), max(max(values) - min(values), 1e-9)
    return " ".join(
        f"{number * WIDTH / BINS:.1f},{HEIGHT - 2 - (HEIGHT - 4) * (value - low) / span:.1f}" for number, value in trend
    )


def departs(row: dict[str, Any]) -> bool:
    """Whether a quantity left its limits in the night."""
    if row["n"] is None:
        return False
    under = row["low"] is not None and row["least"] < row["low"]
    return bool(under or (row["high"] is not None and row["most"] > row["high"]))
