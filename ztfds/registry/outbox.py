"""The outbox: alerts that are committed with their candidates and wait until the broker has acknowledged them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extras

from ztfds.registry.database import Cursor, answering, connect, fetch_all, rows
from ztfds.survey.errors import BugOrConfiguration


@dataclass(frozen=True)
class Alert:
    """One packet to send.

    Attributes
    ----------
    candid : int
        Candidate id; the key of the message and of the outbox, so that one detection is never sent twice.
    objectid, exposure, topic : str
    rcid, nid, programid : int
    packet : bytes
        The Avro container.
    """

    candid: int
    objectid: str
    exposure: str
    rcid: int
    topic: str
    nid: int
    programid: int
    packet: bytes


def queue(cursor: Cursor, alerts: Sequence[Alert]) -> int:
    """Put alerts into the outbox, in the transaction that registers their candidates.

    An alert that is there already stays as it is: what was sent once is never sent again, even if its difference image was
    made anew. Returns the number of new rows.
    """
    if not alerts:
        return 0
    values = [
        (
            a.candid,
            a.objectid,
            a.exposure,
            a.rcid,
            a.topic,
            psycopg2.Binary(a.packet),
            len(a.packet),
            a.nid,
            a.programid,
        )
        for a in alerts
    ]
    new = psycopg2.extras.execute_values(
        cursor,
        "insert into alert_outbox (candid, objectid, exposure, rcid, topic, packet, bytes, nid, programid) values %s"
        " on conflict (candid) do nothing returning candid",
        values,
        page_size=200,
        fetch=True,
    )
    return len(new)


def waiting_topics(cursor: Cursor) -> list[str]:
    """Topics with queued alerts, the newest first."""
    query = "select topic from alert_outbox where state = 'queued' group by topic order by max(created) desc"
    return [row["topic"] for row in rows(cursor, query)]


def claim(
    cursor: Cursor, topic: str, limit: int, host: str, pid: int, offsets: Mapping[int, int]
) -> tuple[int, list[dict[str, Any]]]:
    """Take queued alerts of a topic for sending; others skip them.

    Parameters
    ----------
    cursor : psycopg2 cursor
        Its transaction must be committed before anything is sent.
    topic : str
    limit : int
        Most alerts.
    host, pid : str, int
        Who sends.
    offsets : mapping of partition to offset
        Ends of the topic's partitions, read before this call: whatever is sent now lies behind them.

    Returns
    -------
    batch_id : int
        0 when nothing waits.
    rows : list of dict
        candid, packet, exposure.
    """
    locked = rows(
        cursor,
        "select candid from alert_outbox where topic = %s and state = 'queued' order by created, candid"
        " limit %s for update skip locked",
        (topic, limit),
    )
    if not locked:
        return 0, []
    cursor.execute(
        "insert into alert_batches (topic, host, pid, offsets) values (%s, %s, %s, %s) returning batch_id",
        (topic, host, pid, psycopg2.extras.Json({str(k): v for k, v in offsets.items()})),
    )
    (batch,) = cursor.fetchone() or (0,)
    taken = rows(
        cursor,
        "update alert_outbox set state = 'sending', batch_id = %s, attempt = attempt + 1 where candid = any(%s)"
        " returning candid, packet, exposure",
        (batch, [row["candid"] for row in locked]),
    )
    return int(batch), sorted(taken, key=lambda row: row["candid"])


def acknowledge(cursor: Cursor, acks: Mapping[int, tuple[int, int]]) -> list[str]:
    """Mark alerts as sent: candid to (partition, offset) of the broker's acknowledgement; returns their exposures."""
    if not acks:
        return []
    done = psycopg2.extras.execute_values(
        cursor,
        "update alert_outbox o set state = 'sent', acked = now(), kafka_partition = v.p, kafka_offset = v.o"
        " from (values %s) as v (candid, p, o) where o.candid = v.candid and o.state <> 'sent' returning o.exposure",
        [(candid, partition, offset) for candid, (partition, offset) in acks.items()],
        template="(%s::bigint, %s::integer, %s::bigint)",
        page_size=1000,
        fetch=True,
    )
    return sorted({exposure for (exposure,) in done})


def count_of_program(dsn: str, nid: int, programid: int) -> int:
    """Number of a night's alerts of one program."""
    query = "select count(*)::int as n from alert_outbox where nid = %s and programid = %s"
    return int(fetch_all(dsn, query, (nid, programid))[0]["n"])


def pruned_of_program(dsn: str, nid: int, programid: int) -> int:
    """Number of a night's alerts of one program whose packets have left the outbox for the archive."""
    query = (
        "select count(*)::int as n from alert_outbox where nid = %s and programid = %s"
        " and packet is null and archive_path is not null"
    )
    return int(fetch_all(dsn, query, (nid, programid))[0]["n"])


def packets_of_program(dsn: str, nid: int, programid: int, *, only_kept: bool = False) -> Iterator[tuple[int, bytes]]:
    """Packets of a night's alerts of one program, by candidate number; some hundred are in memory at a time.

    With `only_kept` those whose packets have left the outbox are passed over.

    Yields
    ------
    (candid, bytes)

    Raises
    ------
    BugOrConfiguration
        A packet is no longer in the outbox.
    """
    connection = connect(dsn)
    try:
        with answering(connection), connection, connection.cursor("packets") as cursor:
            cursor.itersize = 200
            cursor.execute(
                "select candid, packet from alert_outbox where nid = %s and programid = %s"
                " and not (%s and packet is null and archive_path is not null) order by candid",
                (nid, programid, only_kept),
            )
            for candid, packet in cursor:
                if packet is None:
                    raise BugOrConfiguration(f"the packet of alert {candid} is no longer in the outbox")
                yield int(candid), bytes(packet)
    finally:
        connection.close()


def requeue(cursor: Cursor, batch_id: int) -> int:
    """Put what a batch did not deliver back into the queue; returns how many."""
    statement = "update alert_outbox set state = 'queued', batch_id = null where batch_id = %s and state = 'sending'"
    cursor.execute(statement, (batch_id,))
    return cursor.rowcount


def finish_batch(cursor: Cursor, batch_id: int) -> None:
    """Close a batch of which nothing is unsettled."""
    cursor.execute("update alert_batches set finished = now() where batch_id = %s", (batch_id,))


def unsettled_batches(cursor: Cursor, settle_s: float) -> list[dict[str, Any]]:
    """Batches with alerts in the state ``sending`` that began long enough ago to have nothing in flight any more."""
    return rows(
        cursor,
        "select b.batch_id, b.topic, b.offsets, array_agg(o.candid) as candids from alert_batches b"
        " join alert_outbox o on o.batch_id = b.batch_id and o.state = 'sending'"
        " where b.started < now() - make_interval(secs => %s) group by b.batch_id order by b.batch_id",
        (settle_s,),
    )


def waiting(dsn: str) -> int:
    """Number of alerts of all nights that are not acknowledged; cheap, however many were sent."""
    found = fetch_all(dsn, "select count(*)::int as n from alert_outbox where state <> 'sent'")
    return int(found[0]["n"])


def counts(dsn: str, nid: int | None = None) -> dict[str, int]:
    """Number of alerts by state (queued, sending, sent), of one night or of all."""
    found = fetch_all(
        dsn,
        "select state, count(*)::int as n from alert_outbox where %(nid)s::int is null or nid = %(nid)s group by state",
        {"nid": nid},
    )
    return {"queued": 0, "sending": 0, "sent": 0} | {row["state"]: row["n"] for row in found}
