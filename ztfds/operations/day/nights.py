"""Which night a day task is about."""

from __future__ import annotations

from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.survey import ids
from ztfds.survey.errors import NoWork

_LAST = (
    "select max(nid) as nid from exposures where imgtype = 'o' and state in ('processed', 'calibrated', 'incomplete')"
)


def wanted_night(context: Context, date: str = "") -> int:
    """Number of the night of a form: its date ``YYYYMMDD``, or the last night with images on the sky.

    Raises
    ------
    NoWork
        There is none yet.
    BadName
        It is no date.
    """
    if date:
        return ids.nid_of_date(date)
    row = database.fetch_one(context.dsn, _LAST)
    if row is None or row["nid"] is None:
        raise NoWork("no night has images on the sky yet")
    return int(row["nid"])
