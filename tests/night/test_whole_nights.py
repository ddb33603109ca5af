"""A whole night of the tiny camera through real Airflow, PostgreSQL and Kafka, then nights with bad files and killed services."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import fastavro
import psutil
import pytest
from observatory import Observatory

from ztfds.operations.postgres import EmbeddedPostgres
from ztfds.registry import database
from ztfds.simulator.schedule import Plan
from ztfds.survey import ids

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


def test_the_night_is_accounted_for(observatory: Observatory) -> None:
    summary = observatory.summary
    assert summary.problems == []
    assert summary.sent == summary.received == summary.processed == summary.archived > 0
    assert (summary.quarantined, summary.lost, summary.duplicated) == (0, 0, 0)
    assert summary.alerts == summary.alerts_acknowledged == summary.alerts_in_topics > 0
    assert summary.alerts_doubled == 0


def test_the_products_are_good(observatory: Observatory) -> None:
    summary = observatory.summary
    assert summary.astrometry_mas_ra is not None and summary.astrometry_mas_ra <= 60
    assert summary.astrometry_mas_dec is not None and summary.astrometry_mas_dec <= 60
    assert summary.zeropoint_rms_mag is not None and summary.zeropoint_rms_mag <= 0.03
    assert summary.psf_pull_width is not None and 0.8 <= summary.psf_pull_width <= 1.2
    assert summary.scorr_width is not None and 0.95 <= summary.scorr_width <= 1.05
    assert summary.transients_injected_snr10 >= 20
    assert summary.transients_alerted_snr10 >= 0.95 * summary.transients_injected_snr10


def test_the_report_and_the_summary_are_kept(observatory: Observatory) -> None:
    assert json.loads((observatory.home / "summary.json").read_text())["sent"] == observatory.summary.sent
    page = Path(observatory.summary.report).read_text()
    assert "every file accounted for" in page and "data:image/png;base64," in page
    kept = database.fetch_one(
        observatory.context.dsn, "select path from products where kind = 'nightreport_html' and vbest > 0"
    )
    assert kept is not None and (observatory.context.archive / kept["path"]).is_file()


def test_alerts_are_readable_with_the_real_schema(observatory: Observatory, real_data: Path) -> None:
    parts = ("candidate", "prv_candidate", "fp_hist", "cutout")
    named = {
        f"ztf.alert.{part}": json.loads((real_data / "alerts/schema" / f"{part}.avsc").read_text()) for part in parts
    }
    known: dict[str, object] = {}
    for part in parts:
        fastavro.parse_schema(named[f"ztf.alert.{part}"], named_schemas=known)
    schema = fastavro.parse_schema(
        json.loads((real_data / "alerts/schema/alert.avsc").read_text()), named_schemas=known
    )
    row = database.fetch_one(
        observatory.context.dsn,
        "select candid, packet from alert_outbox where packet is not null order by candid desc limit 1",
    )
    assert row is not None
    (packet,) = fastavro.reader(io.BytesIO(bytes(row["packet"])), reader_schema=schema)
    assert packet["candid"] == packet["candidate"]["candid"] == row["candid"]
    assert packet["schemavsn"] == "4.02"
    assert all(packet[f"cutout{name}"]["stampData"] for name in ("Science", "Template", "Difference"))


def test_history_grows_from_exposure_to_exposure(observatory: Observatory) -> None:
    rows = database.fetch_all(
        observatory.context.dsn, "select packet from alert_outbox where programid = 2 and packet is not null"
    )
    lengths = [
        len(packet["prv_candidates"] or [])
        for row in rows
        for packet in fastavro.reader(io.BytesIO(bytes(row["packet"])))
    ]
    assert max(lengths) >= 1


def test_bad_files_have_a_named_state_and_stop_nobody(observatory: Observatory) -> None:
    plan = observatory.plan("20240313", 10)
    faults = (
        "truncated@0:6", "unreadable@1:6", "mislabelled@2:7", "offgrid@3:6", "duplicate@4:6", "late@5:6", "missing_keyword@6:6",
        "bad_checksum@7:7", "bad_name@8:6", "conflicting@9:7",
    )  # fmt: skip
    observatory.send(plan, faults)
    assert observatory.finish(plan) == "failed", "differences must fail the run loudly"
    inbox = observatory.home / "inbox"
    observatory.wait(
        lambda: not list(inbox.glob("*.fits.fz")), "second copies, sent after the manifest, are taken away"
    )
    expected = {"truncated", "mislabelled", "off_grid", "missing_keyword", "bad_name", "conflicting_duplicate"}
    observatory.wait(
        lambda: expected <= {row["error_code"] for row in _receipts(observatory, plan)}, f"verdicts {sorted(expected)}"
    )
    receipts = _receipts(observatory, plan)
    codes = {row["error_code"] for row in receipts if row["verdict"] != "accepted"}
    assert codes & {"unreadable"} and codes & {"checksum_mismatch", "unreadable"}
    assert sum(row["verdict"] == "duplicate" for row in receipts) == 1
    assert all(row["reason"] for row in receipts if row["verdict"] == "quarantined")
    assert all((observatory.context.archive / row["path"]).is_file() for row in receipts), "nothing is lost"
    good = [state for state in observatory.states(plan).values() if state == "processed"]
    assert len(good) >= 2 * len(plan.exposures) - 8, "bad files must not stop the others"
    result = observatory.account(plan)
    assert result.lost <= 1 and result.duplicates_received >= 1
    assert len(result.differences) >= 6
    observatory.assert_alerts_once(plan)


def _receipts(observatory: Observatory, plan: Plan) -> list[dict[str, Any]]:
    """What was noted about each file that arrived for a night, files without a readable name included."""
    query = (
        "select filename, verdict, error_code, reason, path from receipts where created > now() - interval '30 min'"
        " and (exposure like %s or exposure is null)"
    )
    return database.fetch_all(observatory.context.dsn, query, (f"ztf_{plan.dates[0]}%",))


def test_a_re_sent_night_changes_nothing(observatory: Observatory) -> None:
    plan = observatory.plan("20240314", 3)
    observatory.send(plan)
    observatory.assert_clean(plan, observatory.finish(plan))
    before = observatory.account(plan)
    observatory.send(plan)
    observatory.wait(
        lambda: not list((observatory.home / "inbox").glob("*.fits.fz")), "the second copies are taken away"
    )
    observatory.wait(lambda: observatory.account(plan).duplicates_received == 6, "six duplicates are recognised")
    after = observatory.account(plan)
    assert (after.alerts, after.archived, after.duplicated) == (before.alerts, before.archived, 0)
    observatory.assert_alerts_once(plan)


def test_killed_scheduler(observatory: Observatory) -> None:
    plan = observatory.plan("20240315", 5)
    observatory.send(plan)
    observatory.wait(lambda: len(observatory.states(plan)) >= 2, "work has begun")
    os.kill(observatory.state.processes["scheduler"].pid, signal.SIGKILL)
    observatory.restart()
    observatory.assert_clean(plan, observatory.finish(plan, 400))


def test_killed_worker_in_the_middle_of_a_quadrant(observatory: Observatory) -> None:
    plan = observatory.plan("20240316", 5)
    sender = threading.Thread(target=observatory.send, args=(plan,))
    sender.start()
    running = "select pid from jobs where state = 'running' and step in ('science', 'difference') order by job_id desc limit 1"
    killed: list[int] = []

    def kill_one() -> bool:
        row = database.fetch_one(observatory.context.dsn, running)
        if row is None or not psutil.pid_exists(row["pid"]):
            return False
        os.kill(row["pid"], signal.SIGKILL)
        killed.append(row["pid"])
        return True

    observatory.wait(kill_one, "a quadrant is being worked on")
    sender.join()
    observatory.assert_clean(plan, observatory.finish(plan, 400))
    (killed_job,) = database.fetch_all(
        observatory.context.dsn, "select dataset, state from jobs where pid = %s and state <> 'done'", (killed[0],)
    )
    assert killed_job["state"] in ("running", "killed", "error")
    again = "select 1 from jobs where dataset = %s and pid <> %s and state in ('done', 'skipped')"
    assert database.fetch_one(observatory.context.dsn, again, (killed_job["dataset"], killed[0]))


def test_killed_database(observatory: Observatory) -> None:
    plan = observatory.plan("20240317", 5)
    observatory.send(plan)
    observatory.wait(lambda: len(observatory.states(plan)) >= 2, "work has begun")
    pid = EmbeddedPostgres(observatory.home).status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    observatory.restart()
    observatory.assert_clean(plan, observatory.finish(plan, 400))


def test_killed_broker_delays_alerts_and_nothing_else(observatory: Observatory) -> None:
    plan = observatory.plan("20240318", 4)
    os.kill(observatory.state.processes["kafka"].pid, signal.SIGKILL)
    observatory.send(plan)
    observatory.wait(
        lambda: list(observatory.states(plan).values()).count("processed") == 2 * len(plan.exposures),
        "all is processed",
        200,
    )
    waiting = "select count(*) as n from alert_outbox where nid = %s and state <> 'sent'"
    row = database.fetch_one(observatory.context.dsn, waiting, (ids.nid_of_date(plan.dates[0]),))
    assert row is not None and row["n"] > 0, "alerts wait in the outbox"
    observatory.restart()
    observatory.assert_clean(plan, observatory.finish(plan, 400))


def test_public_packets_hold_public_data_only(observatory: Observatory) -> None:
    rows = database.fetch_all(
        observatory.context.dsn,
        "select objectid, topic, packet from alert_outbox where programid = 1 and packet is not null",
    )
    packets = [packet for row in rows for packet in fastavro.reader(io.BytesIO(bytes(row["packet"])))]
    assert all(row["topic"].endswith("_programid1") for row in rows)
    history = [entry["programid"] for packet in packets for entry in packet["prv_candidates"] or []]
    assert history and set(history) == {1}
    private = database.fetch_all(
        observatory.context.dsn,
        "select 1 from candidates where programid <> 1 and objectid = any(%s)",
        (sorted({row["objectid"] for row in rows}),),
    )
    assert private, "the same objects were seen in private exposures as well: leaving them out is a choice"


def test_no_task_of_a_good_night_failed(observatory: Observatory) -> None:
    rows = database.fetch_all(observatory.context.dsn, "select filename, reason from ccdfiles where state = 'failed'")
    assert rows == []
