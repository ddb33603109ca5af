"""Receipts of arrived files and manifests of sent ones: what accountability is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2.extras

from ztfds.registry.database import Cursor, fetch_all, fetch_one, insert, rows, transaction
from ztfds.survey.errors import UnreadableFile

_LONGEST_FILE = 2**63 - 1
_LONGEST_NAME = 255


def find(cursor: Cursor, filename: str, source: str, sha256: str) -> dict[str, Any] | None:
    """The receipt of this very arrival (name, device:inode:mtime of the source, checksum), None if it is a new one."""
    query = "select * from receipts where filename = %s and source = %s and sha256 = %s"
    found = rows(cursor, query, (filename, source, sha256))
    return found[0] if found else None


def record(cursor: Cursor, values: Mapping[str, Any]) -> dict[str, Any]:
    """Insert a receipt: filename, exposure, bytes, sha256, source, arrival, verdict, error_code, reason, path, run_id."""
    row = insert(cursor, "receipts", values, "returning *")
    assert row is not None
    return row


def of_name(dsn: str, filename: str) -> list[dict[str, Any]]:
    """All receipts of a file name, oldest first."""
    return fetch_all(dsn, "select * from receipts where filename = %s order by receipt_id", (filename,))


def store_manifest(
    dsn: str,
    nid: int,
    part: str,
    camera: str,
    filename: str,
    sha256: str,
    files: Sequence[Mapping[str, Any]],
) -> int:
    """Store a manifest as the current one of its night and part; the current one again changes nothing.

    One that was superseded and comes again is the current one again, and supersedes the others.

    Parameters
    ----------
    dsn : str
    nid : int
        Night.
    part : {'night', 'calibration'}
    camera : str
        Name of the camera that took the files.
    filename, sha256 : str
        Name and checksum of the manifest file.
    files : sequence of mappings
        filename, bytes, sha256 of every file that was sent; the same entry twice counts once.

    Returns
    -------
    int
        manifest_id.

    Raises
    ------
    UnreadableFile
        An entry cannot be stored, or two entries of one name differ: the manifest is damaged.
    """
    entries = _entries(files)
    if not _storable(camera):
        raise UnreadableFile(f"the manifest is of a camera with an impossible name: {camera!a}")
    with transaction(dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 3))", (f"manifest/{nid}/{part}",))
        before = rows(
            cursor,
            "select manifest_id, superseded from manifests where filename = %s and sha256 = %s",
            (filename, sha256),
        )
        if before and not before[0]["superseded"]:
            return int(before[0]["manifest_id"])
        cursor.execute(
            "update manifests set superseded = true where nid = %s and part = %s and not superseded", (nid, part)
        )
        if before:
            # Its arrival is now, because the patience for what it names begins anew.
            known = int(before[0]["manifest_id"])
            query = "update manifests set superseded = false, arrival = now() where manifest_id = %s"
            cursor.execute(query, (known,))
            return known
        values = {"nid": nid, "part": part, "camera": camera, "filename": filename, "sha256": sha256}
        row = insert(cursor, "manifests", values, "returning manifest_id")
        key = int(row["manifest_id"]) if row else 0
        psycopg2.extras.execute_values(
            cursor,
            "insert into manifest_files (manifest_id, nid, filename, bytes, sha256) values %s",
            [(key, nid, *entry) for entry in entries],
        )
        return key


def _entries(files: Sequence[Mapping[str, Any]]) -> list[tuple[str, int | None, str | None]]:
    """Name, size and checksum of every file of a manifest, once; refuse what the database could not hold."""
    found: dict[str, tuple[str, int | None, str | None]] = {}
    for item in files:
        entry = (str(item["filename"]), item.get("bytes"), item.get("sha256"))
        if not all(_storable(text) for text in (entry[0], entry[2] or "")):
            raise UnreadableFile(f"the manifest has an entry that cannot be stored: {entry[0][:80]!a}")
        if entry[1] is not None and not 0 <= entry[1] <= _LONGEST_FILE:
            raise UnreadableFile(f"the manifest gives {entry[0]} an impossible size: {entry[1]} bytes")
        if found.setdefault(entry[0], entry) != entry:
            raise UnreadableFile(f"the manifest names {entry[0]} twice, with different sizes or checksums")
    return list(found.values())


def _storable(text: str) -> bool:
    """Whether PostgreSQL can keep and index a text: not longer than a file name, no NUL, no half of a surrogate pair."""
    return (
        len(text) <= _LONGEST_NAME
        and "\0" not in text
        and not any("\ud800" <= character <= "\udfff" for character in text)
    )


def current_manifest(dsn: str, nid: int, part: str) -> dict[str, Any] | None:
    """The row of the current manifest of a night and part, None if none has come; it may name no file at all."""
    return fetch_one(dsn, "select * from manifests where nid = %s and part = %s and not superseded", (nid, part))


def manifest_files(dsn: str, nid: int, part: str | None = None) -> list[dict[str, Any]]:
    """What the current manifests of a night say was sent: filename, bytes, sha256, part."""
    query = """
        select f.filename, f.bytes, f.sha256, m.part from manifest_files f join manifests m using (manifest_id)
        where m.nid = %(nid)s and not m.superseded and (%(part)s::text is null or m.part = %(part)s)
        order by f.filename"""
    return fetch_all(dsn, query, {"nid": nid, "part": part})
