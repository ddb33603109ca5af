"""Short connections to PostgreSQL, one transaction each, and fast loading of rows by binary COPY."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extensions
import psycopg2.extras
from psycopg2 import sql

from ztfds.survey.errors import DatabaseDown

Cursor = psycopg2.extensions.cursor
Connection = psycopg2.extensions.connection

_session: ContextVar[tuple[str, Connection] | None] = ContextVar("ztfds_database_session", default=None)
_OPTIONS = "-c search_path=ztf,public -c timezone=UTC"


def connect(dsn: str, *, autocommit: bool = False, timeout_s: int = 10, application: str = "ztfds") -> Connection:
    """Open a connection; the caller closes it soon.

    Parameters
    ----------
    dsn : str
        libpq URL or key-value string.
    autocommit : bool
        True: every statement is its own transaction.
    timeout_s : int
        Longest wait for the server to answer, s.
    application : str
        Name that shows in ``pg_stat_activity``.

    Raises
    ------
    DatabaseDown
        No server answers.
    """
    try:
        connection = psycopg2.connect(
            dsn, connect_timeout=timeout_s, application_name=application, options=_OPTIONS, keepalives_idle=30
        )
    except psycopg2.OperationalError as error:
        raise DatabaseDown(f"cannot connect to the database: {str(error).strip()}") from error
    connection.autocommit = autocommit
    return connection


@contextmanager
def transaction(dsn: str) -> Iterator[Cursor]:
    """One short transaction on a connection of its own: commit at the end, roll back on any error.

    Raises
    ------
    DatabaseDown
        No server answers, or it goes away in the middle. A commit that was under way may or may not have happened: whoever tries
        again must find out, which every function of the registry does.
    """
    kept = _session.get()
    connection = kept[1] if kept and kept[0] == dsn else connect(dsn)
    try:
        with answering(connection), connection, connection.cursor() as cursor:
            yield cursor
    finally:
        if not (kept and connection is kept[1]):
            connection.close()


@contextmanager
def answering(connection: Connection) -> Iterator[None]:
    """Work on a connection of `connect`, with what the server cannot do now as an error that says: try again.

    Raises
    ------
    DatabaseDown
        The server goes away, is full, or ends the transaction because others are in the way (deadlock, lock not available).
    """
    try:
        yield
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        if connection.closed or isinstance(error, psycopg2.InterfaceError) or _is_passing(error):
            raise DatabaseDown(f"the database does not answer now: {str(error).strip()}") from error
        raise


@contextmanager
def session(dsn: str) -> Iterator[None]:
    """Let several look-ups in a row share one connection; nothing is computed inside.

    Every `transaction` on the same database inside the block is one on this connection; nested ones are not allowed.

    Raises
    ------
    DatabaseDown
        No server answers.
    """
    connection = connect(dsn)
    token = _session.set((dsn, connection))
    try:
        yield
    finally:
        _session.reset(token)
        connection.close()


def _is_passing(error: psycopg2.Error) -> bool:
    """Whether an error passes: the server stops, starts, is full (SQLSTATE 57P, 08, 53), or others are in the way (40, 55P03)."""
    code = error.pgcode or ""
    return code.startswith(("57P", "08", "53", "40", "55P03"))


def fetch_all(dsn: str, query: str | sql.Composable, parameters: object = None) -> list[dict[str, Any]]:
    """Rows of one query as dictionaries, over a connection of its own."""
    with transaction(dsn) as cursor:
        return rows(cursor, query, parameters)


def fetch_one(dsn: str, query: str | sql.Composable, parameters: object = None) -> dict[str, Any] | None:
    """First row of one query as a dictionary, None without rows."""
    found = fetch_all(dsn, query, parameters)
    return found[0] if found else None


def rows(cursor: Cursor, query: str | sql.Composable, parameters: object = None) -> list[dict[str, Any]]:
    """Rows of one query as dictionaries, inside a running transaction."""
    cursor.execute(query, parameters)  # type: ignore[arg-type]
    if cursor.description is None:
        return []
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def insert(cursor: Cursor, table: str, values: Mapping[str, Any], tail: str = "") -> dict[str, Any] | None:
    """Insert one row; `tail` is what follows the values, e.g. ``on conflict do nothing`` or ``returning product_id``."""
    statement = sql.SQL("insert into {} ({}) values ({}) {}").format(
        sql.Identifier("ztf", table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
        sql.SQL(tail),
    )
    found = rows(cursor, statement, [plain(value) for value in values.values()])
    return found[0] if found else None


def plain(value: object) -> object:
    """A value as psycopg2 understands it: numpy scalars become Python's, dictionaries become JSON, NaN in JSON null."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return psycopg2.extras.Json(json_safe(value))
    return value


def json_safe(value: Any) -> Any:
    """The same value without numpy types and with NaN or infinity as None, ready for a JSON column."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, str):
        return value.replace("\0", "")  # the one character that PostgreSQL cannot keep
    return value if value is None or isinstance(value, bool | int | float) else str(value)


# -- binary COPY -------------------------------------------------------------------------------------------------------

_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_COPY_TRAILER = struct.pack(">h", -1)
_WIRE = {
    "smallint": ">i2",
    "integer": ">i4",
    "bigint": ">i8",
    "real": ">f4",
    "double precision": ">f8",
    "boolean": "u1",
}


def binary_copy(columns: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Rows in PostgreSQL's binary COPY format, built by numpy without a Python loop over rows (text columns apart).

    Parameters
    ----------
    columns : sequence of (type, array)
        PostgreSQL type (smallint, integer, bigint, real, double precision, boolean, text) and the values, each of shape (n,).
        Null: NaN in real and double precision, a masked element of a masked array, None in an object array of text.

    Returns
    -------
    bytes
        Header, n tuples, trailer (PostgreSQL documentation, "COPY", section "Binary Format").
    """
    n = len(columns[0][1])
    fields = [_wire_fields(kind, values) for kind, values in columns]
    lengths = np.stack([length for _, length in fields], axis=1)
    starts = 2 + np.cumsum(lengths, axis=1) - lengths
    size = 2 + lengths.sum(axis=1)
    first = np.cumsum(size) - size
    out = np.empty(int(size.sum()), np.uint8)
    out[first[:, None] + np.arange(2)] = np.frombuffer(struct.pack(">h", len(columns)), np.uint8)
    for j, (payload, length) in enumerate(fields):
        inside = np.arange(payload.shape[1])[None, :] < length[:, None]
        target = (first + starts[:, j])[:, None] + np.arange(payload.shape[1])
        out[target[inside]] = payload[inside]
    return _COPY_HEADER + (out.tobytes() if n else b"") + _COPY_TRAILER


def _wire_fields(kind: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length-prefixed bytes of one column: (n, longest) uint8 and the number of bytes used per row; null is length -1."""
    if kind == "text":
        return _wire_text(values)
    null = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else np.zeros(len(values), bool)
    plain = np.asarray(np.ma.getdata(values))
    if kind in ("real", "double precision"):
        null = null | np.isnan(plain)
    wire = np.ascontiguousarray(plain.astype(_WIRE[kind]))
    width = wire.dtype.itemsize
    payload = np.empty((len(wire), 4 + width), np.uint8)
    payload[:, :4] = np.frombuffer(struct.pack(">i", width), np.uint8)
    payload[:, 4:] = wire.view(np.uint8).reshape(len(wire), width)
    payload[null, :4] = 0xFF
    return payload, np.where(null, 4, 4 + width)


def _wire_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for text; None is null."""
    encoded = [None if value is None else str(value).encode() for value in values.tolist()]
    used = np.array([4 + len(text or b"") for text in encoded], np.int64)
    payload = np.zeros((len(encoded), int(used.max(initial=4))), np.uint8)
    for i, text in enumerate(encoded):
        item = struct.pack(">i", -1) if text is None else struct.pack(">i", len(text)) + text
        payload[i, : len(item)] = np.frombuffer(item, np.uint8)
    return payload, used


def copy_rows(cursor: Cursor, table: str, columns: Mapping[str, tuple[str, np.ndarray]]) -> int:
    """Load rows into a table by binary COPY inside the running transaction; returns their number.

    Parameters
    ----------
    cursor : psycopg2 cursor
    table : str
        Table of the schema ``ztf``.
    columns : mapping of column name to (type, array of shape (n,))
        As for `binary_copy`.
    """
    if not columns or not len(next(iter(columns.values()))[1]):
        return 0
    statement = sql.SQL("copy {} ({}) from stdin with (format binary)").format(
        sql.Identifier("ztf", table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    cursor.copy_expert(statement, io.BytesIO(binary_copy(list(columns.values()))))
    return len(next(iter(columns.values()))[1])
