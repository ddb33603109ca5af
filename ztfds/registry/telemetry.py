"""What the telemetry of a night comes to: medians, extremes, and what left its limits."""

from __future__ import annotations

from typing import Any

from ztfds.registry.database import Cursor, rows

_NIGHT = """
    with span as (select min(first) as first, max(last) as last from telemetry_files where nid = %s),
    readings as (
        select t.quantity_id, t.value, t.time, greatest(q.low - t.value, t.value - q.high) as beyond
          from span s join telemetry t on t.time between s.first and s.last join telemetry_quantities q using (quantity_id))
    select q.name, q.unit, q.low, q.high, count(r.value)::int as readings, min(r.value) as least, max(r.value) as most,
           percentile_cont(0.5) within group (order by r.value) as median,
           count(*) filter (where r.beyond > 0)::int as departures,
           (array_agg(r.time order by r.beyond desc, r.time) filter (where r.beyond > 0))[1] as worst
      from telemetry_quantities q left join readings r using (quantity_id) group by q.quantity_id order by q.quantity_id"""


def of_night(cursor: Cursor, nid: int) -> list[dict[str, Any]]:
    """What the readings of a night come to, for every quantity.

    Parameters
    ----------
    cursor : psycopg2 cursor
    nid : int
        Night number.

    Returns
    -------
    list of dict
        ``name unit low high readings least median most departures worst``: number of readings, of those outside of the limits, and
        the time of the one that is furthest outside; None where there is none. Empty for a night without readings.
    """
    found = rows(cursor, _NIGHT, (nid,))
    return found if any(row["readings"] for row in found) else []
