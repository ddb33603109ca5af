"""Packets leave the outbox only when the archive of their night holds them to the byte."""

import hashlib

import pytest
from test_backup import small

from ztfds.operations import alertarchive
from ztfds.operations.day import nightfiles
from ztfds.registry import database as db
from ztfds.registry import outbox
from ztfds.registry.outbox import Alert
from ztfds.survey.errors import BugOrConfiguration, ChecksumMismatch, FilesMissing

__all__ = ["small"]
NID = 900


def queue(dsn, *numbers, programid=1, days=40):
    packets = [(n, b"packet %d " % n * 50) for n in numbers]
    with db.transaction(dsn) as cursor:
        cursor.execute("select ensure_night(%s)", (NID,))
        outbox.queue(cursor, [Alert(n, f"ZTF{n}", "e", 1, "t", NID, programid, c) for n, c in packets])
        cursor.execute(
            "update alert_outbox set state = 'sent', acked = now() - make_interval(days => %s) where candid = any(%s)",
            (days, list(numbers)),
        )
    return dict(packets)


def rows(dsn):
    query = "select candid, packet, archive_path, state, bytes from alert_outbox order by candid"
    return {row["candid"]: row for row in db.fetch_all(dsn, query)}


def test_old_acknowledged_packets_go_to_the_archive_of_their_program(small):
    packets = queue(small.dsn, 1, 2, 3) | queue(small.dsn, 11, 12, programid=2)
    done = nightfiles.prune_outbox(small, 30)
    assert done.figures == {"pruned": 5, "bytes": sum(len(p) for p in packets.values())}
    for candid, row in rows(small.dsn).items():
        assert row["packet"] is None and row["state"] == "sent" and row["bytes"] == len(packets[candid])
        assert dict(alertarchive.read_archive(small.archive / row["archive_path"]))[candid] == packets[candid]
    public, other = (
        dict(alertarchive.read_archive(p)) for p in sorted((small.archive / "alerts").rglob("*.gz"), reverse=True)
    )
    assert set(public) == {1, 2, 3} and set(other) == {11, 12}
    registered = db.fetch_all(small.dsn, "select kind, programid from products where kind like 'alerts%' order by kind")
    assert [tuple(r.values()) for r in registered] == [("alerts_program2", 2), ("alerts_public", None)]
    assert nightfiles.prune_outbox(small, 30).figures["pruned"] == 0


def test_young_and_unacknowledged_nights_stay(small):
    queue(small.dsn, 1, 2, days=10)
    assert nightfiles.prune_outbox(small, 30).figures["pruned"] == 0
    with db.transaction(small.dsn) as cursor:
        cursor.execute("update alert_outbox set acked = now() - interval '50 days'")
        cursor.execute("update alert_outbox set state = 'sending' where candid = 2")
    done = nightfiles.prune_outbox(small, 30)
    assert done.state == "warn" and "1 alerts of program 1 are not acknowledged" in done.line
    assert all(row["packet"] is not None for row in rows(small.dsn).values())


def test_late_alerts_of_a_pruned_night_get_a_new_archive_with_all(small):
    first = queue(small.dsn, 1, 3)
    nightfiles.prune_outbox(small, 30)
    second = queue(small.dsn, 2)
    made = alertarchive.archive_alerts(small, NID)
    assert dict(alertarchive.read_archive(made.path)) == first | second and "v002" in str(made.path)
    assert alertarchive.archive_alerts(small, NID).sha256 == made.sha256
    nightfiles.prune_outbox(small, 30)
    assert all(row["packet"] is None for row in rows(small.dsn).values())
    assert dict(alertarchive.read_archive(alertarchive.archive_alerts(small, NID).path)) == first | second


def test_nothing_goes_while_the_archive_is_damaged_or_gone(small):
    queue(small.dsn, 1, 2)
    path = alertarchive.archive_alerts(small, NID).path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch):
        nightfiles.prune_outbox(small, 30)
    assert all(row["packet"] is not None for row in rows(small.dsn).values())
    path.unlink()
    assert nightfiles.prune_outbox(small, 30).figures["pruned"] == 2  # made anew first
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(content).hexdigest()
    with db.transaction(small.dsn) as cursor:
        cursor.execute("insert into alert_outbox (candid, objectid, exposure, topic, bytes, nid, programid, state, archive_path)"
                       " values (9, 'o', 'e', 't', 1, %s, 1, 'sent', 'x')", (NID,))  # fmt: skip
    with pytest.raises(BugOrConfiguration, match="1 packets are neither"):
        alertarchive.archive_alerts(small, NID)
    path.unlink()
    with pytest.raises(FilesMissing):
        alertarchive.archive_alerts(small, NID)
