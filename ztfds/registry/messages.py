"""What running tasks say: warnings and errors of the library, kept in the database the moment they are logged."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from ztfds.registry.database import connect, insert, transaction
from ztfds.survey.errors import DatabaseDown

MOST = 200
"""So many messages of one task are kept; the last of them says that there were more."""
LONGEST = 2000
"""Characters of a message that are kept."""
AT_ONCE = 20_000
"""So many messages are deleted in one transaction."""
_PRUNE = """
    delete from messages where message_id in (
        select message_id from messages where at < now() - make_interval(secs => %s) order by at limit %s)"""


@dataclass(frozen=True)
class About:
    """What an execution of a step is about.

    Attributes
    ----------
    step : str or None
    exposure : str or None
    rcid, nid : int or None
    """

    step: str | None = None
    exposure: str | None = None
    rcid: int | None = None
    nid: int | None = None


ABOUT: ContextVar[About | None] = ContextVar("ztfds_messages_about", default=None)
"""Set by the step runner while it executes a step."""


class Collector(logging.Handler):
    """Keeps warnings and errors of one task, each in a short transaction on a connection of its own.

    A message that cannot be kept is dropped: it stands in the task's log all the same.

    Parameters
    ----------
    dsn : str
        Database as the role ``ztf_pipeline``.
    task : mapping
        Columns that are the same for all messages: ``dag task map_index run_id try``.
    about : About, optional
        What a message outside of any step is about.
    """

    def __init__(self, dsn: str, task: Mapping[str, Any], about: About | None = None) -> None:
        super().__init__(logging.WARNING)
        self.dsn, self.task, self.about, self.kept = dsn, dict(task), about or About(), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        if self.kept >= MOST:
            return
        self.kept += 1
        text = record.getMessage() if self.kept < MOST else "more messages: see the log of the task"
        about = ABOUT.get() or self.about
        values = {
            "level": "error" if record.levelno >= logging.ERROR else "warning",
            "source": record.name,
            "text": text[:LONGEST].replace("\0", ""),
            **asdict(about),
            **self.task,
            "host": socket.gethostname(),
        }
        try:
            connection = connect(self.dsn, timeout_s=3)
            try:
                with connection, connection.cursor() as cursor:
                    insert(cursor, "messages", values)
            finally:
                connection.close()
        except DatabaseDown:
            return
        except Exception:
            self.handleError(record)


@contextmanager
def collected(dsn: str, task: Mapping[str, Any], about: About | None = None) -> Iterator[None]:
    """Keep what the library says inside the block; parameters as of `Collector`."""
    collector, library = Collector(dsn, task, about), logging.getLogger("ztfds")
    library.addHandler(collector)
    try:
        yield
    finally:
        library.removeHandler(collector)


def prune(dsn: str, days: float, at_once: int = AT_ONCE) -> int:
    """Delete messages that are older than some days, in short transactions; returns how many."""
    gone = 0
    while True:
        with transaction(dsn) as cursor:
            cursor.execute(_PRUNE, (days * 86400.0, at_once))
            deleted = cursor.rowcount
        gone += deleted
        if deleted < at_once:
            return gone
