"""Summaries of quality and of visits by exposure, night, channel and field, from which pages are drawn fast on nights of any size."""

from __future__ import annotations

from collections import defaultdict

import psycopg2.extras

from ztfds.registry.database import Cursor, transaction
from ztfds.survey.figures import all_figures, band

HISTORY_NIGHTS = 20
"""A night is compared with so many nights before it that have figures."""

_EXPOSURE = """
    with served as (select distinct provenance_id from products where exposure = %(exposure)s and vbest > 0),
         found as (
            select q.name, q.rcid, q.value from qa_metrics q join served using (provenance_id)
             where q.exposure = %(exposure)s and q.rcid is not null and q.name = any(%(names)s) and q.value is not null)
    insert into exposure_quality (exposure, name, nid, field, fid, jd, n, low, median, high, lowest_rcid, highest_rcid)
    select e.exposure, f.name, e.nid, e.field, e.fid, e.obsjd, count(*),
           percentile_cont(0.05) within group (order by f.value), percentile_cont(0.5) within group (order by f.value),
           percentile_cont(0.95) within group (order by f.value),
           (array_agg(f.rcid order by f.value, f.rcid))[1], (array_agg(f.rcid order by f.value desc, f.rcid))[1]
      from exposures e cross join found f
     where e.exposure = %(exposure)s and e.imgtype = 'o' and e.fid is not null group by e.exposure, f.name
    on conflict (exposure, name) do update set
        n = excluded.n, low = excluded.low, median = excluded.median, high = excluded.high, jd = excluded.jd,
        field = excluded.field, lowest_rcid = excluded.lowest_rcid, highest_rcid = excluded.highest_rcid"""

_VISITS = """
    insert into field_nights (field, fid, programid, nid, visits, usable, depth, jd, ra, dec)
    select e.field, e.fid, e.programid, e.nid, count(*), coalesce(sum(u.n), 0), percentile_cont(0.5) within group (order by q.median),
           max(e.obsjd), (array_agg(e.ra order by e.obsjd desc))[1], (array_agg(e.dec order by e.obsjd desc))[1]
      from exposures e join exposures this on this.exposure = %(exposure)s
       and (e.nid, e.field, e.fid, e.programid) = (this.nid, this.field, this.fid, this.programid)
      left join lateral (select count(*) as n from products p where p.exposure = e.exposure and p.kind = 'sciimg' and p.vbest > 0
                            and p.status = 1) u on true
      left join exposure_quality q on q.exposure = e.exposure and q.name = 'maglim_mag'
     where e.imgtype = 'o' and e.state in ('processing', 'processed', 'calibrated', 'incomplete') group by 1, 2, 3, 4
    on conflict (field, fid, programid, nid) do update set visits = excluded.visits, usable = excluded.usable,
        depth = excluded.depth, jd = excluded.jd, ra = excluded.ra, dec = excluded.dec"""

_TOTALS = """
    insert into field_totals (field, fid, programid, nights, visits, usable, depth, jd, ra, dec)
    select n.field, n.fid, n.programid, count(*), sum(n.visits), sum(n.usable),
           sum(n.depth * n.visits) / sum(n.visits) filter (where n.depth is not null),
           max(n.jd), (array_agg(n.ra order by n.jd desc))[1], (array_agg(n.dec order by n.jd desc))[1]
      from field_nights n join exposures e on (n.field, n.fid, n.programid) = (e.field, e.fid, e.programid)
     where e.exposure = %(exposure)s group by 1, 2, 3
    on conflict (field, fid, programid) do update set nights = excluded.nights, visits = excluded.visits,
        usable = excluded.usable, depth = excluded.depth, jd = excluded.jd, ra = excluded.ra, dec = excluded.dec"""

_NIGHT = """
    insert into night_quality (nid, fid, name, n, low, median, high, scatter)
    with middle as (
        select fid, name, percentile_cont(0.5) within group (order by median) as m from exposure_quality where nid = %(nid)s
         group by 1, 2)
    select %(nid)s, q.fid, q.name, count(*), percentile_cont(0.05) within group (order by q.median), min(m.m),
           percentile_cont(0.95) within group (order by q.median),
           1.4826 * percentile_cont(0.5) within group (order by abs(q.median - m.m))
      from exposure_quality q join middle m using (fid, name) where q.nid = %(nid)s group by 2, 3"""

_CHANNELS = """
    insert into channel_quality (rcid, fid, name, nid, n, low, median, high)
    select q.rcid, q.fid, q.name, q.nid, count(*), percentile_cont(0.05) within group (order by q.value),
           percentile_cont(0.5) within group (order by q.value), percentile_cont(0.95) within group (order by q.value)
      from qa_metrics q
     where q.nid = %(nid)s and q.name = any(%(names)s) and q.value is not null and q.rcid is not null and q.fid is not null
       and q.exposure is not null
       and exists (select 1 from products p where p.provenance_id = q.provenance_id and p.vbest > 0)
     group by 1, 2, 3, 4"""

_HISTORY = """
    select c.rcid, c.fid, c.name, c.nid, c.median from channel_quality c
     where c.nid <= %(nid)s and c.nid >= (select min(nid) from (
        select nid from nights where nid <= %(nid)s order by nid desc limit %(nights)s) latest)"""


def of_exposure(cursor: Cursor, exposure: str) -> None:
    """Renew the summaries that an exposure is in, inside the caller's transaction; one that is not on the sky has none.

    Two exposures of one field that are closed at the same moment wait for each other, so that no visit is lost.
    """
    where = {"exposure": exposure, "names": [figure.name for figure in all_figures()]}
    cursor.execute(
        "select pg_advisory_xact_lock(hashtextextended('ztf.field_nights', field)) from exposures where exposure = %s",
        (exposure,),
    )
    cursor.execute("delete from exposure_quality where exposure = %s", (exposure,))
    for statement in (_EXPOSURE, _VISITS, _TOTALS):
        cursor.execute(statement, where)


def renew_exposure(dsn: str, exposure: str) -> None:
    """The same in a transaction of its own."""
    with transaction(dsn) as cursor:
        of_exposure(cursor, exposure)


def renew_night(dsn: str, nid: int) -> int:
    """Renew all summaries of a night: those of its exposures, of the night and of every channel; repeating it changes nothing.

    Returns
    -------
    int
        Number of its exposures on the sky.
    """
    with transaction(dsn) as cursor:
        cursor.execute("select exposure from exposures where nid = %s and imgtype = 'o' order by exposure", (nid,))
        exposures = [row[0] for row in cursor.fetchall()]
    for exposure in exposures:
        renew_exposure(dsn, exposure)
    where = {"nid": nid, "names": [figure.name for figure in all_figures()]}
    with transaction(dsn) as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('ztf.night_quality', %s))", (nid,))
        for table, statement in (("night_quality", _NIGHT), ("channel_quality", _CHANNELS)):
            cursor.execute(f"delete from {table} where nid = %s", (nid,))
            cursor.execute(statement, where)
        _mark_departures(cursor, nid)
    return len(exposures)


def _mark_departures(cursor: Cursor, nid: int) -> None:
    """Write beside the figures of each channel the band of its history, and whether they depart from it."""
    cursor.execute(_HISTORY, {"nid": nid, "nights": HISTORY_NIGHTS + 1})
    values: dict[tuple[str, int, int], list[tuple[int, float]]] = defaultdict(list)
    for rcid, fid, name, night, median in cursor.fetchall():
        values[name, rcid, fid].append((night, median))
    figures = {figure.name: figure for figure in all_figures()}
    rows = []
    for (name, rcid, fid), found in values.items():
        now = next((median for night, median in found if night == nid), None)
        expected = band(figures[name], [median for night, median in found if night != nid]) if name in figures else None
        if now is not None and expected is not None and expected.known:
            rows.append((rcid, fid, name, nid, expected.low, expected.high, expected.departs(now)))
    psycopg2.extras.execute_values(
        cursor,
        "update channel_quality c set expected_low = v.low, expected_high = v.high, departs = v.departs"
        " from (values %s) v (rcid, fid, name, nid, low, high, departs)"
        " where (c.rcid, c.fid, c.name, c.nid) = (v.rcid, v.fid, v.name, v.nid)",
        rows,
        page_size=2000,
    )
