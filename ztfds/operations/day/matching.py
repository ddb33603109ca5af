"""When source matching is due: fields, channels and filters with enough usable epochs more than at their last matching."""

from __future__ import annotations

from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError

_COUNT = """
    insert into matching_queue as q (field, rcid, fid, epochs, first, last, queued)
    select p.field, p.rcid, p.fid, count(*), min(e.obsjd), max(e.obsjd),
           case when count(*) >= %(epochs)s then now() end
      from products p join exposures e on e.exposure = p.exposure
     where p.kind = 'psfcat' and p.vbest > 0 and p.status = 1 and e.imgtype = 'o'
     group by p.field, p.rcid, p.fid
    on conflict (field, rcid, fid) do update set epochs = excluded.epochs, first = excluded.first, last = excluded.last,
        counted = now(),
        queued = case when excluded.epochs - q.matched >= %(epochs)s then coalesce(q.queued, now()) end"""
_SUM = """
    select count(*)::int as groups, count(*) filter (where queued is not null)::int as due,
           coalesce(sum(epochs - matched) filter (where queued is not null), 0)::int as epochs from matching_queue"""


def queue_due(context: Context, epochs: int) -> Outcome:
    """Count the usable epochs of every field, channel and filter, and queue what is due; repeating it changes nothing.

    Parameters
    ----------
    context : Context
    epochs : int
        So many usable epochs more than at the last matching make it due.
    """
    if epochs < 1:
        raise ConfigurationError(f"{epochs} new epochs are none")
    with database.transaction(context.dsn) as cursor:
        cursor.execute(_COUNT, {"epochs": epochs})
        found = database.rows(cursor, _SUM)[0]
    line = (
        f"{found['due']} of {found['groups']} fields, channels and filters are due, with {found['epochs']} new epochs"
    )
    return Outcome.of(line, **found)
