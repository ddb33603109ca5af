"""Scheduled downtimes: new work is held, what runs is drained, and when it is over the newest comes first.

The state is one row in the database. `ingestd` asks for it and sends nothing while a downtime is open; files go on arriving in
the inbox, where nothing is lost. A downtime with an end is over at its end, whether or not somebody remembers.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztfds.operations.context import Context
from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError, DatabaseDown, NoWork

log = logging.getLogger(__name__)

ASK_EVERY_S = 3.0
LONGEST_HOURS = 14 * 24.0
OPEN_DOWNTIME = "select * from downtimes where released is null and (ends is null or ends > now())"
"""The downtime that holds new work now."""
_EXPIRE = "update downtimes set released = ends, released_by = 'its end' where released is null and ends <= now()"
_ANNOUNCE = """
    insert into downtimes (reason, announced_by, ends)
    values (%(reason)s, %(by)s, now() + make_interval(secs => %(hours)s * 3600)) on conflict ((true)) where released is null
    do update set reason = excluded.reason, ends = excluded.ends returning downtime_id, ends"""
_BUSY = """
    select (select count(*) from jobs where state = 'running' and started > now() - interval '1 day')::int as jobs,
           (select count(*) from exposures where state = 'processing')::int as exposures"""
_RELEASE = """
    update downtimes set released = now(), released_by = %s where released is null
    returning downtime_id, extract(epoch from now() - announced) / 3600 as hours"""


def current(dsn: str) -> dict[str, Any] | None:
    """The downtime that holds new work now, None without one."""
    return database.fetch_one(dsn, OPEN_DOWNTIME)


@dataclass
class Hold:
    """Whether new work is held, as `ingestd` asks for it: the database is asked every few seconds only.

    While the database does not answer, the last answer counts: what is held stays held.

    Attributes
    ----------
    dsn : str
        Database as a role that may read.
    held : bool
        The last answer.
    asked : float
        When it was given, s (monotonic clock).
    """

    dsn: str
    held: bool = False
    asked: float = field(default=-1e9)

    def __call__(self) -> bool:
        """Tell whether to send nothing now."""
        now = time.monotonic()
        if now - self.asked < ASK_EVERY_S:
            return self.held
        self.asked, before = now, self.held
        try:
            row = current(self.dsn)
        except DatabaseDown as error:
            log.warning("downtime unknown, goes on as before (held=%s): %s", self.held, error)
            return self.held
        self.held = row is not None
        if row is not None and not before:
            log.warning("downtime: nothing is sent until %s: %s", row["ends"] or "somebody resumes", row["reason"])
        elif before and row is None:
            log.warning("downtime is over: what has arrived is sent, the newest first")
        return self.held


def hold(context: Context, reason: str, by: str, hours: float = 0.0) -> Outcome:
    """Announce a downtime and hold new work from now on; repeating it changes reason and end of the open one.

    Parameters
    ----------
    context : Context
    reason, by : str
        Why, and who says so.
    hours : float
        Work resumes by itself after so long; 0: when somebody resumes it.
    """
    if not reason.strip():
        raise ConfigurationError("a downtime needs a reason")
    if not 0 <= hours <= LONGEST_HOURS:
        raise ConfigurationError(f"a downtime lasts up to {LONGEST_HOURS:.0f} hours, not {hours}")
    with database.transaction(context.dsn) as cursor:
        cursor.execute(_EXPIRE)
        row = database.rows(cursor, _ANNOUNCE, {"reason": reason, "by": by, "hours": hours or None})[0]
    until = f"until {row['ends']:%Y-%m-%d %H:%M}" if row["ends"] else "until somebody resumes"
    return Outcome.of(f"new work is held {until}: {reason} ({by})", downtime=row["downtime_id"])


def drained(context: Context, runs: int = 0) -> bool:
    """Whether nothing runs any more; the first time it is so is kept.

    Parameters
    ----------
    context : Context
    runs : int
        Runs of the orchestrator that are not finished.

    Returns
    -------
    bool
        True as well when no downtime is open.
    """
    with database.transaction(context.dsn) as cursor:
        if not database.rows(cursor, OPEN_DOWNTIME):
            return True
        busy = database.rows(cursor, _BUSY)[0]
        if runs or busy["jobs"] or busy["exposures"]:
            log.info("draining: %d runs, %d jobs, %d exposures", runs, busy["jobs"], busy["exposures"])
            return False
        cursor.execute("update downtimes set drained = coalesce(drained, now()) where released is null")
    return True


def report(context: Context) -> Outcome:
    """How the open downtime stands."""
    row, waiting = current(context.dsn), in_inbox(context.inbox)
    if row is None:
        return Outcome.of(f"no downtime; {waiting} files in the inbox", waiting=waiting)
    if row["drained"] is None:
        return Outcome.of(f"still draining: {row['reason']}", warnings=["work is running: do not switch anything off"])
    return Outcome.of(
        f"drained at {row['drained']:%H:%M}, nothing runs; {waiting} files wait in the inbox", waiting=waiting
    )


def resume(context: Context, by: str) -> Outcome:
    """Let new work go on; ingestd sends what has arrived meanwhile, the newest first.

    Raises
    ------
    NoWork
        No downtime is open.
    """
    with database.transaction(context.dsn) as cursor:
        cursor.execute(_EXPIRE)
        rows = database.rows(cursor, _RELEASE, (by,))
    if not rows:
        raise NoWork("no downtime is open")
    waiting, hours = in_inbox(context.inbox), float(rows[0]["hours"])
    line = f"work goes on after {hours:.1f} h ({by}); {waiting} files have arrived meanwhile, the newest go first"
    return Outcome.of(line, waiting=waiting, hours=hours, downtime=rows[0]["downtime_id"])


def in_inbox(inbox: Path) -> int:
    """Finished files in the inbox."""
    from ztfds.operations.ingestd import UNFINISHED

    try:
        return sum(1 for p in inbox.iterdir() if not p.name.startswith(".") and not p.name.endswith(UNFINISHED))
    except OSError:
        return 0
