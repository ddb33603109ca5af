"""The page *Coverage*: what of the sky was seen in a night and since the beginning, per filter and program, with maps."""

from __future__ import annotations

from pathlib import Path

from ztfds.operations.pages.render import page
from ztfds.registry import database
from ztfds.survey.errors import FilesMissing

MAPS = {"night": "coverage_night_png", "total": "coverage_total_png"}
_NIGHTS = """
    select nid, meta from products where kind = 'coverage_night' and vbest > 0 order by nid desc limit 60"""
_TOTAL = "select meta from products where nid = %s and kind = 'coverage_total' and vbest > 0"
_PICTURE = "select path from products where nid = %s and kind = %s and vbest > 0"
_FILES = """
    select kind, path, bytes from products where nid = %s and kind like 'coverage%%' and vbest > 0 order by kind"""


def coverage_page(dsn: str, nid: int | None = None) -> str:
    """Maps and tables of a night, the newest by default."""
    with database.session(dsn):
        nights = database.fetch_all(dsn, _NIGHTS)
        if not nights:
            return page(
                "empty", title="Coverage", text="No coverage map has been made yet: the DAG coverage makes them."
            )
        nid = nid if nid is not None else nights[0]["nid"]
        row = next((night for night in nights if night["nid"] == nid), None)
        total = database.fetch_one(dsn, _TOTAL, (nid,))
        files = database.fetch_all(dsn, _FILES, (nid,))
    tables = [("This night", row["meta"] if row else None), ("Since the beginning", total["meta"] if total else None)]
    return page("coverage", nid=nid, nights=nights, tables=tables, files=files)


def coverage_picture(dsn: str, archive: Path, which: str, nid: int) -> bytes:
    """The map of a night (``night``) or of all nights until it (``total``), PNG.

    Raises
    ------
    FilesMissing
        There is none.
    """
    row = database.fetch_one(dsn, _PICTURE, (nid, MAPS.get(which, "")))
    path = Path(archive) / row["path"] if row else None
    if path is None or not path.is_file():
        raise FilesMissing(f"no map {which!r} of night {nid}")
    return path.read_bytes()
