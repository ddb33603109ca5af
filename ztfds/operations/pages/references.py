"""The page *References*: which fields, channels and filters have one, which failed, which wait to be made anew."""

from __future__ import annotations

from ztfds.operations.pages.render import page
from ztfds.registry import database

_COUNTS = """
    select field, fid, count(*) filter (where status = 1) as good, count(*) filter (where status <> 1) as failed,
           count(*) filter (where regenerate) as queued, min(nframes) as frames_low, max(nframes) as frames_high,
           avg(maglimit) filter (where status = 1) as maglimit
      from references_ where vbest > 0 group by 1, 2 order by 1, 2"""
_LOOK = """
    select rfid, field, rcid, fid, version, status, reason, nframes, maglimit, regenerate, created from references_
     where vbest > 0 and (status <> 1 or regenerate) order by regenerate desc, created desc limit 200"""
_TRIES = """
    select t.field, t.rcid, t.fid, t.inputs, t.reason, t.tried from reference_tries t
     where t.reason is not null and not exists (
        select 1 from references_ r where (r.field, r.rcid, r.fid) = (t.field, t.rcid, t.fid) and r.vbest > 0)
     order by t.tried desc limit 200"""


def references_page(dsn: str) -> str:
    """Counts by field and filter, those that failed or wait, and those that could not be made yet with the reason."""
    with database.transaction(dsn) as cursor:
        counts, look, tries = (database.rows(cursor, query) for query in (_COUNTS, _LOOK, _TRIES))
    return page("references", counts=counts, look=look, tries=tries)
