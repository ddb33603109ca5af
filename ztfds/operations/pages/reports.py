"""The page *Night reports*: the list of them, and one of them as it was written."""

from __future__ import annotations

from pathlib import Path

from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey.errors import FilesMissing

_REPORT = "kind = 'nightreport_html' and vbest > 0 and exposure is null and field is null and rcid is null"
_LIST = f"select nid, created, version from products where {_REPORT} order by nid desc limit 400"
_ONE = f"select path from products where {_REPORT} and nid = %s"


def reports_page(dsn: str) -> str:
    """The nights that have a report, newest first."""
    return page("reports", reports=database.fetch_all(dsn, _LIST))


def report(dsn: str, archive: Path, nid: int) -> str:
    """The report of a night as it was written.

    Raises
    ------
    FilesMissing
        It has none, or its file is away.
    """
    row = database.fetch_one(dsn, _ONE, (nid,))
    if row is None:
        raise FilesMissing(f"no report of night {nid}")
    try:
        return (Path(archive) / row["path"]).read_text()
    except OSError as error:
        raise FilesMissing(f"the report of night {nid} is registered, but its file is away: {error}") from error
