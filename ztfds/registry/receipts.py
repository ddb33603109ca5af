"""Receipts of arrived files and manifests of sent ones: what accountability is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2.extras

from ztfds.registry.database import Cursor, fetch_all, insert, rows, transaction


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
    """Store a manifest as the current one of its night and part; the same manifest again changes nothing.

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
        filename, bytes, sha256 of every file that was sent.

    Returns
    -------
    int
        manifest_id.
    """
    with transaction(dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (nid,))
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 3))", (f"manifest/{nid}/{part}",))
        before = rows(
            cursor, "select manifest_id from manifests where filename = %s and sha256 = %s", (filename, sha256)
        )
        if before:
            return int(before[0]["manifest_id"])
        cursor.execute("update manifests set superseded = true where nid = %s and part = %s", (nid, part))
        values = {"nid": nid, "part": part, "camera": camera, "filename": filename, "sha256": sha256}
        row = insert(cursor, "manifests", values, "returning manifest_id")
        key = int(row["manifest_id"]) if row else 0
        psycopg2.extras.execute_values(
            cursor,
            "insert into manifest_files (manifest_id, nid, filename, bytes, sha256) values %s",
            [(key, nid, f["filename"], f.get("bytes"), f.get("sha256")) for f in files],
        )
        return key


def manifest_files(dsn: str, nid: int, part: str | None = None) -> list[dict[str, Any]]:
    """What the current manifests of a night say was sent: filename, bytes, sha256, part."""
    query = """
        select f.filename, f.bytes, f.sha256, m.part from manifest_files f join manifests m using (manifest_id)
        where m.nid = %(nid)s and not m.superseded and (%(part)s::text is null or m.part = %(part)s)
        order by f.filename"""
    return fetch_all(dsn, query, {"nid": nid, "part": part})
